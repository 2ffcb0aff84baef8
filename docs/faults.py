"""Plant each fault of docs/faults.toml in a copy, train both for some steps, and write docs/faults.json.

    python docs/faults.py                # all, some ten minutes on two cores
    python docs/faults.py layout nan     # some of them; the others keep their figures

A fault that shows in generation only (`cache`) is measured on one trained model: the bits of the token after a
prompt, by the length of the prompt, with the prompt read into the cache and without a cache.
"""

import contextlib
import importlib.util
import io
import json
import math
import sys
import tempfile
import tomllib
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
RESULT = DOCS / "faults.json"
FAULTS = tomllib.loads((DOCS / "faults.toml").read_text(encoding="utf-8"))["fault"]
RUNS = [
    {"label": "as it is", "planted": False, "settings": {}},
    {"label": "with the fault", "planted": True, "settings": {}},
]
STEPS = {"block_size": 128, "max_steps": 250, "evals": 10, "eval_tokens": 16_000}
trained = {}  # the curves and folders of runs that several faults share


def source(fault, planted=True):
    """The text of a fault's file, with or without the fault."""
    text = (ROOT / f"{fault['file']}.py").read_text(encoding="utf-8")
    for old, new in fault["edits"] if planted else ():
        assert text.count(old) == 1, (fault["id"], old)
        text = text.replace(old, new)
    return text


def module(folder, fault, planted):
    """A version as a module, with or without the fault."""
    path = Path(folder, f"{fault['id']}_{planted}", f"{fault['file']}.py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(source(fault, planted), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"{fault['id']}_{planted}", path)
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # dataclasses look their module up
    spec.loader.exec_module(found)
    return found


def train(folder, fault, run):
    """Train one run; returns [[step, bits/byte], ...] of the validation split, and the run's folder."""
    key = str((fault["file"], run["planted"] and fault["id"], run["settings"]))
    if key not in trained:
        version, out = module(folder, fault, run["planted"]), Path(folder, f"run{len(trained)}")
        cfg = version.Config(data=str(ROOT / "input.txt"), out=str(out), **STEPS, **run["settings"])
        with contextlib.redirect_stdout(io.StringIO()):
            version.train(cfg)
        rows = (out / "metrics.csv").read_text().splitlines()[1:]
        cells = [row.split(",") for row in rows]
        trained[key] = [[int(row[0]), round(float(row[5]), 4)] for row in cells], out
        print(f"{fault['id']}, {run['label']}: {trained[key][0][-1][1]:.4f} bits/byte", flush=True)
    return trained[key]


def after_prompts(folder, fault):
    """Bits of the token after a prompt, by the prompt's length, without a cache and through it."""
    import torch

    _, out = train(folder, fault, RUNS[0])
    curves = {}
    for run in RUNS:
        version = module(folder, fault, run["planted"])
        state = version.load_run(out)
        tokens = torch.from_numpy(
            version.load_corpus(state.cfg, state.tokenizer).val.astype("int64")
        )
        points = []
        for length in (1, 2, 4, 8, 16, 32, 64, 128):
            starts = torch.arange(0, len(tokens) - length - 1, (len(tokens) - length) // 400)
            window = tokens[starts[:, None] + torch.arange(length + 1)]  # (400, length + 1)
            with torch.inference_mode():
                caches = [[] for _ in state.model.blocks]
                logits = state.model(window[:, :-1], caches=caches)[0][:, -1]
            loss = torch.nn.functional.cross_entropy(logits, window[:, -1]).item()
            points.append([length, round(loss / math.log(2), 4)])
        curves[run["label"]] = points
        print(f"{fault['id']}, {run['label']}: {points}", flush=True)
    return curves


def main():
    sys.path.insert(0, str(ROOT))
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for fault in FAULTS:
            if sys.argv[1:] and fault["id"] not in sys.argv[1:]:
                continue
            if fault["id"] == "cache":
                curves = after_prompts(folder, fault)
            else:
                runs = fault.get("runs", RUNS)
                curves = {run["label"]: train(folder, fault, run)[0] for run in runs}
            found[fault["id"]] = curves
            text = json.dumps({f["id"]: found[f["id"]] for f in FAULTS if f["id"] in found})
            RESULT.write_text(text.replace('}, "', '},\n"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
