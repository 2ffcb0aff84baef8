"""A run can be stopped, killed, resumed and repeated, and nothing is lost: six versions, tiny models, on the CPU."""

import builtins
import csv
import errno
import importlib
import io
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["v0_bigram", "v1_transformer", "v2_bpe_rope", "v3_alibi", "v4_gqa_swiglu", "v5_ngpt"]
WORDS = "a the old fox owl café river saw lost found her his red key map and then, slept. Who knows? Zoë!\n".split(" ")
TEXT = " ".join(random.Random(1).choices(WORDS, k=600))
FILES = {"config.json", "metrics.csv", "checkpoint.pt", "best.pt", "tokenizer.json", "loss.png", "sample.txt"}

every_version = pytest.mark.parametrize("name", NAMES)
token_versions = pytest.mark.parametrize("name", NAMES[2:])


def small(name, **more):
    """Settings of a run that takes a tenth of a second."""
    n = NAMES.index(name)
    sizes = {"data": "text.txt", "block_size": 8, "batch_size": 2, "max_steps": 6, "evals": 3, "max_new_tokens": 5}
    sizes |= {"device": "cpu", "dtype": "float32"}
    sizes |= {"n_layer": 1, "n_head": 2, "n_embd": 8, "dropout": 0.2} if n >= 1 else {}
    sizes |= {"vocab_size": 270} if n >= 2 else {}
    sizes |= {"n_kv_head": 1, "d_ff": 12} if n >= 4 else {}
    return sizes | more


def flags(settings):
    """{"max_steps": 6, "resume": True} -> ["--max-steps", "6", "--resume"]."""
    words = []
    for key, value in settings.items():
        words += ["--" + key.replace("_", "-")] + ([] if value is True else [str(value)])
    return words


def variants(name):
    """The settings under which a resumed run must equal an unbroken one."""
    n = NAMES.index(name)
    cases = [{}, {"dtype": "bfloat16"}]
    if n >= 1:
        cases = [{"dropout": 0.3}, {"dropout": 0.3, "dropout_schedule": "linear"}]
        cases += [{"dropout": 0.3, "dropout_schedule": "linear", "dtype": "bfloat16"}]
    if n >= 4:
        kinds = [{"optimizer": "adamw"}, {"optimizer": "muon"}]
        kinds += [{"optimizer": "soap", "soap_frequency": 2}] if n == 5 else []
        cases = [kind | cases[i] for kind in kinds for i in (1, 2)]
    return cases


