"""What a run is promised: it can be stopped, killed, resumed and repeated, and nothing is lost."""

import csv
import errno
import importlib
import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["v0_bigram", "v1_transformer", "v2_bpe_rope", "v3_alibi", "v4_gqa_swiglu", "v5_ngpt"]
WORDS = "a the old fox owl café river saw lost found her red key map. Who knows? Zoë!\n".split(" ")
TEXT = " ".join(random.Random(1).choices(WORDS, k=600))
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
FILES = {"config.json", "metrics.csv", "best.pt", "tokenizer.json", "loss.png", "sample.txt"}
Done = namedtuple("Done", "status out err")

every_version = pytest.mark.parametrize("name", NAMES)
resumable = pytest.mark.parametrize("name", NAMES[1:])
with_tokens = pytest.mark.parametrize("name", NAMES[2:])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, request):
    """The working directory is an empty folder with a text; pictures are not drawn."""
    if "real_plots" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", lambda self, file: file.write(b"a picture"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    Path("text.txt").write_text(TEXT, encoding="utf-8", newline="")


@pytest.fixture
def real_plots():
    """loss.png is a picture."""


def small(name, **more):
    """Flags of a run that takes a tenth of a second."""
    n = NAMES.index(name)
    settings = dict(data="text.txt", block_size=8, batch_size=2, max_steps=6, evals=3, device="cpu")
    settings |= {"max_new_tokens": 5}
    settings |= {"n_layer": 1, "n_head": 2, "n_embd": 8, "dtype": "float32"} if n >= 1 else {}
    settings |= {"vocab_size": 270} if n >= 2 else {}
    settings |= {"n_kv_head": 1, "d_ff": 12} if n >= 4 else {}
    settings |= more
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def call(name, *words, encoding="utf-8"):
    """Run a version's command line in this process. An exception that main lets through fails."""
    sys.argv = [f"{name}.py", *map(str, words)]
    out, err, status = io.TextIOWrapper(io.BytesIO(), encoding), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            importlib.import_module(name).main()
        except SystemExit as stop:
            status = stop.code or 0
            if isinstance(status, str):
                status = print(status, file=err) or 1
    out.flush()
    return Done(status, out.buffer.getvalue().decode(encoding), err.getvalue())


def train(name, *words, **more):
    done = call(name, *small(name, **more), *words)
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
    """What two equal runs share to the last bit: all files but the clock and the command."""
    found = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    del found["config.json"]
    rows = list(csv.DictReader(found["metrics.csv"].decode().splitlines()))
    found["metrics.csv"] = [row | {"seconds": 0} for row in rows]
    for name in {"best.pt", "checkpoint.pt"} & found.keys():
        found[name] = load(Path(folder, name))
    if "checkpoint.pt" in found:
        step, _, losses, rows = found["checkpoint.pt"]["training"]["loop"]
        found["checkpoint.pt"]["training"]["loop"] = (
            step,
            losses,
            [row | {"seconds": 0} for row in rows],
        )
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


def at_step(monkeypatch, name, step, act):
    """Call act(model) when a training draws the batch of this step."""
    module, models = importlib.import_module(name), []
    get_batch, make_optimizers = module.get_batch, module.make_optimizers

    def remember(model, cfg):
        models.append(model)
        return make_optimizers(model, cfg)

    def draw(tokens, cfg, now, device):
        if now == step:
            act(models[-1])
        return get_batch(tokens, cfg, now, device)

    monkeypatch.setattr(module, "make_optimizers", remember)
    monkeypatch.setattr(module, "get_batch", draw)


def stop(model):
    os.kill(os.getpid(), signal.SIGTERM)


def kill(model):
    raise KeyboardInterrupt  # nothing in train catches it: what is on the disk stays as it is


# ------------------------------------------------------------------------------- files and output


