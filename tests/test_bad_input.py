"""A user's mistake ends in one message and a status that is not 0: no traceback, nothing lost."""

import importlib
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from test_runs import (
    NAMES,
    ROOT,
    TEXT,
    call,
    every_version,
    folder,
    resumable,
    small,
    snapshot,
    with_tokens,
)

__all__ = ["folder"]  # the fixture that gives every test an empty folder with a text


def refused(name, *words, status=1):
    """Run a command line that must be refused; returns the message. No file may change."""
    before = snapshot()
    done = call(name, *words)
    assert done.status == status, (words, done)
    lines = done.err.splitlines()
    if status == 1:
        assert len(lines) == 1 and lines[0].startswith(f"{name}: "), (words, done.err)
    assert snapshot() == before, words
    return " ".join(done.err.split())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of every version: runs/v0_bigram/1 and so on."""
    home, path = os.getcwd(), tmp_path_factory.mktemp("trained")
    os.chdir(path)
    Path("text.txt").write_text(TEXT, encoding="utf-8", newline="")
    for name in NAMES:
        assert call(name, *small(name)).status == 0
    os.chdir(home)
    return path


@pytest.fixture
def runs(trained):
    """The working directory has a copy of these runs."""
    shutil.copytree(trained, ".", dirs_exist_ok=True)


# ------------------------------------------------------------------------------------------- flags

NUMBERS = (
    "block_size batch_size max_steps evals eval_tokens n_layer n_head n_kv_head n_embd".split()
)
NUMBERS_FROM_0 = "learning_rate muon_learning_rate adamw_learning_rate soap_learning_rate".split()
NUMBERS_FROM_0 += "rope_base dropout warmup weight_decay grad_clip max_seconds seed".split()
NUMBERS_FROM_0 += "vocab_size d_ff max_new_tokens temperature top_k top_p context".split()


@every_version
def test_numbers_out_of_range(name):
    kinds = {field.name: field.type for field in fields(importlib.import_module(name).Config)}
    assert {key for key, kind in kinds.items() if kind in (int, float)} == kinds.keys() & {
        *NUMBERS,
        *NUMBERS_FROM_0,
    }
    for key in [key for key in NUMBERS + NUMBERS_FROM_0 if key in kinds]:
        flag = "--" + key.replace("_", "-")
        values = ["-1", str(2**31)] + ["0"] * (key in NUMBERS)
        values += ["nan", "inf", "-inf", "1e999"] * (kinds[key] is float)
        for value in values:
            assert f"{flag} " in refused(name, flag, value), (flag, value)


@every_version
def test_flags_that_the_command_line_does_not_know(name):
    words = ["--block-size 1.5", "--block-size x", "--seed 1e3", "--learning-rate fast", "--out"]
    words += ["--colour red", "fly", "train sample", "--block-sizes 8", "--seed"]
    words += ["--dtype float16", "--optimizer sgd", "--dropout-schedule up"]
    for line in words:
        message = refused(name, *line.split(), status=2)
        assert line.split()[0] in message or "--" not in line, message
    assert call(name, "--help").status == 0


@resumable
def test_numbers_that_do_not_go_together(name):
    lines = {"--n-head 3": "--n-head 3: must divide --n-embd 128", "--dropout 1": "--dropout"}
    lines |= {} if name == NAMES[5] else {"--warmup 1": "--warmup"}
    lines |= {"--vocab-size 255": "must be 256 or more"} if name in NAMES[2:] else {}
    if name in NAMES[4:]:
        lines |= {"--n-kv-head 3": "--n-kv-head 3: must divide --n-head 4"}
    if name in (NAMES[2], NAMES[4], NAMES[5]):  # RoPE
        lines |= {"--n-embd 12": "--n-head 4: --n-embd / --n-head must be even"}
    for words, message in lines.items():
        assert message in refused(name, *words.split()), words


# -------------------------------------------------------------------------------------------- text


@every_version
def test_texts_that_cannot_be_used(name, runs):
    Path("latin.txt").write_bytes(b"caf\xe9 " * 100)
    Path("utf16.txt").write_text("a text " * 100, encoding="utf-16")
    Path("half.txt").write_bytes("語".encode()[:2])
    Path("folder.txt").mkdir()
    wrong = {"missing.txt": "No such file", "folder.txt": "Is a directory", "": "No such file"}
    wrong |= dict.fromkeys(["latin.txt", "utf16.txt", "half.txt"], "give a UTF-8 text file")
    for data, message in wrong.items():
        for command in ("train", "eval"):
            words = small(name, data=data) if command == "train" else ["--data", data]
            said = refused(name, command, *words)
            assert f"--data {data}" in said and (message in said or not data), said


@every_version
@pytest.mark.filterwarnings("ignore:no pairs left to merge")
def test_texts_that_are_too_short(name):
    shutil.rmtree("runs", ignore_errors=True)
    for text in ("", "a", "\ufeff", "a short text"):
        Path("short.txt").write_text(text, encoding="utf-8")
        done = call(name, *small(name, data="short.txt", block_size=64))
        assert done.status == 1 and "tokens; --block-size needs more" in done.err
        assert not Path("runs", name).exists()


@every_version
@pytest.mark.filterwarnings("ignore:no pairs left to merge")
def test_texts_that_say_one_thing_only(name):
    Path("lines.txt").write_text("\n" * 600)  # for v0 and v1 one token: their loss is exactly 0
    Path("lines.txt.json").write_bytes(b"\xff not the facts of this text")
    done = call(name, *small(name, data="lines.txt", block_size=1))
    assert done.status == 0 or "--block-size needs more" in done.err


@pytest.mark.parametrize("name", NAMES[:2])
def test_characters_that_the_model_does_not_know(name, runs):
    assert "not in the training text: the characters ['語']" in refused(
        name, "sample", "--prompt", "語"
    )
    Path("other.txt").write_text("語 " * 100, encoding="utf-8")
    assert "['語']" in refused(name, "eval", "--data", "other.txt")


@every_version
def test_a_prompt_that_is_not_text(name, runs):
    refused(name, "sample", "--prompt", os.fsdecode(b"\xff"))


@with_tokens
def test_tokenizers_that_cannot_be_used(name):
    Path("bad.json").write_text("{")
    Path("other.json").write_text('["a", "b"]')
    Path("bytes.json").write_bytes(b"\xff\xfe")
    for path in ("missing.json", "bad.json", "other.json", "bytes.json", "."):
        assert path in refused(name, *small(name, tokenizer=path))


# --------------------------------------------------------------------------------------- run files


@every_version
def test_runs_that_are_not_there(name, runs):
    other = NAMES[(NAMES.index(name) + 1) % len(NAMES)]
    assert f"holds a run of {other}" in refused(name, "sample", "--out", f"runs/{other}/1")
    for out in ("missing", "text.txt", "."):
        assert f"{out}: holds no run" in refused(name, "eval", "--out", out)
    shutil.rmtree(f"runs/{name}")
    assert f"runs/{name}/0: holds no run" in refused(name, "sample")
    for out in ("text.txt", "text.txt/run"):  # a file is in the way
        refused(name, *small(name, out=out))
        refused(name, *small(name, out=out), "--overwrite")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def damages(path):
    """Contents that a damaged file may have; None: the file is missing."""
    good = path.read_bytes()
    yield from (None, b"", b"\0" * len(good), good[: len(good) // 2], good[:-1])
    yield from (b"5", b"null", b"[]", b"{}", b"[5]", b'{"a": 5}', b"\xff\xfe", b"garbage")
    if path.suffix == ".pt":
        yield good[: len(good) // 3] + good[len(good) // 2 :]
        yield from (pickle.dumps(what, protocol=2) for what in (Evil(), {"model": 5}, {}))
        for other in Path("runs").glob("*/1/*.pt"):  # of another version, or the other one
            if other != path:
                yield other.read_bytes()


@every_version
@pytest.mark.parametrize("file", ["best.pt", "checkpoint.pt", "tokenizer.json", "config.json"])
def test_damaged_files_of_a_run(name, file, runs):
    path = Path("runs", name, "1", file)
    if not path.exists():
        return  # v0 has no checkpoint.pt
    good = path.read_bytes()
    for content in list(damages(path)):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        words = ["--resume", "--max-steps", "12"] if file == "checkpoint.pt" else ["sample"]
        refused(name, *words)
        assert not Path("evil").exists()
    path.write_bytes(good)
    assert call(name, "sample").status == 0


@every_version
def test_a_run_with_settings_of_another_edition(name, runs):
    config = Path("runs", name, "1", "config.json")
    saved = json.loads(config.read_text())
    for changed in (saved | {"knob": 1}, saved | {"block_size": -1}, saved | {"version": None}):
        config.write_text(json.dumps(changed))
        refused(name, "sample")


@every_version
def test_settings_that_the_weights_do_not_have(name, runs):
    flags = {"v0_bigram": {}, "v1_transformer": {"block_size": 16}}.get(name, {"n_layer": 2})
    for key, value in flags.items():
        message = refused(name, "eval", f"--{key}", str(value))
        assert "best.pt: missing, damaged or of other settings" in message


# -------------------------------------------------------------------------------------- the machine


@every_version
def test_devices_that_are_not_there(name, runs):
    for device in ("cuda:99", "gpu", "", "cpu:x"):
        words = small(name, device=device)
        assert f"--device {device}: not available here" in refused(name, *words)
        assert "not available here" in refused(name, "sample", "--device", device)


@every_version
def test_out_of_memory(name, monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    words = [{"batch_size": 2**31 - 1}] + [{"n_embd": 2**20}] * (name != NAMES[0])
    try:
        resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 2**31, limits[1]))
        for more in words:
            done = call(name, *small(name, **more))
            assert done.status == 1 and done.err.count("\n") == 1
            assert done.err.startswith(f"{name}: out of memory; try a smaller --batch-size"), more
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)

    def fail(*_):
        raise error

    monkeypatch.setattr(importlib.import_module(name), "get_batch", fail)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert "out of memory; try" in call(name, *small(name)).err
    error = RuntimeError("a bug")  # shows where it is
    with pytest.raises(RuntimeError, match="a bug"):
        call(name, *small(name))


@every_version
def test_a_terminal_without_the_letters(name, runs):
    for encoding in ("ascii", "latin-1", "cp1252"):
        done = call(name, "sample", "--prompt", "é" * 3, encoding=encoding)
        assert done.status == 0 and done.err == ""
    Path("語").write_text(Path("text.txt").read_text())
    assert call(name, *small(name, data="語", out="ß"), encoding="ascii").status == 0


def test_a_real_terminal_without_the_letters(runs):
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "v0_bigram.py", "sample", "--prompt"]
    done = subprocess.run([*command, "é"], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"") and b"\n?" in done.stdout
    done = subprocess.run([*command, "語"], env=environment, capture_output=True)
    message = b"v0_bigram: not in the training text: the characters ['\\u8a9e']\n"
    assert (done.returncode, done.stderr) == (1, message)