def label(value):
    return "-".join(map(str, value.values())) or "plain" if isinstance(value, dict) else str(value)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, request):
    """An empty folder with a text to learn from, as the working directory; plots and flushes take no time."""
    if "real_plots" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", lambda self, file, **how: file.write(b"a picture"))
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8", newline="")
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and it matters to a power cut only
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    handlers = {number: signal.signal(number, unhandled) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_num_threads(threads)


def unhandled(number, frame):
    """A signal that training did not take ends the test, not all tests."""
    raise AssertionError(f"signal {number} was not handled")


@pytest.fixture
def real_plots():
    """For tests that look at loss.png."""


def load(path):
    """A checkpoint, read as data."""
    return torch.load(path, map_location="cpu", weights_only=True)


def metrics(run):
    """The rows of metrics.csv without the clock; checks that none is torn, missing a column, or out of order."""
    content = Path(run, "metrics.csv").read_text()
    assert content.endswith("\n")
    head, *rows = csv.reader(content.splitlines())
    assert rows and all(len(row) == len(head) for row in rows)
    rows = [dict(zip(head, row, strict=True)) for row in rows]
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(set(steps))
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def same(a, b):
    """Whether two checkpoints, or parts of them, are equal to the last bit; the clock aside."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        keys = a.keys() - {"seconds"}
        return keys == b.keys() - {"seconds"} and all(same(a[key], b[key]) for key in keys)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def assert_same_run(a, b):
    """Two run folders hold the same weights, optimizer state and metrics, bit for bit."""
    assert metrics(a) == metrics(b)
    for name in ("checkpoint.pt", "best.pt"):
        one, other = load(Path(a, name)), load(Path(b, name))
        assert same(one["model"], other["model"])
        assert same(one, other)
    assert "optimizer" in load(Path(a, "checkpoint.pt"))


def stop_after(monkeypatch, module, step, number=signal.SIGINT, times=1):
    """Let a signal arrive in the middle of a step."""
    whole = module.train_step

    def train_step(*args):
        progress = next(arg for arg in args if isinstance(arg, module.Progress))
        if progress.step + 1 == step:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return whole(*args)

    monkeypatch.setattr(module, "train_step", train_step)


def interrupt(monkeypatch, module, step, settings, number=signal.SIGINT):
    """Train until a signal stops it after `step` steps; returns the error that says so."""
    with monkeypatch.context() as patch, pytest.raises(module.Halt) as stopped:
        stop_after(patch, module, step, number)
        module.train(module.Config(**settings))
    return stopped.value


def call(module, argv, capsys):
    """Exit status, standard output and lines on standard error of a command line."""
    capsys.readouterr()
    try:
        status = module.main(argv)
    except SystemExit as exit:
        status = exit.code
    out, err = capsys.readouterr()
    return status, out, err.splitlines()


# ------------------------------------------------------------------------------------------------------------ resuming


@pytest.mark.parametrize("name, case", [(name, case) for name in NAMES for case in variants(name)], ids=label)
def test_resumed_run_equals_unbroken_run(name, case, monkeypatch):
    module = importlib.import_module(name)
    unbroken = module.train(module.Config(**small(name, **case)))
    error = interrupt(monkeypatch, module, 3, small(name, **case, out="broken"))
    assert error.status == 130
    state = load("broken/checkpoint.pt")
    assert state["progress"]["step"] == 3
    assert not same(state["model"], load(Path(unbroken, "checkpoint.pt"))["model"])
    module.train(module.Config(**small(name, **case, out="broken", resume=True)))
    assert load("broken/checkpoint.pt")["progress"]["step"] == 6
    assert_same_run(unbroken, "broken")


@every_version
def test_resume_at_every_step(name, monkeypatch):
    """A run stopped after each of its steps in turn is still the same run."""
    module = importlib.import_module(name)
    unbroken = module.train(module.Config(**small(name)))
    for step in range(1, 6):
        interrupt(monkeypatch, module, step, small(name, out="broken", resume=step > 1))
    module.train(module.Config(**small(name, out="broken", resume=True)))
    assert_same_run(unbroken, "broken")


@every_version
def test_resume_to_a_larger_budget(name, capsys):
    module = importlib.import_module(name)
    assert call(module, flags(small(name, max_steps=4)), capsys)[0] == 0
    before = load(f"runs/{name}/1/checkpoint.pt")
    assert before["progress"]["step"] == 4
    status, out, err = call(module, ["--resume", "--max-steps", "9"], capsys)
    assert (status, err) == (0, [])
    after = load(f"runs/{name}/1/checkpoint.pt")
    assert after["progress"]["step"] == 9 and not same(before["model"], after["model"])
    assert [int(row["step"]) for row in metrics(f"runs/{name}/1")][-1] == 9
    assert [path.name for path in Path("runs", name).iterdir()] == ["1"]
    assert json.loads(Path("runs", name, "1", "config.json").read_text())["max_steps"] == 9


@every_version
def test_resume_of_a_finished_run_changes_nothing(name, capsys):
    module = importlib.import_module(name)
    module.train(module.Config(**small(name, out="done")))
    shutil.copytree("done", "copy")
    assert call(module, ["--resume", "--out", "done"], capsys)[0] == 0
    assert_same_run("done", "copy")


@every_version
def test_run_folder_can_be_moved(name, monkeypatch, capsys):
    module = importlib.import_module(name)
    unbroken = module.train(module.Config(**small(name)))
    interrupt(monkeypatch, module, 3, small(name, out="here"))
    os.rename("here", "there")
    assert call(module, ["--resume", "--out", "there"], capsys)[0] == 0
    assert not Path("here").exists()
    assert_same_run(unbroken, "there")
    assert call(module, ["eval", "--out", "there"], capsys)[0] == 0


@every_version
def test_metrics_ahead_of_the_checkpoint(name, monkeypatch):
    """A crash between metrics.csv and checkpoint.pt leaves a row too many; it is not there twice in the end."""
    module = importlib.import_module(name)
    unbroken = module.train(module.Config(**small(name)))
    whole = module.save_checkpoint

    def crash(path, model, progress, *args, **more):
        if Path(path).name == "checkpoint.pt" and progress.step == 4:
            raise OSError(errno.EIO, "lost power")
        whole(path, model, progress, *args, **more)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="lost power"):
        patch.setattr(module, "save_checkpoint", crash)
        module.train(module.Config(**small(name, out="broken")))
    assert load("broken/checkpoint.pt")["progress"]["step"] == 2
    module.train(module.Config(**small(name, out="broken", resume=True)))
    assert_same_run(unbroken, "broken")


# ------------------------------------------------------------------------------------------------------------- signals


@pytest.mark.usefixtures("real_plots")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"])
@every_version
def test_signal_finishes_the_step_and_saves(name, number, status, monkeypatch, capsys):
    module = importlib.import_module(name)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        stop_after(patch, module, 5, number)
        code, out, err = call(module, flags(small(name)), capsys)
    assert code == status
    run = Path("runs", name, "1")
    assert load(run / "checkpoint.pt")["progress"]["step"] == 5
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert len(err) == 1 and "step 5" in err[0] and "--resume" in err[0] and str(run) in err[0]
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    command = err[0][err[0].index("--resume") :].split()  # the advice works as it stands
    assert call(module, command, capsys)[0] == 0
    assert load(run / "checkpoint.pt")["progress"]["step"] == 6
    assert {path.name for path in run.iterdir()} == FILES


@every_version
def test_signal_during_evaluation(name, monkeypatch):
    module = importlib.import_module(name)
    unbroken = module.train(module.Config(**small(name)))
    whole = module.evaluate

    def evaluate(*args, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        return whole(*args, **more)

    with monkeypatch.context() as patch, pytest.raises(module.Halt) as stopped:
        patch.setattr(module, "evaluate", evaluate)
        module.train(module.Config(**small(name, out="broken")))
    assert stopped.value.status == 143
    assert load("broken/checkpoint.pt")["progress"]["step"] == 2
    module.train(module.Config(**small(name, out="broken", resume=True)))
    assert_same_run(unbroken, "broken")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("name, number", [("v0_bigram", signal.SIGINT), ("v5_ngpt", signal.SIGTERM)])
def test_signal_to_a_real_process(name, number):
    """The same from outside, by the command line that a reader types."""
    argv = [sys.executable, str(ROOT / f"{name}.py"), *flags(small(name, max_steps=10**7, evals=10**6, out="run"))]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=quiet(), text=True)
    try:
        while process.poll() is None and not Path("run/checkpoint.pt").exists():
            time.sleep(0.05)
        process.send_signal(number)
        err = process.communicate(timeout=300)[1].splitlines()
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert len(err) == 1 and "--resume --out run" in err[0]
    step = load("run/checkpoint.pt")["progress"]["step"]
    assert f"step {step}," in err[0]
    assert Path("run/loss.png").exists()
    module = importlib.import_module(name)
    module.train(module.Config(**small(name, out="run", resume=True, evals=10**6, max_steps=step + 2)))
    assert load("run/checkpoint.pt")["progress"]["step"] == step + 2


def quiet():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "MPLBACKEND": "agg"}


# A process that imports the versions once and forks a child for every training, so that a hundred trainings can be
# killed in the time of a few. argv: the tests' folder, what to do, names of versions. Prints a line per finding.
DRIVER = r"""
import importlib, os, random, signal, sys, time, traceback
sys.path[:0] = [sys.argv[1], os.path.dirname(sys.argv[1])]
import torch
import torch._dynamo, matplotlib.figure, matplotlib.backends.backend_agg  # else every child would import them
matplotlib.figure.Figure().savefig(os.devnull, format="png")
import test_runs as tests
torch.set_num_threads(1)

def child(module, settings, patch=lambda module: None):
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        os.fsync = lambda descriptor: None  # as in the fixture `folder`
        matplotlib.figure.Figure.savefig = lambda self, file, **how: file.write(b"a picture")
        for number in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        patch(module)
        status = module.main(tests.flags(settings))
    finally:
        os._exit(status)

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def at_call(n, how):
    # die at the n-th write of a file: with half of it written, just before it takes its name, or just after
    def patch(module):
        count, replace = [0], os.replace
        def torn(descriptor):
            count[0] += 1
            if count[0] == n and how == "torn":
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                die()
        def renamed(a, b):
            if count[0] >= n and how == "before":
                die()
            replace(a, b)
            if count[0] >= n and how == "after":
                die()
        os.fsync, os.replace = torn, renamed
    return patch

def settings(name, **more):
    optimizer = {"v4_gqa_swiglu": {"optimizer": "muon"}, "v5_ngpt": {"optimizer": "soap", "soap_frequency": 3}}
    dtype = "bfloat16" if name[1] in "135" else "float32"
    return tests.small(name, max_steps=48, evals=6, save_seconds=0.0, dtype=dtype, **optimizer.get(name, {}), **more)

def look(run):
    # what a kill left: True if there is a checkpoint; raises if a file is not whole
    for file in ("checkpoint.pt", "best.pt"):
        if os.path.exists(f"{run}/{file}"):
            tests.load(f"{run}/{file}")
    if os.path.exists(f"{run}/metrics.csv"):
        tests.metrics(run)
    return os.path.exists(f"{run}/checkpoint.pt")

def kill(name):
    module, kills = importlib.import_module(name), 0
    began = time.perf_counter()
    assert ended(child(module, settings(name, out=f"{name}/whole"))) == 0
    took = time.perf_counter() - began
    run, rng = f"{name}/killed", random.Random(name)
    plans = [(n, how) for n in (1, 4, 9) for how in ("torn", "before", "after")] + [None] * 5
    for plan in plans:
        seen = os.path.exists(f"{run}/checkpoint.pt")
        more = {"resume": True} if seen else {"overwrite": True}
        pid = child(module, settings(name, out=run, **more), at_call(*plan) if plan else lambda module: None)
        if plan is None:
            time.sleep(rng.uniform(0, took / 2))
            os.kill(pid, signal.SIGKILL)
        status = ended(pid)
        assert status in (0, -9), (plan, status)
        kills += status == -9
        assert look(run) or not seen, "the checkpoint is gone"
    more = {"resume": True} if os.path.exists(f"{run}/checkpoint.pt") else {"overwrite": True}
    assert ended(child(module, settings(name, out=run, **more))) == 0
    tests.assert_same_run(f"{name}/whole", run)
    left = [path.name for path in tests.Path(run).iterdir() if path.suffix != ".tmp"]  # the killed may leave those
    assert set(left) == tests.FILES, left
    print(name, "killed", kills)

def twice(name):
    module = importlib.import_module(name)
    for number in (signal.SIGINT, signal.SIGTERM):
        run = f"{name}/{number}"
        def patch(module):
            class Monkey:
                setattr = staticmethod(setattr)
            tests.stop_after(Monkey, module, 5, number, times=2)
        assert ended(child(module, tests.small(name, out=run), patch)) == 128 + number
        assert tests.load(f"{run}/checkpoint.pt")["progress"]["step"] == 4  # that of the evaluation before
        assert ended(child(module, tests.small(name, out=run, resume=True))) == 0
    assert ended(child(module, tests.small(name, out=f"{name}/whole"))) == 0
    tests.assert_same_run(f"{name}/whole", run)
    print(name, "left at once")

failed = 0
for name in sys.argv[3:]:
    try:
        {"kill": kill, "twice": twice}[sys.argv[2]](name)
    except BaseException:
        failed = 1
        print(name, "FAILED\n" + traceback.format_exc())
sys.exit(failed)
"""


def drive(what, names):
    argv = [sys.executable, "-c", DRIVER, str(Path(__file__).parent), what, *names]
    return subprocess.run(argv, capture_output=True, text=True, env=quiet(), timeout=600)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_sigkill_at_any_moment():
    """Killed at random moments and inside writes, every version resumes from a whole checkpoint to the same end."""
    result = drive("kill", NAMES)
    assert result.returncode == 0, result.stdout + result.stderr
    killed = [int(line.split()[-1]) for line in result.stdout.splitlines()]
    assert len(killed) == len(NAMES) and min(killed) >= 9, result.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_second_signal_leaves_at_once():
    """Two signals within one step: no more waiting for it, and the last checkpoint is intact."""
    result = drive("twice", NAMES)
    assert result.returncode == 0, result.stdout + result.stderr


def crash(root, *words):
    """benchmarks/crash.py of a copy of the repository, at its shortest."""
    argv = [sys.executable, str(Path(root, "benchmarks", "crash.py")), "--versions", "v0", "--steps", "20", *words]
    return subprocess.run(argv, capture_output=True, text=True, env=quiet(), timeout=600)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_crash_benchmark():
    """The long form of the test above runs, and counts."""
    for _ in range(2):  # the second time its row takes the place of the first
        result = crash(ROOT, "--kills", "3", "--record", "figures.md")
    assert result.returncode == 0, result.stderr
    *_, last = result.stdout.splitlines()
    assert last.startswith("| all |") and last.split("|")[4].strip() == "3", result.stdout
    rows = [line for line in Path("figures.md").read_text().splitlines() if line.startswith("| kills survived | 3, ")]
    assert len(rows) == 1 and "python benchmarks/crash.py --versions v0 --steps 20 --kills 3" in rows[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize(
    "old, new, sign",
    [
        ("default_rng(cfg.seed)", "default_rng((cfg.seed, os.getpid()))", "differs from"),
        (
            "    beside = Path(",
            "    time.sleep(0 * path.write_bytes(content[:99]) + 0.5)\n    beside = Path(",
            "loaded|torn",
        ),
    ],
    ids=["another run", "torn files"],
)
def test_crash_benchmark_red(old, new, sign, tmp_path):
    """It finds batches that a resumed run draws otherwise, and files that are not replaced in one stroke."""
    (tmp_path / "benchmarks").mkdir()
    for file in ("crash.py", "memory.py"):
        shutil.copy(ROOT / "benchmarks" / file, tmp_path / "benchmarks")
    text = (ROOT / "v0_bigram.py").read_text(encoding="utf-8")
    assert text.count(old) == 1
    (tmp_path / "v0_bigram.py").write_text(text.replace(old, new), encoding="utf-8")
    result = crash(tmp_path, "--kills", "9")
    assert result.returncode == 1 and re.search(sign, result.stderr), result.stdout + result.stderr


# -------------------------------------------------------------------------------------------------------- run folders


@pytest.mark.usefixtures("real_plots")
@every_version
def test_run_folder_contents(name, capsys):
    module = importlib.import_module(name)
    status, out, err = call(module, flags(small(name)), capsys)
    assert (status, err) == (0, [])
    run = Path("runs", name, "1")
    assert {path.name for path in run.iterdir()} == FILES
    config = json.loads((run / "config.json").read_text())
    assert config.items() >= {"version": name, **small(name)}.items()
    assert [int(row["step"]) for row in metrics(run)] == [2, 4, 6]
    columns = {"step", "tokens", "train_loss", "val_loss", "val_bits_per_byte"}
    assert all(row.keys() >= columns for row in metrics(run))
    assert [int(row["tokens"]) for row in metrics(run)] == [2 * 2 * 8, 4 * 2 * 8, 6 * 2 * 8]
    image = pytest.importorskip("PIL.Image").open(run / "loss.png")
    assert image.format == "PNG" and min(image.size) > 100
    image.load()
    sample = (run / "sample.txt").read_bytes().decode("utf-8")
    assert sample and sample in out
    best = min(float(row["val_loss"]) for row in metrics(run))
    score = module.evaluate(module.load_run().model, *validation(module, module.load_run()))
    assert score["nats_per_token"] == pytest.approx(best, rel=1e-5)


def validation(module, run):
    corpus = module.load_corpus(run.cfg, run.tokenizer)
    return corpus.val, corpus.val_bytes, run.cfg.block_size


@every_version
def test_numbered_folders(name, capsys):
    """Every training gets the next number; 10 comes after 9; sample, eval and --resume take the newest."""
    module = importlib.import_module(name)
    Path("runs", name, "8").mkdir(parents=True)  # one that never began
    shutil.copytree(ROOT / "tests", Path("runs", name, "notes"), ignore=lambda *_: os.listdir(ROOT / "tests"))
    for number in (9, 10):
        run = module.train(module.Config(**small(name, seed=number, learning_rate=0.02 * (number - 8))))
        assert Path(run) == Path("runs", name, str(number))
    assert module.load_run().cfg.seed == 10 and module.load_run("runs/" + name + "/9").cfg.seed == 9
    newest = call(module, ["eval"], capsys)
    assert newest == call(module, ["eval", "--out", f"runs/{name}/10"], capsys)
    assert newest[1] != call(module, ["eval", "--out", f"runs/{name}/9"], capsys)[1]
    assert call(module, ["sample"], capsys) == call(module, ["sample", "--out", f"runs/{name}/10"], capsys)
    assert call(module, ["--resume", "--max-steps", "7"], capsys)[0] == 0
    assert load(f"runs/{name}/10/checkpoint.pt")["progress"]["step"] == 7
    assert load(f"runs/{name}/9/checkpoint.pt")["progress"]["step"] == 6


@every_version
def test_trainings_of_the_same_moment_get_folders_of_their_own(name, monkeypatch):
    module = importlib.import_module(name)
    count, barrier, glob = 8, threading.Barrier(8), Path.glob
    waited = threading.local()

    def glob_together(self, pattern):
        found = list(glob(self, pattern))
        if not getattr(waited, "done", False):
            waited.done = True
            barrier.wait(300)  # all have looked before anyone makes a folder
        return found

    monkeypatch.setattr(Path, "glob", glob_together)
    cfg = module.Config(**small(name))
    with ThreadPoolExecutor(count) as pool:
        folders = list(pool.map(lambda _: str(module.claim_folder(cfg)), range(count)))
    assert len(set(folders)) == count


def test_two_real_processes_at_the_same_moment():
    argv = [sys.executable, str(ROOT / "v0_bigram.py"), *flags(small("v0_bigram"))]
    pair = [subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=quiet()) for _ in range(2)]
    assert [(process.communicate(timeout=300)[1], process.returncode) for process in pair] == [(b"", 0)] * 2
    assert_same_run("runs/v0_bigram/1", "runs/v0_bigram/2")


@every_version
def test_named_folder_is_not_overwritten_unasked(name, capsys):
    module = importlib.import_module(name)
    named = small(name, out="mine")
    assert call(module, flags(named), capsys)[0] == 0
    before = {path.name: path.read_bytes() for path in Path("mine").iterdir()}
    status, out, err = call(module, flags(named | {"seed": 5}), capsys)
    assert status == 2 and len(err) == 1
    assert "mine" in err[0] and "--resume" in err[0] and "--overwrite" in err[0]
    assert before == {path.name: path.read_bytes() for path in Path("mine").iterdir()}
    assert call(module, flags(named | {"seed": 5, "overwrite": True}), capsys)[0] == 0
    assert json.loads(Path("mine/config.json").read_text())["seed"] == 5
    assert not same(load("mine/checkpoint.pt")["model"], load(io.BytesIO(before["checkpoint.pt"]))["model"])


@pytest.mark.parametrize("left", ["config.json", "checkpoint.pt", "best.pt"])
@every_version
def test_what_is_left_of_a_run_is_not_overwritten_unasked(name, left, capsys):
    """A folder with a checkpoint is a run, even where its config.json was lost."""
    module = importlib.import_module(name)
    module.train(module.Config(**small(name, out="mine")))
    for path in Path("mine").iterdir():
        if path.name != left:
            path.unlink()
    before = Path("mine", left).read_bytes()
    status, out, err = call(module, flags(small(name, out="mine")), capsys)
    assert (status, len(err)) == (2, 1) and Path("mine", left).read_bytes() == before


@every_version
def test_refused_overwrite_keeps_the_old_run(name, capsys):
    """--overwrite replaces a run only when the new one can begin."""
    module = importlib.import_module(name)
    module.train(module.Config(**small(name, out="mine")))
    before = {path.name: path.read_bytes() for path in Path("mine").iterdir()}
    for wrong in ({"data": "nowhere.txt"}, {"block_size": 10**6}, {"device": "nowhere"}, {"batch_size": 0}):
        assert call(module, flags(small(name, out="mine", overwrite=True) | wrong), capsys)[0] == 2
    assert before == {path.name: path.read_bytes() for path in Path("mine").iterdir()}


@every_version
def test_overwrite_leaves_nothing_of_the_old_run(name, monkeypatch):
    """Stopped before its first evaluation, a new run shows no metrics, plot or sample of the one it replaced."""
    module = importlib.import_module(name)
    module.train(module.Config(**small(name, out="mine")))
    Path("mine/sample.txt").write_text("an old story")
    interrupt(monkeypatch, module, 1, small(name, out="mine", overwrite=True, evals=1))
    assert {path.name for path in Path("mine").iterdir()} == {"config.json", "checkpoint.pt", "tokenizer.json"}


# ------------------------------------------------------------------------------------------ budgets and reproducibility


class Clock:
    """A clock that only the test moves."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now

    monotonic = time = perf_counter


def slow(monkeypatch, module):
    """A second per step, a hundred per evaluation."""
    clock, step, evaluate = Clock(), module.train_step, module.evaluate

    def train_step(*args):
        clock.now += 1
        return step(*args)

    def slow_evaluate(*args, **more):
        clock.now += 100
        return evaluate(*args, **more)

    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "train_step", train_step)
    monkeypatch.setattr(module, "evaluate", slow_evaluate)


