"""What the tests share: the versions, small models of any of them, and their command lines."""

import importlib
import io
import random
import sys
from collections import namedtuple
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # wherever pytest is started
torch.set_num_threads(1)  # tensors this small are slower on several threads

NAMES = sorted(path.stem for path in ROOT.glob("v[0-9]_*.py"))
VOCAB = 13
TINY = dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=32, d_ff=48, block_size=8, batch_size=4)
TINY |= dict(device="cpu", dtype="float32", max_steps=10)
WORDS = "a the old fox owl café river saw lost found her red key map. Who knows? Zoë!\n".split(" ")
TEXT = " ".join(random.Random(1).choices(WORDS, k=600))
Done = namedtuple("Done", "status out err")


def load_version(number):
    return importlib.import_module(NAMES[number])


def number(version):
    return int(version.NAME[1])


def versions(*numbers):
    """Parametrize a test over the versions with these numbers: versions(4, 5)."""
    modules = [pytest.param(load_version(i), id=f"v{i}") for i in numbers]
    return pytest.mark.parametrize("version", modules)


every_version = versions(0, 1, 2, 3, 4, 5)
from_v1 = versions(1, 2, 3, 4, 5)
from_v2 = versions(2, 3, 4, 5)
from_v4 = versions(4, 5)


# --- models


def known(version, settings):
    """Of these settings those that the version has."""
    names = {f.name for f in fields(version.Config)}
    return {name: value for name, value in settings.items() if name in names}


def make_config(version, **changes):
    cfg = version.Config(**known(version, TINY | changes))
    cfg.check()
    return cfg


def make_model(version, std=0.0, vocab_size=VOCAB, **changes):
    """A small model for evaluation; with `std` all its weights are far from where they start."""
    torch.manual_seed(0)
    model = version.LanguageModel(make_config(version, **changes), vocab_size)
    if std:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p) * std)
        if hasattr(model, "normalize_matrices"):
            model.normalize_matrices()
    return model.eval()


def take_step(version, model, cfg, optimizers, step, idx, targets):
    """What `train` does in a step, without clipping; returns the loss."""
    version.set_schedules(cfg, model, optimizers, step / cfg.max_steps, step)
    _, loss = model(idx, targets)
    model.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()


def all_tokens(version, model, prompt, n, block_size=8, **how):
    """The tokens (B, n) that `generate` yields."""
    return torch.stack(list(version.generate(model, prompt, n, block_size, **how)), dim=1)


def assert_equal_logits(ours, theirs, lengths):
    """The same logits from two models, for windows of several lengths."""
    for T in lengths:
        idx = torch.randint(VOCAB, (3, T))
        with torch.no_grad():
            expected = theirs(idx).logits
            assert expected.std() > 0.3  # the comparison is not one of zeros
            torch.testing.assert_close(ours(idx)[0], expected, rtol=0, atol=1e-4)


# --- command lines


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory is an empty folder with a text; pictures are not drawn."""
    monkeypatch.setattr(Figure, "savefig", lambda self, file: file.write(b"a picture"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    Path("text.txt").write_text(TEXT, encoding="utf-8", newline="")


def small(version, **more):
    """Flags of a training that takes a tenth of a second."""
    settings = dict(data="text.txt", block_size=8, batch_size=2, max_steps=6, evals=3, device="cpu")
    settings |= dict(n_layer=1, n_head=2, n_kv_head=1, n_embd=8, d_ff=12, dtype="float32")
    settings = known(version, settings | dict(vocab_size=270, max_new_tokens=5)) | more
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def call(version, *words, encoding="utf-8"):
    """Run a version's command line in this process. An exception that main lets through fails."""
    sys.argv = [f"{version.NAME}.py", *map(str, words)]
    out, err, status = io.TextIOWrapper(io.BytesIO(), encoding), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            version.main()
        except SystemExit as stop:
            status = stop.code or 0
            if isinstance(status, str):
                status = print(status, file=err) or 1
    out.flush()
    return Done(status, out.buffer.getvalue().decode(encoding), err.getvalue())


def train(version, *words, encoding="utf-8", **more):
    """A small training that succeeds; returns what it printed."""
    done = call(version, *small(version, **more), *words, encoding=encoding)
    assert (done.status, done.err) == (0, ""), done
    return done.out


def snapshot(folder="."):
    """The content of every file in a folder."""
    return {str(p): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def load(path):
    """The content of a checkpoint, which stands under the name of its version."""
    (state,) = torch.load(path, weights_only=True).values()
    return state


def results(folder):
    """What two equal runs share to the last bit: all files but config.json, without the clock."""
    found = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    rows = [line.split(b",") for line in found.pop("metrics.csv").splitlines()]
    found["metrics"] = [row[:1] + row[2:] for row in rows]
    del found["config.json"]  # which holds the last command
    for name in {"best.pt", "checkpoint.pt"} & found.keys():
        found[name] = load(Path(folder, name))
    if "checkpoint.pt" in found:
        step, _, losses, _ = found["checkpoint.pt"]["training"]["loop"]
        found["checkpoint.pt"]["training"]["loop"] = step, losses
    return found


def same(a, b):
    """Whether two results are equal, tensors to the last bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