@every_version
def test_a_run_says_and_writes_what_it_found(name, real_plots):
    out = train(name)
    module, run = importlib.import_module(name), Path("runs", name, "1")
    checkpoint = {"checkpoint.pt"} - ({"checkpoint.pt"} if name == NAMES[0] else set())
    assert {path.name for path in run.iterdir()} == FILES | checkpoint
    assert max(map(len, out.splitlines())) <= 100

    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    columns = ["step", "seconds", "tokens", "train_loss", "val_loss", "val_bits_per_byte"]
    assert list(rows[0]) == columns
    assert [(row["step"], row["tokens"]) for row in rows] == [("2", "32"), ("4", "64"), ("6", "96")]
    loaded, best = module.load_run(), min(rows, key=lambda row: float(row["val_loss"]))
    assert (str(loaded.step), loaded.folder) == (best["step"], run)
    line = f"best: step {best['step']}, {float(best['val_loss']):.4f} nats/token, "
    assert line + f"{float(best['val_bits_per_byte']):.4f} bits/byte\n" in out
    assert f"saved in {run}: best.pt, loss.png, metrics.csv, sample.txt\n" in out
    assert out.endswith(f'next: python {name}.py sample --prompt "Once"\n')

    saved = json.loads((run / "config.json").read_text())
    assert saved == {"version": name} | asdict(loaded.cfg)
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    sample = (run / "sample.txt").read_text(encoding="utf-8")
    assert f"sample at temperature 0.8:\n\n{sample} [...]\n" in out
    assert call(name, "eval").out in out and call(name, "sample").out in out


@every_version
def test_runs_are_numbered_also_when_they_start_at_once(name, monkeypatch):
    module = importlib.import_module(name)
    cfg, tokenizer = module.Config(), namedtuple("T", "save")(lambda path: None)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: module.create_folder(cfg, tokenizer), range(16)))
    assert {path.name for path in folders} == {str(i) for i in range(1, 17)}
    Path("runs", name, "40").mkdir()
    Path("runs", name, "a name").mkdir()
    assert module.create_folder(cfg, tokenizer) == Path("runs", name, "41")
    numbers = iter([40, 41])  # another run takes number 41 after this one looked
    monkeypatch.setattr(module, "last_number", lambda: next(numbers))
    assert module.create_folder(cfg, tokenizer) == Path("runs", name, "42")


@every_version
def test_a_run_is_overwritten_only_when_asked(name):
    train(name, out="a run", seed=1)
    before = snapshot("a run")
    done = call(name, *small(name, out="a run", seed=2))
    assert done.status == 1 and "add --overwrite" in done.err
    done = call(name, *small(name, out="a run", data="missing.txt"), "--overwrite")
    assert done.status == 1 and snapshot("a run") == before
    train(name, "--overwrite", out="a run", seed=2, max_steps=2, evals=1)
    train(name, out="another", seed=2, max_steps=2, evals=1)
    assert same(results("a run"), results("another"))


@every_version
def test_overwriting_leaves_nothing_of_the_old_run(name, monkeypatch):
    train(name, out="run")
    at_step(monkeypatch, name, 0, kill)
    assert call(name, *small(name, out="run"), "--overwrite").err == f"{name}: interrupted\n"
    assert {path.name for path in Path("run").iterdir()} == {"config.json", "tokenizer.json"}


@every_version
def test_a_run_from_another_device_opens(name):
    train(name, out="run")
    config = Path("run/config.json")
    config.write_text(config.read_text().replace('"cpu"', '"cuda:99"'))
    done = call(name, "sample", "--out", "run")
    assert done.status == 1 and "--device cuda:99: not available" in done.err
    assert call(name, "sample", "--out", "run", "--device", "cpu").status == 0


@every_version
def test_the_best_model_is_kept_and_memorizing_is_told(name, monkeypatch):
    module, losses = importlib.import_module(name), iter([2.0, 1.0, 1.1, 1.1])
    monkeypatch.setattr(module, "evaluate", lambda *_: (next(losses), 1.0))
    out = train(name)
    assert module.load_run().step == 4
    told = "The validation loss rose again: the model memorizes. Use more text or fewer steps."
    assert (told in out) == (name != NAMES[0])
    losses = iter([2.0, 1.0, 1.005, 1.1])
    assert told not in train(name)


# ------------------------------------------------------------------------------------------ resume