@every_version
def test_budget_in_seconds_counts_training_only(name, monkeypatch):
    module = importlib.import_module(name)
    slow(monkeypatch, module)
    module.train(module.Config(**small(name, max_steps=0, max_seconds=7, out="run")))
    progress = load("run/checkpoint.pt")["progress"]
    assert (progress["step"], progress["seconds"]) == (7, 7)
    assert len(metrics("run")) == 3
    module.train(module.Config(**small(name, max_steps=0, max_seconds=9, out="run", resume=True)))
    assert load("run/checkpoint.pt")["progress"]["step"] == 9  # it goes on from the checkpoint's count
    module.train(module.Config(**small(name, max_steps=4, max_seconds=9, out="both")))
    assert load("both/checkpoint.pt")["progress"]["step"] == 4  # whichever runs out first
    module.train(module.Config(**small(name, max_steps=40, max_seconds=3, out="other")))
    assert load("other/checkpoint.pt")["progress"]["step"] == 3


@every_version
def test_interrupted_run_with_seconds_loses_nothing(name, monkeypatch):
    module = importlib.import_module(name)
    slow(monkeypatch, module)
    settings = small(name, max_steps=0, max_seconds=6)
    unbroken = module.train(module.Config(**settings))
    interrupt(monkeypatch, module, 3, settings | {"out": "broken"})
    assert load("broken/checkpoint.pt")["progress"]["seconds"] == 3
    module.train(module.Config(**settings, out="broken", resume=True))
    assert_same_run(unbroken, "broken")  # by this clock every second has one step


