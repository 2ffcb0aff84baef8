"""A user's mistake ends in one message and a status that is not 0: no traceback, nothing lost."""

import json
import os
import pickle
import shutil
from contextlib import chdir
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TEXT, every_file, from_v1, from_v2, load_version, number, use
from small_runs import call, small, snapshot, train

pytestmark = pytest.mark.usefixtures("folder")


def refused(version, *words, status=1):
    """Run a command line that must be refused; returns the message. No file may change."""
    before = snapshot()
    done = call(version, *words)
    assert done.status == status, (words, done)
    if status == 1:
        assert done.err.startswith(f"{version.NAME}: ") and done.err.count("\n") == 1, done.err
    assert snapshot() == before, words
    return " ".join(done.err.split())


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with a run of every version: runs/v0_bigram/1 and so on."""
    path = tmp_path_factory.mktemp("trained")
    with chdir(path):
        Path("text.txt").write_text(TEXT, encoding="utf-8", newline="")
        for i in range(7):
            train(load_version(i))
    return path


@pytest.fixture
def runs(trained, folder):
    """The working directory has a copy of these runs."""
    shutil.copytree(trained, ".", dirs_exist_ok=True)


# --- flags

FROM_1 = "block_size batch_size max_steps evals eval_tokens n_layer n_head n_kv_head n_embd".split()


@every_file
def test_numbers_out_of_range(version):
    for field in (field for field in fields(version.Config) if field.type in (int, float)):
        flag = "--" + field.name.replace("_", "-")
        values = ["-1", str(2**31)] + ["0"] * (field.name in FROM_1)
        values += ["nan", "inf", "-inf"] * (field.type is float)
        for value in values:
            assert f"{flag} " in refused(version, flag, value), (flag, value)


@every_file
def test_flags_that_the_command_line_does_not_know(version):
    for line in (
        *("--block-size 1.5", "--seed 1e3", "--learning-rate fast", "--out", "--color red"),
        *("fly", "train sample", "--block-sizes 8", "--dtype float16", "--optimizer sgd"),
    ):
        message = refused(version, *line.split(), status=2)
        assert line.split()[0] in message or "--" not in line, message


@from_v1
def test_numbers_that_do_not_go_together(version):
    n, lines = number(version), {"--n-head 3": "--n-head 3: must divide --n-embd 128"}
    lines |= {"--dropout 1": "--dropout"} | ({} if n == 5 else {"--warmup 1": "--warmup"})
    lines |= {"--vocab-size 255": "must be 256 or more"} if n >= 2 else {}
    lines |= {"--n-kv-head 3": "--n-kv-head 3: must divide --n-head 4"} if n >= 4 else {}
    if n in (2, 4, 5):  # RoPE
        lines |= {"--n-embd 12": "--n-head 4: --n-embd / --n-head must be even"}
    for words, message in lines.items():
        assert message in refused(version, *words.split()), words


# --- text


@every_file
def test_texts_that_cannot_be_used(version, runs):
    Path("latin.txt").write_bytes(b"caf\xe9 " * 100)
    Path("half.txt").write_bytes("語".encode()[:2])
    Path("folder.txt").mkdir()
    for data in ("missing.txt", "folder.txt", "latin.txt", "half.txt"):
        for words in (small(version, data=data), ["eval", "--data", data]):
            said = refused(version, *words)
            assert f"--data {data}: " in said and "give a UTF-8 text file" in said, said


@every_file
@pytest.mark.filterwarnings("ignore:no pairs left to merge")
def test_texts_that_are_too_short_or_say_one_thing_only(version):
    for text in ("", "a", "\ufeff", "a short text"):
        Path("short.txt").write_text(text, encoding="utf-8")
        done = call(version, *small(version, data="short.txt", block_size=64))
        assert done.status == 1 and "tokens; --block-size needs more" in done.err
        assert not Path("runs", version.NAME).exists()
    Path("lines.txt").write_text("\n" * 600)  # for v0 and v1 one token: their loss is exactly 0
    Path("lines.txt.json").write_bytes(b"\xff not the facts of this text")
    done = call(version, *small(version, data="lines.txt", block_size=1))
    assert done.status == 0 or "--block-size needs more" in done.err


@every_file
def test_characters_and_bytes_that_the_model_does_not_know(version, runs):
    assert refused(version, use(version), "--prompt", os.fsdecode(b"\xff"))  # no text at all
    if number(version) < 2:
        message = "not in the training text: the characters ['語']"
        assert message in refused(version, use(version), "--prompt", "語")
        Path("other.txt").write_text("語 " * 100, encoding="utf-8")
        assert "['語']" in refused(version, "eval", "--data", "other.txt")


@from_v2
def test_tokenizers_that_cannot_be_used(version):
    for i, content in enumerate((b"{", b'["a"]', b"\xff")):
        Path(f"{i}.json").write_bytes(content)
    for path in ("0.json", "1.json", "2.json", "missing.json", "."):
        assert path in refused(version, *small(version, tokenizer=path))


# --- the files of a run


@every_file
def test_runs_that_are_not_there(version, runs):
    other = load_version((number(version) + 1) % 7).NAME
    assert f"holds a run of {other}" in refused(version, use(version), "--out", f"runs/{other}/1")
    for out in ("missing", "text.txt", "."):
        assert f"{out}: holds no run" in refused(version, "eval", "--out", out)
    shutil.rmtree(f"runs/{version.NAME}")
    assert f"runs/{version.NAME}/0: holds no run" in refused(version, use(version))
    for out in ("text.txt", "text.txt/run"):  # a file is in the way
        refused(version, *small(version, out=out), "--overwrite")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def damages(path):
    """Contents that a damaged file may have; None: the file is missing."""
    good = path.read_bytes()
    yield from (None, b"", b"\0" * len(good), good[: len(good) // 2], good[:-1])
    yield from (b"5", b"[]", b'{"a": 5}', b"\xff\xfe")
    if path.suffix == ".pt":
        yield good[: len(good) // 3] + good[len(good) // 2 :]
        yield from (pickle.dumps(what, protocol=2) for what in (Evil(), {"model": 5}))
        yield from (p.read_bytes() for p in path.parent.glob("*.pt") if p != path)  # the other one
        others = [p for p in sorted(Path("runs").glob("*/1/best.pt")) if p != path]
        yield from (p.read_bytes() for p in others[:2])  # of another version


@every_file
def test_damaged_files_of_a_run(version, runs):
    for path in Path("runs", version.NAME, "1").iterdir():
        if path.suffix not in (".pt", ".json"):
            continue
        good, is_checkpoint = path.read_bytes(), path.name == "checkpoint.pt"
        for content in list(damages(path)):
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
            refused(
                version, *("--resume --max-steps 12" if is_checkpoint else use(version)).split()
            )
            assert not Path("evil").exists()
        path.write_bytes(good)
    config = Path("runs", version.NAME, "1", "config.json")
    saved = json.loads(config.read_text())
    for changed in ({"unknown": 1}, {"block_size": -1}, {"version": None}):
        config.write_text(json.dumps(saved | changed))
        refused(version, use(version))
    config.write_text(json.dumps(saved))
    assert call(version, use(version)).status == 0


@from_v1
def test_settings_that_the_weights_do_not_have(version, runs):
    words = ["--block-size", "16"] if number(version) == 1 else ["--n-layer", "2"]
    assert "best.pt: missing, damaged or of other settings" in refused(version, "eval", *words)


# --- the machine


@every_file
def test_devices_that_are_not_there(version, runs):
    for device in ("cuda:99", "gpu", ""):
        message = f"--device {device}: not available here"
        assert message in refused(version, *small(version, device=device))
        assert message in refused(version, use(version), "--device", device)
    config = Path("runs", version.NAME, "1", "config.json")  # a run from another machine opens
    config.write_text(config.read_text().replace('"cpu"', '"cuda:99"'))
    assert "not available here" in refused(version, use(version))
    assert call(version, use(version), "--device", "cpu").status == 0


@every_file
def test_out_of_memory(version, monkeypatch):
    def cuda():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    for fail in (lambda: torch.empty(2**60), lambda: np.empty(2**60, "int8"), cuda):
        monkeypatch.setattr(version, "get_batch", lambda *_, fail=fail: fail())
        done = call(version, *small(version))
        message = (
            f"{version.NAME}: out of memory; try a smaller --batch-size, --block-size or model"
        )
        assert (done.status, done.err) == (1, message + "\n")
    monkeypatch.setattr(version, "get_batch", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):  # a bug shows where it is
        call(version, *small(version))


@every_file
def test_a_terminal_without_the_letters(version, runs):
    gap = " ___" if number(version) == 6 else ""
    for encoding in ("ascii", "cp1252"):
        done = call(version, use(version), "--prompt", "é" + gap, encoding=encoding)
        assert done.status == 0 and done.err == ""
    Path("語").write_text(TEXT, encoding="utf-8")
    train(version, data="語", out="ß", encoding="ascii")
