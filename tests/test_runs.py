"""What a run is promised: it can be stopped, killed, resumed and repeated, and nothing is lost."""

import csv
import errno
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import (
    ROOT,
    TEXT,
    every_file,
    every_optimizer,
    every_version,
    from_v1,
    from_v2,
    number,
    versions,
)
from matplotlib.figure import Figure
from small_runs import call, check_whole, load, results, same, small, snapshot, train

pytestmark = pytest.mark.usefixtures("folder")
SAVEFIG = Figure.savefig  # before the fixture replaces it


def at_step(monkeypatch, version, step, act):
    """Call act(model) when a training draws the batch of this step."""
    models, get_batch, make_optimizers = [], version.get_batch, version.make_optimizers

    def remember(model, cfg):
        models.append(model)
        return make_optimizers(model, cfg)

    def draw(tokens, cfg, now, device):
        if now == step:
            act(models[-1])
        return get_batch(tokens, cfg, now, device)

    monkeypatch.setattr(version, "make_optimizers", remember)
    monkeypatch.setattr(version, "get_batch", draw)


def stop(model):
    """Ctrl-C, handled by the loop; a second one would end the program at once."""
    os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL


def kill(model):
    raise KeyboardInterrupt  # nothing in train catches it: what is on the disk stays as it is


# --- files and output


@every_version
def test_a_run_says_and_writes_what_it_found(version, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", SAVEFIG)
    out, run = train(version), Path("runs", version.NAME, "1")
    files = {"config.json", "tokenizer.json", "metrics.csv", "loss.png", "best.pt", "sample.txt"}
    files |= {"checkpoint.pt"} if number(version) else set()
    assert {path.name for path in run.iterdir()} == files
    assert max(map(len, out.splitlines())) <= 100

    head, *rows = csv.reader((run / "metrics.csv").read_text().splitlines())
    assert head == "step seconds tokens train_loss val_loss val_bits_per_byte".split()
    assert [(row[0], row[2]) for row in rows] == [("2", "32"), ("4", "64"), ("6", "96")]
    loaded, best = version.load_run(), min(rows, key=lambda row: float(row[4]))
    assert (str(loaded.step), loaded.folder) == (best[0], run)
    line = (
        f"best: step {best[0]}, {float(best[4]):.4f} nats/token, {float(best[5]):.4f} bits/byte\n"
    )
    assert line in out
    assert f"saved in {run}: best.pt, loss.png, metrics.csv, sample.txt\n" in out
    assert out.endswith(f'next: python {version.NAME}.py sample --out {run} --prompt "Once"\n')

    saved = json.loads((run / "config.json").read_text())
    assert saved == {"version": version.NAME} | asdict(loaded.cfg)
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    sample = (run / "sample.txt").read_text(encoding="utf-8")
    assert f"sample at temperature 0.8:\n\n{sample} [...]\n" in out
    assert call(version, "eval").out in out and call(version, "sample").out in out


@every_file
def test_runs_are_numbered_also_when_they_start_at_once(version):
    cfg, tokenizer = version.Config(), namedtuple("T", "save")(lambda path: None)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: version.create_folder(cfg, tokenizer), range(16)))
    assert {path.name for path in folders} == {str(i) for i in range(1, 17)}
    for name in ("40", "a name"):
        Path("runs", version.NAME, name).mkdir()
    assert version.create_folder(cfg, tokenizer) == Path("runs", version.NAME, "41")


@every_file
def test_a_run_is_overwritten_only_when_asked(version, monkeypatch):
    train(version, out="a run", seed=1)
    before = snapshot("a run")
    done = call(version, *small(version, out="a run", seed=2))
    assert done.status == 1 and "add --overwrite" in done.err
    done = call(version, *small(version, out="a run", data="missing.txt"), "--overwrite")
    assert done.status == 1 and snapshot("a run") == before
    with monkeypatch.context() as patch:
        at_step(patch, version, 0, kill)
        done = call(version, *small(version, out="a run", seed=2), "--overwrite")
    assert done.err == f"{version.NAME}: interrupted\n"  # and nothing of the old run is left:
    assert {path.name for path in Path("a run").iterdir()} == {"config.json", "tokenizer.json"}