@every_version
def test_training_loss_is_the_mean_since_the_last_evaluation(name, monkeypatch):
    module = importlib.import_module(name)
    losses, whole = [], module.train_step

    def train_step(*args):
        losses.append((stats := whole(*args))["loss"])
        return stats

    monkeypatch.setattr(module, "train_step", train_step)
    run = module.train(module.Config(**small(name, max_steps=7, evals=2)))
    rows = metrics(run)
    assert [int(row["step"]) for row in rows] == [4, 7]
    assert [float(row["train_loss"]) for row in rows] == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 3])


@every_version
def test_checkpoints_between_evaluations(name, monkeypatch):
    module = importlib.import_module(name)
    slow(monkeypatch, module)
    saved, whole = [], module.save_checkpoint

    def save_checkpoint(path, model, progress, *args, **more):
        saved.append((Path(path).name, progress.step))
        whole(path, model, progress, *args, **more)

    monkeypatch.setattr(module, "save_checkpoint", save_checkpoint)
    module.train(module.Config(**small(name, max_steps=12, evals=1, save_seconds=5)))
    assert [step for path, step in saved if path == "checkpoint.pt"] == [5, 10, 12]


@every_version
def test_same_seed_same_losses(name):
    module = importlib.import_module(name)
    runs = [module.train(module.Config(**small(name, seed=seed, dtype="bfloat16"))) for seed in (1, 1, 2)]
    assert_same_run(runs[0], runs[1])
    assert all(a["train_loss"] != b["train_loss"] for a, b in zip(metrics(runs[0]), metrics(runs[2]), strict=True))