CASES = [(name, "adamw") for name in NAMES[1:]]
CASES += [(NAMES[4], "muon"), (NAMES[5], "muon"), (NAMES[5], "soap")]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("name, optimizer", CASES)
def test_a_resumed_run_equals_an_unbroken_one(name, optimizer, dropout, monkeypatch):
    more = {"max_steps": 12, "dropout": dropout, "dropout_schedule": "linear"}
    more |= {"optimizer": optimizer} if name in NAMES[4:] else {}
    train(name, out="unbroken", **more)
    with monkeypatch.context() as patch:
        at_step(patch, name, 2, kill)  # before the first save
        assert call(name, *small(name, out="run", **more)).status == 1
    assert "missing" in call(name, "--resume", "--out", "run").err
    with monkeypatch.context() as patch:
        at_step(patch, name, 5, stop)  # between two evaluations: it saves after this step
        done = call(name, *small(name, out="run", **more), "--overwrite")
    again = f"python {name}.py --resume --out run"
    assert done.status == 1
    assert done.err == f"{name}: stopped and saved; continue with: {again}\n"
    assert load("run/checkpoint.pt")["training"]["loop"][0] == 6
    with monkeypatch.context() as patch:
        at_step(patch, name, 10, kill)  # after the evaluation at step 8
        assert call(name, *again.split()[2:]).err == f"{name}: interrupted\n"
    done = call(name, *again.split()[2:])
    assert done.status == 0, done.err
    assert same(results("run"), results("unbroken"))


@resumable
def test_a_finished_run_goes_on_with_a_larger_budget(name):
    train(name)
    run = Path("runs", name, "1")
    before = (run / "metrics.csv").read_text()
    words = "--max-steps 12 --evals 6 --temperature 0 --eval-tokens 100 --dtype auto".split()
    done = call(name, "--resume", *words)
    assert done.status == 0, done.err
    after = (run / "metrics.csv").read_text()
    assert after.startswith(before)
    assert re.findall(r"^\d+", after, re.M) == ["2", "4", "6", "8", "10", "12"]
    saved = json.loads((run / "config.json").read_text())
    assert (saved["max_steps"], saved["temperature"], saved["n_embd"]) == (12, 0, 8)
    module = importlib.import_module(name)
    assert module.MAY_CHANGE <= {field.name for field in fields(module.Config)}


@resumable
def test_a_refused_resume_leaves_the_run_as_it_is(name):
    train(name)
    Path("other.txt").write_text(TEXT.replace("fox", "owl"), encoding="utf-8")
    Path("twin.txt").write_text(TEXT, encoding="utf-8", newline="")
    before = snapshot(f"runs/{name}")
    refused = [("", "the budget is used up"), ("--max-steps 4", "the budget is used up")]
    refused += [
        ("--max-steps 12 --learning-rate 0.5", "other settings than {'learning_rate': 0.5}")
    ]
    refused += [("--max-steps 12 --data other.txt", "other settings than {'text': ")]
    refused += [("--max-steps 12 --batch-size 4 --seed 3", "'batch_size': 4")]
    refused += [("--max-steps 12 --n-layer 2", "checkpoint.pt: missing, damaged or of other")]
    for words, message in refused:
        done = call(name, "--resume", *words.split())
        assert done.status == 1 and message in done.err and done.err.count("\n") == 1, words
        assert snapshot(f"runs/{name}") == before, words
    assert call(name, *"--resume --max-steps 12 --data twin.txt".split()).status == 0


@resumable
def test_a_budget_in_seconds(name, monkeypatch):
    monkeypatch.setattr("time.perf_counter", itertools.count().__next__)  # a step takes 1 second
    assert "budget   8 seconds; " in train(name, max_seconds=8, max_steps=2, evals=4)
    metrics = Path("runs", name, "1", "metrics.csv")
    rows = [row.split(",")[:2] for row in metrics.read_text().splitlines()]
    assert rows[1:] == [["2", "2.0"], ["4", "4.0"], ["6", "6.0"], ["8", "8.0"]]
    assert "used up" in call(name, "--resume").err
    done = call(name, *"--resume --max-seconds 12".split())
    assert done.status == 0 and metrics.read_text().splitlines()[-1].startswith("12,12.0,")