@every_version
def test_the_best_model_is_kept_and_memorizing_is_told(version, monkeypatch):
    told = "The validation loss rose again: the model memorizes. Use more text or fewer steps."
    losses = iter([2.0, 1.0, 1.1, 1.1])  # three evaluations while it trains, one of the best model
    monkeypatch.setattr(version, "evaluate", lambda *_: (next(losses), 1.0))
    assert (told in train(version)) == (number(version) > 0)
    assert version.load_run().step == 4
    losses = iter([2.0, 1.0, 1.005, 1.1])
    assert told not in train(version)


# --- resume


@every_optimizer
def test_a_resumed_run_equals_an_unbroken_one(version, kind, monkeypatch):
    """Killed before its first save, stopped by Ctrl-C between two evaluations, killed again."""
    more = {"max_steps": 12, "dropout": 0.3, "dropout_schedule": "linear"}
    more |= {"optimizer": kind} if number(version) >= 4 else {}
    train(version, out="unbroken", **more)
    with monkeypatch.context() as patch:
        at_step(patch, version, 2, kill)
        assert call(version, *small(version, out="run", **more)).status == 1
    assert "missing" in call(version, "--resume", "--out", "run").err
    with monkeypatch.context() as patch:
        at_step(patch, version, 5, stop)  # evaluations are at 4 and 8: it saves after this step
        done = call(version, *small(version, out="run", **more), "--overwrite")
    again = f"python {version.NAME}.py --resume --out run"
    assert done.status == 1
    assert done.err == f"{version.NAME}: stopped and saved; resume: {again}\n"
    assert load("run/checkpoint.pt")["training"]["loop"][0] == 6
    with monkeypatch.context() as patch:
        at_step(patch, version, 10, kill)
        assert call(version, *again.split()[2:]).err == f"{version.NAME}: interrupted\n"
    assert call(version, *again.split()[2:]).status == 0
    assert same(results("run"), results("unbroken"))


@from_v1
def test_a_finished_run_goes_on_with_a_larger_budget(version, monkeypatch):
    """A step takes one second, so that a budget in seconds is known in steps too."""
    monkeypatch.setattr("time.perf_counter", itertools.count().__next__)
    assert "budget   8 seconds; " in train(version, max_seconds=8, max_steps=2, evals=4)
    metrics = Path("runs", version.NAME, "1", "metrics.csv")
    before = metrics.read_text()
    assert re.findall(r"^(\d+),(\d+)", before, re.M) == [(n, n) for n in "2468"]
    words = "--max-seconds 12 --evals 6 --temperature 0 --eval-tokens 100 --dtype auto".split()
    assert call(version, "--resume", *words).status == 0
    after = metrics.read_text()
    assert after.startswith(before)
    assert re.findall(r"^\d+", after, re.M) == ["2", "4", "6", "8", "10", "12"]
    cfg = version.load_run().cfg
    assert (cfg.max_seconds, cfg.temperature, cfg.n_embd) == (12, 0, 8)


@versions(1, 2, 3, 4, 5, 6)
def test_a_refused_resume_leaves_the_run_as_it_is(version):
    train(version)
    Path("other.txt").write_text(TEXT.replace("fox", "owl"), encoding="utf-8")
    Path("twin.txt").write_text(TEXT, encoding="utf-8", newline="")
    before = snapshot(f"runs/{version.NAME}")
    for words, message in (
        ("--max-steps 4", "the budget is used up"),
        ("--max-steps 12 --learning-rate 0.5", "other settings than {'learning_rate': 0.5}"),
        ("--max-steps 12 --data other.txt", "other settings than {'text': "),
        ("--max-steps 12 --n-layer 2", "checkpoint.pt: missing, damaged or of other"),
    ):
        done = call(version, "--resume", *words.split())
        assert done.status == 1 and message in done.err and done.err.count("\n") == 1, words
        assert snapshot(f"runs/{version.NAME}") == before, words
    assert call(version, *"--resume --max-steps 12 --data twin.txt".split()).status == 0


@from_v1
def test_a_run_stopped_in_its_last_step_is_finished(version, monkeypatch):
    at_step(monkeypatch, version, 11, stop)
    done = call(version, *small(version, out="run", max_steps=12))
    assert done.status == 0 and "saved in run: best.pt" in done.out