@every_version
def test_what_is_saved_and_evaluated_does_not_matter_to_training(name):
    """More evaluations, more checkpoints, another prompt: the same weights."""
    module = importlib.import_module(name)
    one = module.train(module.Config(**small(name)))
    other = module.train(module.Config(**small(name, evals=6, save_seconds=0.0)))
    assert same(load(one / "checkpoint.pt")["model"], load(other / "checkpoint.pt")["model"])


@every_version
def test_header_says_what_the_result_depends_on(name, capsys):
    module = importlib.import_module(name)
    out = call(module, flags(small(name, seed=77)), capsys)[1].splitlines()
    header = "\n".join(out[:4])
    for part in (name, "parameters", "cpu", "float32", "1 threads", torch.__version__, "77", "text.txt", "6 steps"):
        assert part in header, part


# --------------------------------------------------------------------------------------------------------- as a library


@every_version
def test_library_calls(name, capsys):
    """Config, train, load_run, evaluate, generate, LanguageModel: what notebooks use."""
    module = importlib.import_module(name)
    cfg = module.Config(**small(name))
    run = module.load_run(module.train(cfg), temperature=0.5)
    assert isinstance(run.model, module.LanguageModel) and not run.model.training
    assert (run.cfg.temperature, run.cfg.seed) == (0.5, cfg.seed)
    same_run = module.load_run(str(run.folder))
    assert same(run.model.state_dict(), same_run.model.state_dict())
    tokens, n_bytes, block_size = validation(module, run)
    run.model.train()
    score = module.evaluate(run.model, tokens, n_bytes, block_size)
    assert score == module.evaluate(same_run.model, tokens, n_bytes, block_size)
    assert score["tokens"] == len(tokens) - 1
    nats = score["nats_per_token"]
    assert score["perplexity"] == pytest.approx(math.exp(nats))
    assert score["bits_per_byte"] == pytest.approx(nats * score["tokens"] / n_bytes / math.log(2))
    idx = torch.tensor([run.tokenizer.encode(text)[:4] for text in ("the old fox", "a red key")])
    how = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    drawn = [torch.stack(list(module.generate(run.model, idx, 20, 8, **how, seed=s)), 1) for s in (1, 1, 2)]
    assert drawn[0].shape == (2, 20) and 0 <= drawn[0].min() and drawn[0].max() < run.tokenizer.vocab_size
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    greedy = [torch.stack(list(module.generate(run.model, idx, 9, 8, temperature=0, seed=s)), 1) for s in (1, 2)]
    assert torch.equal(*greedy)
    narrow = torch.stack(list(module.generate(run.model, idx, 9, 8, top_k=1)), 1)
    assert torch.equal(narrow, greedy[0])
    logits, loss = run.model(idx[:, :3], targets=idx[:, 1:4])
    assert logits.shape == (2, 3, run.tokenizer.vocab_size) and loss.shape == ()