# --------------------------------------------------------------------------------- signals, kills


@pytest.mark.parametrize("name, number", [(NAMES[1], signal.SIGINT), (NAMES[5], signal.SIGTERM)])
def test_a_signal_saves_and_says_how_to_resume(name, number):
    words = small(name, out="run", max_steps=1_000_000, evals=100_000)
    command = [sys.executable, "-u", ROOT / f"{name}.py", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, **pipes) as process:
        while not re.match(r" +10 ", process.stdout.readline()):  # the first evaluation
            pass
        process.send_signal(number)
        _, err = process.communicate()
    again = f"python {name}.py --resume --out run"
    assert err == f"{name}: stopped and saved; continue with: {again}\n"
    assert process.returncode == 1
    step = load("run/checkpoint.pt")["training"]["loop"][0]
    done = call(name, "--resume", "--out", "run", "--max-steps", step + 4, "--evals", 1)
    assert done.status == 0, done.err
    assert Path("run/metrics.csv").read_text().splitlines()[-1].startswith(f"{step + 4},")


def test_a_second_signal_ends_a_run_at_once():
    program = """if True:
        import os, sys, v1_transformer as v
        press = lambda *_: os.kill(os.getpid(), 2)
        get_batch, v.save_progress = v.get_batch, press
        v.get_batch = lambda *args: press() or get_batch(*args)
        v.main()"""
    command = [sys.executable, "-c", program, *small(NAMES[1])]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def fill_disk(monkeypatch, n):
    """From the n-th write of a file on, half of it is written, then the disk is full."""
    write_bytes, count = Path.write_bytes, itertools.count(1)

    def write(path, content):
        if next(count) < n:
            return write_bytes(path, content)
        write_bytes(path, bytes(content)[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write)


def check_whole(folder):
    """Every file of a run is whole or absent."""
    for path in [*Path(folder).glob("*"), *Path("runs/cache").glob("*")]:
        if path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".npy":
            assert len(np.load(path))
        elif path.suffix == ".csv":
            assert {line.count(",") for line in path.read_text().splitlines()} == {5}, path
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".png":
            assert path.read_bytes() == b"a picture"


@every_version
def test_a_full_disk_at_any_write_loses_nothing(name, monkeypatch):
    n = NAMES.index(name)
    train(name, out="unbroken")
    for write in itertools.count(1, 1 if n in (0, 1) else 4):
        Path("runs").exists() and os.system("rm -r runs")  # so that the ids are written again
        with monkeypatch.context() as patch:
            fill_disk(patch, write)
            done = call(name, *small(name, out="run"), "--overwrite")
        check_whole("run")
        if done.status == 0:
            break
        assert done.err == f"{name}: [Errno 28] No space left on device\n"
        for leftover in Path("run").glob("*.tmp"):
            leftover.unlink()
        is_started = Path("run/checkpoint.pt").exists()
        again = "--resume --out run".split() if is_started else small(name, out="run")
        done = call(name, *again, *([] if is_started else ["--overwrite"]))
        if "used up" not in done.err:  # all but the sample was written
            assert done.status == 0, done.err
            assert same(results("run"), results("unbroken"))
    assert write > 10


@every_version
def test_two_processes_may_write_a_file_at_once(name, monkeypatch):
    module, path, write_bytes = importlib.import_module(name), Path("file"), Path.write_bytes

    def write(target, content):
        if content == b"first":
            with open(target, "wb", buffering=0) as file, monkeypatch.context() as patch:
                file.write(b"fi")  # half-way through, another process writes the file
                patch.setattr("os.getpid", lambda: -1)
                module.write_file(path, b"second")
                assert path.read_bytes() == b"second"
                return file.write(b"rst")
        return write_bytes(target, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    module.write_file(path, b"first")
    assert path.read_bytes() == b"first" and snapshot().keys() == {"file", "text.txt"}


@every_version
def test_non_finite_numbers_are_never_saved(name, monkeypatch):
    def spoil(model):
        next(model.parameters()).data.fill_(torch.nan)
        before.update(snapshot("run"))

    for act in (spoil, lambda model: (spoil(model), stop(model)))[: 1 if name == NAMES[0] else 2]:
        before = {}
        with monkeypatch.context() as patch:
            at_step(patch, name, 4, act)  # the evaluation at step 4 has written all files
            done = call(name, *small(name, out="run"), "--overwrite")
        assert done.status == 1 and "not finite; try a lower --learning-rate" in done.err
        assert done.err.count("\n") == 1
        assert {"run/best.pt", "run/metrics.csv"} < before.keys() and snapshot("run") == before
    assert importlib.import_module(name).load_run("run").step > 0


# ------------------------------------------------------------------------- tokens, text, samples


@with_tokens
def test_token_ids_are_encoded_once(name, monkeypatch):
    train(name)
    before = snapshot("runs/cache")
    assert len(before) == 2  # training and validation split
    with monkeypatch.context() as patch:
        patch.setattr("numpy.save", None)
        train(name)
        assert call(name, "eval").status == 0
    assert snapshot("runs/cache") == before
    train(name, vocab_size=280)  # other tokens, other ids
    Path("text.txt").write_text(TEXT + "More.", encoding="utf-8")
    train(name)
    assert len(snapshot("runs/cache")) == 6


@with_tokens
def test_a_text_is_read_in_blocks(name):
    module, text = (
        importlib.import_module(name),
        "a é語\r\n😀\n" * 400_000,
    )  # 3.2 million characters
    Path("long.txt").write_text("\ufeff" + text, encoding="utf-8", newline="")
    for start, stop in ((0, sys.maxsize), (2**20 - 1, 2**20 + 1), (2_000_000, 3_000_000), (5, 5)):
        blocks = list(module.read_blocks("long.txt", start, stop))
        assert "".join(blocks) == text[start:stop]
        assert max(map(len, blocks), default=0) <= 2**20


class Screen(io.StringIO):
    """A stdout that remembers what stood on it at each flush."""

    shown = ()

    def flush(self):
        self.shown += (self.getvalue().partition(":\n\n")[2],)


def sample(module, monkeypatch, text, **more):
    """Let a model without choice say a text, a character or byte a token; returns the screens."""
    cfg = module.Config(prompt="P", device="cpu", **more)
    n = NAMES.index(module.NAME)
    tokenizer = module.CharTokenizer(text + "P") if n < 2 else module.BPETokenizer()
    ids = (torch.tensor([i]) for i in tokenizer.encode(text))
    monkeypatch.setattr(module, "generate", lambda *_: ids)
    with redirect_stdout(Screen()) as screen:
        returned = module.print_sample(module.Run(None, cfg, tokenizer, None, 0))
    assert screen.getvalue().endswith(returned + "\n")
    return returned, screen.shown


@every_version
def test_a_sample_appears_as_it_is_drawn_in_whole_characters(name, monkeypatch):
    module, text = importlib.import_module(name), "aé語😀e\u0301 \ufffd!"
    returned, shown = sample(module, monkeypatch, text)
    assert returned == "P" + text
    assert all(("P" + text).startswith(part) for part in shown)
    assert {"Pa", "Paé", "Paé語", "Paé語😀", "Paé語😀e"} <= set(shown)
    if name not in NAMES[:2]:  # a byte that begins a character which does not come
        module = importlib.import_module(name)
        monkeypatch.setattr(module.BPETokenizer, "encode", lambda self, text: [228 - 33, 64 - 33])
        assert sample(module, monkeypatch, "")[0][0] == "P"


@every_version
def test_the_stop_string_is_never_shown(name, monkeypatch):
    module, rng = importlib.import_module(name), random.Random(2)
    assert sample(module, monkeypatch, "One sto stop stops", stop="stop")[0] == "POne sto "
    for _ in range(200):
        text = "".join(rng.choices("abé", k=rng.randint(1, 12)))
        stop = "".join(rng.choices("abé", k=rng.randint(1, 4)))
        returned, shown = sample(module, monkeypatch, text, stop=stop)
        assert returned == "P" + text.partition(stop)[0]
        assert all(returned.startswith(part) for part in shown), (text, stop, shown)