# --- signals, full disks, numbers that are not finite


@versions(5)
def test_a_signal_ends_a_process_with_a_saved_run(version):
    words = small(version, out="run", max_steps=1_000_000, evals=10_000)
    command, pipe = [sys.executable, "-u", ROOT / "v5_ngpt.py", *words], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        while not re.match(r" +100 ", process.stdout.readline()):  # the first evaluation
            pass
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
    again = "python v5_ngpt.py --resume --out run"
    assert err == f"v5_ngpt: stopped and saved; resume: {again}\n"
    assert process.returncode == 1
    step = load("run/checkpoint.pt")["training"]["loop"][0]
    assert step % 100  # not only what the evaluations save
    assert call(version, *again.split()[2:], "--max-steps", step + 4, "--evals", 1).status == 0
    assert f"\n{step + 4}," in Path("run/metrics.csv").read_text()


@every_file
def test_a_full_disk_at_any_write_leaves_every_file_whole_or_absent(version, monkeypatch):
    write_bytes = Path.write_bytes

    def write(path, content):  # from the n-th write on, half of it is written, then it is full
        if next(count) < n:
            return write_bytes(path, content)
        write_bytes(path, bytes(content)[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write)
    for n in range(1, 100, 2):  # noqa: B007
        shutil.rmtree("runs", ignore_errors=True)  # so that the ids in the cache are written again
        count = itertools.count(1)
        done = call(version, *small(version, out="run"), "--overwrite")
        check_whole("run")
        if done.status == 0:
            break
        assert done.err == f"{version.NAME}: [Errno 28] No space left on device\n"
    assert done.status == 0 and n > 10


@every_file
def test_two_processes_may_write_a_file_at_once(version, monkeypatch):
    replace = Path.replace

    def replace_late(temporary, path):  # before it is renamed, another process writes the file
        monkeypatch.setattr(Path, "replace", replace)
        monkeypatch.setattr("os.getpid", lambda: -1)
        version.write_file(path, b"second")
        return replace(temporary, path)

    monkeypatch.setattr(Path, "replace", replace_late)
    version.write_file(Path("file"), b"first")
    assert snapshot() == {"file": b"first", "text.txt": Path("text.txt").read_bytes()}


@every_file
def test_non_finite_numbers_are_never_saved(version, monkeypatch):
    def spoil(model):
        next(model.parameters()).data.fill_(torch.nan)
        before.update(snapshot("run"))

    for act in (spoil, lambda model: (spoil(model), stop(model)))[: 2 if number(version) else 1]:
        before = {}
        with monkeypatch.context() as patch:
            at_step(patch, version, 4, act)  # the evaluation at step 4 has written all files
            done = call(version, *small(version, out="run"), "--overwrite")
        assert done.status == 1 and "not finite; try a lower --learning-rate\n" in done.err
        assert {"run/best.pt", "run/metrics.csv"} < before.keys() and snapshot("run") == before
    assert version.load_run("run").step > 0


# --- the text


@versions(2, 3, 4, 5, 6)
def test_token_ids_are_encoded_once(version, monkeypatch):
    train(version)
    before = snapshot("runs/cache")
    with monkeypatch.context() as patch:
        patch.setattr("numpy.save", None)
        train(version)
        assert call(version, "eval").status == 0
    assert snapshot("runs/cache") == before and len(before) == 2  # training, validation
    train(version, vocab_size=280)  # other tokens, other ids
    Path("text.txt").write_text(TEXT + "More.", encoding="utf-8")
    train(version)
    assert len(snapshot("runs/cache")) == 6


@from_v2
def test_a_text_is_read_in_blocks(version):
    text = "a é語\r\n😀\n" * 400_000  # 3.2 million characters
    Path("long.txt").write_text("\ufeff" + text, encoding="utf-8", newline="")
    for start, stop in ((0, sys.maxsize), (2**20 - 1, 2**20 + 1), (2_000_000, 3_000_000), (5, 5)):
        blocks = list(version.read_blocks("long.txt", start, stop))
        assert "".join(blocks) == text[start:stop]
        assert max(map(len, blocks), default=0) <= 2**20