@every_version
def test_training_leaves_a_thread_alone(name):
    """Outside the main thread Python allows no signal handlers; training works there too."""
    module = importlib.import_module(name)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(lambda: module.train(module.Config(**small(name)))).result()
    assert load(run / "checkpoint.pt")["progress"]["step"] == 6


# ------------------------------------------------------------------------------------------ losses that are not numbers


@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("name, case", [(n, c) for n in NAMES for c in variants(n)[1::2]], ids=label)
def test_loss_that_is_no_number(name, case, bad, monkeypatch, capsys):
    module = importlib.import_module(name)
    forward, calls = module.LanguageModel.forward, []

    def spoil_the_fifth(self, idx, targets=None, **more):
        logits, loss = forward(self, idx, targets, **more)
        calls.append(self.training)
        return (logits, loss * bad) if loss is not None and self.training and sum(calls) == 5 else (logits, loss)

    settings = small(name, **case, out="run", learning_rate=0.01)
    with monkeypatch.context() as patch:
        patch.setattr(module.LanguageModel, "forward", spoil_the_fifth)
        status, out, err = call(module, flags(settings), capsys)
    assert status == 1 and len(err) == 1
    assert "step 5" in err[0] and "learning rate" in err[0] and "--learning-rate" in err[0]
    assert load("run/checkpoint.pt")["progress"]["step"] == 4
    assert call(module, ["--resume", "--out", "run"], capsys)[0] == 0
    unbroken = module.train(module.Config(**settings | {"out": "whole"}))
    assert_same_run(unbroken, "run")


@pytest.mark.parametrize("name, case", [(n, c) for n in NAMES for c in variants(n)[::2]], ids=label)
def test_loss_that_is_no_number_at_the_first_step(name, case, monkeypatch, capsys):
    module = importlib.import_module(name)
    forward = module.LanguageModel.forward

    def spoil(self, idx, targets=None, **more):
        logits, loss = forward(self, idx, targets, **more)
        return logits, None if loss is None else loss * math.nan

    monkeypatch.setattr(module.LanguageModel, "forward", spoil)
    status, out, err = call(module, flags(small(name, **case)), capsys)
    assert status == 1 and len(err) == 1 and "step 1" in err[0] and "learning rate" in err[0]


@pytest.mark.parametrize("save_seconds", [1000.0, 0.0])
@every_version
def test_weights_that_are_no_numbers_replace_no_checkpoint(name, save_seconds, monkeypatch, capsys):
    """The loss of a step is known before its update: an update that ruins the weights must not be saved as good."""
    module = importlib.import_module(name)
    whole = module.train_step

    def train_step(model, *args):
        stats = whole(model, *args)
        progress = next(arg for arg in args if isinstance(arg, module.Progress))
        if progress.step + 1 == 4:
            with torch.no_grad():
                next(model.parameters()).fill_(math.nan)
        return stats

    monkeypatch.setattr(module, "train_step", train_step)
    status, out, err = call(module, flags(small(name, out="run", save_seconds=save_seconds)), capsys)
    assert status == 1 and len(err) == 1 and "learning rate" in err[0] and "step" in err[0]
    metrics("run")
    for path in ("run/checkpoint.pt", "run/best.pt"):
        assert all(weight.isfinite().all() for weight in load(path)["model"].values()), path


ABSURD = [(name, {"learning_rate": 1e6}) for name in NAMES]
ABSURD += [(name, {"optimizer": "muon", "matrix_learning_rate": 1e6}) for name in NAMES[4:]]
ABSURD += [(NAMES[5], {"optimizer": "soap", "soap_learning_rate": 1e6})]


@pytest.mark.parametrize(("name", "rate"), ABSURD)
def test_absurd_learning_rate(name, rate, capsys):
    """Whatever it does to the weights, it ends in a number or in one line; what was saved stays loadable."""
    module = importlib.import_module(name)
    status, out, err = call(module, flags(small(name, **rate, evals=6, out="run")), capsys)
    assert status in (0, 1) and len(err) == status
    if status:
        assert "step" in err[0] and "learning rate" in err[0]
    if Path("run/best.pt").exists():
        assert call(module, ["eval", "--out", "run"], capsys)[0] == 0


# ---------------------------------------------------------------------------------------------------------- full disks


def fails_at(n, whole, error):
    """A function that does what `whole` does, but raises at its n-th call and after it."""
    count = [0]

    def function(*args, **more):
        count[0] += 1
        if count[0] >= n:
            raise error
        return whole(*args, **more)

    return function


@every_version
def test_every_file_is_flushed_before_it_takes_its_name(name, monkeypatch):
    module = importlib.import_module(name)
    events, replace = [], os.replace

    def renamed(a, b):
        events.append(str(b))
        replace(a, b)

    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("flush"))
    monkeypatch.setattr(os, "replace", renamed)
    module.main(flags(small(name, out="run")))
    assert {Path(file).name for file in events[1::2]} >= FILES
    assert events[::2] == ["flush"] * (len(events) // 2) and "flush" not in events[1::2]


@pytest.mark.parametrize("call_name", ["fsync", "replace"])
@every_version
def test_disk_full_at_any_write(name, call_name, monkeypatch, capsys):
    module = importlib.import_module(name)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for n in range(1, 40):
        run = Path(f"run{n}")
        with monkeypatch.context() as patch:
            patch.setattr(os, call_name, fails_at(n, getattr(os, call_name), full))
            status, out, err = call(module, flags(small(name, out=str(run))), capsys)
        if status == 0:
            break
        assert status == 1 and len(err) == 1 and os.strerror(errno.ENOSPC) in err[0], n
        assert not list(Path().rglob("*.tmp")), "half a file is left"
        for path in run.glob("*.pt"):
            load(path)
        if (run / "checkpoint.pt").exists():
            assert call(module, ["--resume", "--out", str(run)], capsys)[0] == 0
    assert status == 0 and n > 8
    assert_same_run(f"run{n}", f"run{n - 1}")


@every_version
def test_disk_full_keeps_the_previous_checkpoint(name, monkeypatch, capsys):
    module = importlib.import_module(name)
    module.train(module.Config(**small(name, max_steps=4, out="run")))
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    wrong = [(os, "replace"), (os, "fsync"), (builtins, "open")]
    for owner, function in wrong:
        whole = getattr(owner, function)

        def fail(*args, whole=whole, function=function, **more):
            if function != "open" or (len(args) > 1 and set(args[1]) & set("wax+")):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return whole(*args, **more)

        with monkeypatch.context() as patch:
            patch.setattr(owner, function, fail)
            status, out, err = call(module, ["--resume", "--out", "run", "--max-steps", "8"], capsys)
        assert status == 1 and len(err) == 1 and os.strerror(errno.ENOSPC) in err[0]
        assert before == {path.name: path.read_bytes() for path in Path("run").iterdir()}
    assert call(module, ["--resume", "--out", "run", "--max-steps", "8"], capsys)[0] == 0
    assert load("run/checkpoint.pt")["progress"]["step"] == 8


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
@every_version
def test_disk_full_in_the_middle_of_a_file(name, capsys):
    """A limit on the size of files, which the checkpoint exceeds: a real write that really fails half-way."""
    resource = importlib.import_module("resource")
    module = importlib.import_module(name)
    module.train(module.Config(**small(name, max_steps=4, out="run")))
    before = Path("run/checkpoint.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
        status = module.main(["--resume", "--out", "run", "--max-steps", "8"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert status == 1 and Path("run/checkpoint.pt").read_bytes() == before
    assert call(module, ["--resume", "--out", "run", "--max-steps", "8"], capsys)[0] == 0


@every_version
def test_read_only_folder(name, monkeypatch, capsys):
    module = importlib.import_module(name)

    def refuse(self, *args, **more):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        patch.setattr(os, "mkdir", refuse)
        status, out, err = call(module, flags(small(name)), capsys)
    assert status == 1 and len(err) == 1 and os.strerror(errno.EACCES) in err[0] and "runs" in err[0]
    assert not Path("runs", name).exists()


@pytest.mark.skipif(os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="root may write anywhere")
@every_version
def test_really_read_only_folder(name, folder, capsys):
    module = importlib.import_module(name)
    folder.chmod(0o555)
    try:
        status, out, err = call(module, flags(small(name)), capsys)
    finally:
        folder.chmod(0o755)
    assert status == 1 and len(err) == 1


# ---------------------------------------------------------------------------------------------------------- token cache


def cached():
    """The files of the token cache: {name: bytes}."""
    return {path.name: path.read_bytes() for path in Path("runs", "cache").rglob("*") if path.is_file()}


def count_encoding(monkeypatch, module):
    """A list that grows with each long text that a tokenizer encodes."""
    texts = []
    for function in ("encode", "encode_blocks"):
        whole = getattr(module.BPETokenizer, function)

        def encode(self, text, *args, whole=whole, **more):
            texts.append(1 if not isinstance(text, str) or len(text) > 100 else 0)
            return whole(self, text, *args, **more)

        monkeypatch.setattr(module.BPETokenizer, function, encode)
    return texts


@token_versions
def test_token_cache_is_reused(name, monkeypatch):
    module = importlib.import_module(name)
    first = module.train(module.Config(**small(name)))
    files = cached()
    assert files
    texts = count_encoding(monkeypatch, module)
    second = module.train(module.Config(**small(name)))
    assert sum(texts) == 0, "the text was encoded again"
    assert cached() == files
    assert_same_run(first, second)


def test_token_cache_serves_the_next_version(monkeypatch):
    older, newer = (importlib.import_module(name) for name in NAMES[2:4])
    older.train(older.Config(**small(NAMES[2], out="run")))
    files, texts = cached(), count_encoding(monkeypatch, newer)
    newer.train(newer.Config(**small(NAMES[3], tokenizer="run/tokenizer.json")))
    assert sum(texts) == 0 and cached() == files


def flip(at):
    def damage(content):
        content = bytearray(content)
        content[at] ^= 0x41
        return bytes(content)

    return damage


DAMAGE = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "short": lambda content: content[:-1],
    "long": lambda content: content + b"\0\0",
    "other": lambda content: b"PK\x03\x04 no tokens here" * 40,
    "zeros": lambda content: bytes(len(content)),
    "first byte": flip(0),
    "early byte": flip(9),
    "middle byte": lambda content: flip(len(content) // 2)(content),
    "last byte": flip(-1),
    **{f"byte {at}": flip(at) for at in (20, 30, 44, 60, 64, 80)},
}


@pytest.mark.parametrize("damage", DAMAGE)
@token_versions
def test_damaged_token_cache_is_rebuilt(name, damage, capsys):
    module = importlib.import_module(name)
    first = module.train(module.Config(**small(name)))
    files = cached()
    for path in Path("runs", "cache").rglob("*"):
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert call(module, flags(small(name)), capsys)[::2] == (0, [])
    assert_same_run(first, f"runs/{name}/2")
    assert cached() == files


@token_versions
def test_interrupted_caching_leaves_no_half_file(name, monkeypatch, capsys):
    module = importlib.import_module(name)
    first = module.train(module.Config(**small(name)))
    files = cached()
    shutil.rmtree("runs/cache")
    for n in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fails_at(n, os.replace, KeyboardInterrupt()))
            assert call(module, flags(small(name)), capsys)[0] == 130
    assert call(module, flags(small(name, out="again")), capsys)[0] == 0
    assert_same_run(first, "again")
    assert {key: value for key, value in cached().items() if not key.endswith(".tmp")} == files


@token_versions
def test_caching_that_is_terminated_removes_its_half_file(name):
    """A text of some seconds of encoding; SIGTERM comes as soon as its file is there."""
    importlib.import_module(name).train(importlib.import_module(name).Config(**small(name)))
    shutil.rmtree("runs/cache")
    Path("long.txt").write_text(" ".join(f"{n} dog{n % 7}" for n in range(600_000)), encoding="utf-8")
    given = {"data": "long.txt", "tokenizer": f"runs/{name}/1/tokenizer.json"}
    command = [sys.executable, ROOT / f"{name}.py", *flags(small(name, **given))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(Path("runs").glob("cache/*.tmp")):
        time.sleep(0.001)
    process.terminate()
    process.communicate()
    assert process.returncode == 143 and not cached()


@token_versions
def test_half_files_of_killed_runs_are_swept(name):
    module = importlib.import_module(name)
    Path("runs", "cache").mkdir(parents=True)
    old, young = Path("runs/cache/old.ids.1.tmp"), Path("runs/cache/young.ids.2.tmp")
    for path, hours in ((old, 2), (young, 0)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - 3600 * hours,) * 2)
    module.train(module.Config(**small(name)))
    assert young.exists() and not old.exists()


@token_versions
def test_changed_text_is_noticed(name):
    """The same length, the same time of change, one other letter: other tokens."""
    module = importlib.import_module(name)
    tokenizer = f"{module.train(module.Config(**small(name)))}/tokenizer.json"
    stamp = os.stat("text.txt")
    Path("text.txt").write_text(TEXT.replace("fox", "cat"), encoding="utf-8", newline="")
    os.utime("text.txt", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    run = module.load_run(module.train(module.Config(**small(name, tokenizer=tokenizer))))
    corpus = module.load_corpus(run.cfg, run.tokenizer)
    both = np.concatenate((corpus.train, corpus.val[1:])).tolist()
    assert run.tokenizer.decode_bytes(both).decode() == TEXT.replace("fox", "cat")
