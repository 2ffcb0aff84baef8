"""What a user can get wrong: a table, tried on every version.

Each row ends in exit status 2 and one line on standard error that names the value and what is accepted, or, where
the input is legal, in status 0. Never in a traceback, and never with anything lost or left behind.
"""

import contextlib
import importlib
import io
import json
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["v0_bigram", "v1_transformer", "v2_bpe_rope", "v3_alibi", "v4_gqa_swiglu", "v5_ngpt"]
WORDS = "a the old fox owl café river saw lost found her his red key map and then, slept. Who knows? Zoë!\n".split(" ")
TEXT = " ".join(random.Random(1).choices(WORDS, k=600))
ALL, BLOCKS, BPE, ALIBI, GQA = "012345", "12345", "2345", "345", "45"  # the versions that have these flags


def small(name):
    """Flags of a run that takes a tenth of a second."""
    n = NAMES.index(name)
    words = "--data text.txt --block-size 8 --batch-size 2 --max-steps 4 --evals 2 --max-new-tokens 5 --device cpu"
    words += " --dtype float32"
    words += " --n-layer 1 --n-head 2 --n-embd 8" if n >= 1 else ""
    words += " --vocab-size 270" if n >= 2 else ""
    words += " --n-kv-head 1 --d-ff 12" if n >= 4 else ""
    return words.split()


# ----------------------------------------------------------------------------------------------------- what is prepared
# Each of these gets the version's name; the working directory holds text.txt and `run`, a finished run on it.


def nothing(name):
    pass


def data(content):
    """A file bad.txt."""
    return lambda name: Path("bad.txt").write_bytes(content if isinstance(content, bytes) else content.encode())


def put(path, content):
    """Other content for a file of the run."""
    return lambda name: Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(path, keep):
    """A file of the run, truncated."""
    return lambda name: Path(path).write_bytes(Path(path).read_bytes()[:keep])


def flip(path, part):
    """A file of the run with one byte changed, that far into it."""

    def prepare(name):
        content = bytearray(Path(path).read_bytes())
        content[int(part * len(content))] ^= 0x55
        Path(path).write_bytes(content)

    return prepare


def without(path):
    return lambda name: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def folder(path):
    def prepare(name):
        Path(path).unlink(missing_ok=True)
        Path(path).mkdir()

    return prepare


def state(path, change):
    """A checkpoint of the run, changed."""

    def prepare(name):
        content = torch.load(path, weights_only=True)
        content = change(content) or content
        torch.save(content, path)

    return prepare


def config(**changes):
    def prepare(name):
        content = json.loads(Path("run/config.json").read_text())
        Path("run/config.json").write_text(json.dumps(content | changes))

    return prepare


def other_version(*files):
    """Files of a run of another version, in place of the run's own."""

    def prepare(name):
        for file in files:
            shutil.copy(Path("..", "runs", NAMES[0 if name != NAMES[0] else 1], file), Path("run", file))

    return prepare


class Payload:
    """A pickle that creates a file when it is loaded by a reader that trusts it."""

    def __reduce__(self):
        return open, ("owned.txt", "w")


def hostile(path, wrap):
    """A checkpoint that would run code: as a bare pickle, in torch's own format, or hidden beside good weights."""

    def prepare(name):
        content = torch.load(path, weights_only=True)
        if wrap == "pickle":
            Path(path).write_bytes(pickle.dumps(Payload()))
        elif wrap == "torch":
            torch.save(Payload(), path)
        elif wrap == "legacy":
            torch.save(content | {"progress": Payload()}, path, _use_new_zipfile_serialization=False)
        else:
            torch.save(content | {"more": Payload()}, path)

    return prepare


def absurd(content):
    """Weights that claim to be larger than any memory."""
    key = next(iter(content["model"]))
    content["model"][key] = torch.zeros(1).expand(2**50, *content["model"][key].shape[1:])


def absurd_moments(content):
    """The same in the optimizer's state, in a type that asks for a copy."""
    content["optimizer"][0]["exp_avg"] = torch.zeros(1, dtype=torch.float64).expand(2**50)


def moment(value):
    """One of AdamW's moments, changed."""
    return lambda content: content["optimizer"][0].update(exp_avg=value)


def progress(**changes):
    return lambda content: content["progress"].update(changes)


def repacked(path, method=zipfile.ZIP_STORED, **more):
    """A checkpoint of the run as another zip file, with more records in it."""

    def prepare(name):
        with zipfile.ZipFile(path) as file:
            records = {record: file.read(record) for record in file.namelist()}
        with zipfile.ZipFile(path, "w", method) as file:
            for record, content in (records | more).items():
                file.writestr(record, content)

    return prepare


def older_format(path):
    """A checkpoint with the same content, as torch wrote it before it used zip files."""
    return lambda name: torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)


def same_size_tokenizer(name):
    """A tokenizer with as many tokens as the run's, but other ones."""
    content = json.loads(Path("run/tokenizer.json").read_text())
    if "chars" in content:
        content["chars"] = "".join(chr(ord(char) + 1) if char.isalpha() else char for char in content["chars"])
    else:
        content["merges"] = [[i, i + 1] for i in range(len(content["merges"]))]
    Path("run/tokenizer.json").write_text(json.dumps(content))


def larger_tokenizer(name):
    content = json.loads(Path("run/tokenizer.json").read_text())
    if "chars" in content:
        content["chars"] += "@#&"
    else:
        content["merges"] += [[5, 6]]
    Path("run/tokenizer.json").write_text(json.dumps(content))


# ------------------------------------------------------------------------------------------------------------ the table


@dataclass
class Row:
    """A command line, the exit status it must end with, what its one line of error must say, what is prepared.

    Training's flags come after those of `small`, in place of which they stand; others (sample, eval, --resume) stand
    alone. `status` may be a text of digits, any of which will do.
    """

    name: str
    argv: str
    status: int | str = 2
    says: tuple = ()
    prepare: object = nothing
    versions: str = ALL


def row(name, argv, status=2, *says, prepare=nothing, versions=ALL):
    return Row(name, argv, status, says, prepare, versions)


BAD = "--data bad.txt"
OTHER = r"^(?!v0_)\w+: .*v0_bigram|^v0_\w+: .*v1_transformer"  # names the version that `other_version` takes
SAMPLE, EVAL, RESUME = "sample --out run", "eval --out run", "--resume --out run"
DATA = [
    row("data missing", "--data nowhere.txt", 2, "nowhere.txt", "no such file"),
    row("data missing folder", "--data no/where.txt", 2, "no/where.txt"),
    row("data is a folder", "--data run", 2, "--data run", "directory"),
    row("data has no name", "--data=", 2, "--data"),
    row("data empty", BAD, 2, "bad.txt", "0 tokens", prepare=data("")),
    row("data one character", BAD, 2, "bad.txt", "--block-size", prepare=data("a")),
    row("data two characters", BAD + " --block-size 1", 2, "bad.txt", prepare=data("ab")),
    row("data only a mark", BAD, 2, "bad.txt", prepare=data(b"\xef\xbb\xbf")),
    row("data shorter than a block", BAD, 2, "bad.txt", "--block-size 8", prepare=data("brown fox")),
    row("data binary", BAD, 2, "bad.txt", "UTF-8", prepare=data(bytes(range(256)) * 40)),
    row("data of a picture", BAD, 2, "bad.txt", "UTF-8", "byte 0", prepare=data(b"\x89PNG\r\n\x1a\n" + bytes(99))),
    row("data UTF-16", BAD, 2, "bad.txt", "UTF-8", "byte 0", prepare=data(TEXT.encode("utf-16"))),
    row("data Latin-1", BAD, 2, "bad.txt", "byte 503", prepare=data(b"x" * 503 + "é ".encode("latin-1") * 99)),
    row("data invalid at the end", BAD, 2, "byte 2000", prepare=data(b"abc " * 500 + b"\xe2\x82")),
    row("data invalid after a mark", BAD, 2, "byte 3", prepare=data(b"\xef\xbb\xbf\xff" + b"abc " * 500)),
    row("data invalid far in", BAD, 2, "byte 400000", prepare=data(b"abc " * 100_000 + b"\xff" + b"abc " * 500)),
    row("data with a surrogate", BAD, 2, "byte 8", prepare=data(b"abc def " + b"\xed\xa0\x80" * 500)),
    row("data with NUL bytes", BAD, 0, prepare=data("ab\0c\0\0d " * 200)),
    row("data UTF-16 without a mark", BAD, 0, prepare=data(("a few words. " * 90).encode("utf-16-le"))),
    row("data with Windows line ends", BAD, 0, prepare=data(TEXT.replace(" ", "\r\n"))),
    row("data with old Mac line ends", BAD, 0, prepare=data(TEXT.replace(" ", "\r"))),
    row("data with a byte-order mark", BAD, 0, prepare=data(b"\xef\xbb\xbf" + TEXT.encode())),
    row("data one character repeated", BAD, 0, prepare=data("a" * 5000), versions="01"),
    row("data of one word", BAD, 2, "bad.txt", "tokens", "--block-size", prepare=data("a" * 5000), versions=BPE),
    row("data of the same bytes", BAD + " --vocab-size 256", 0, prepare=data("a" * 5000), versions=BPE),
    row("data only line ends", BAD, 0, prepare=data("\n" * 3000), versions="01"),
    row("data of one gap", BAD, 2, "bad.txt", "tokens", "--block-size", prepare=data("\n" * 3000), versions=BPE),
    row("data without a line end", BAD, 0, prepare=data(TEXT.replace("\n", ""))),
    row("data one long line", BAD, 0, prepare=data("".join(random.Random(2).choices("abcdefgh", k=100_000)))),
    row("data just long enough", BAD + " --block-size 1", 0, prepare=data("xyz"), versions="01"),
    row("bytes just enough", BAD + " --block-size 1 --vocab-size 256", 0, prepare=data("xyz"), versions=BPE),
    row("data in many scripts", BAD, 0, prepare=data("Слово 言葉 كلمة λόγος 🦊 \u0301e\u200d " * 60)),
    row("floor not JSON", "", 0, prepare=put("text.txt.json", "{")),
    row("floor of another shape", "", 0, prepare=put("text.txt.json", "[1, 2]")),
    row("floor nested too deep", "", 0, prepare=put("text.txt.json", "[" * 100_000)),
    row("tokenizer missing", "--tokenizer nowhere.json", 2, "nowhere.json", versions=BPE),
    row("tokenizer is a folder", "--tokenizer run", 2, "run", versions=BPE),
    row("tokenizer is a text", "--tokenizer text.txt", 2, "text.txt", "tokenizer", versions=BPE),
    row("tokenizer is a checkpoint", "--tokenizer run/best.pt", 2, "best.pt", "tokenizer", versions=BPE),
    row("tokenizer of characters", "--tokenizer bad.txt", 2, prepare=data('{"chars": "abc"}'), versions=BPE),
    row("tokenizer reused", "--tokenizer run/tokenizer.json", 0, versions=BPE),
    row("tokenizer reused, whatever its size", "--tokenizer run/tokenizer.json --vocab-size 999", 0, versions=BPE),
]
FLAGS = [
    row("unknown command", "learn", 2, "learn", "train", "sample", "eval"),
    row("two commands", "train eval", 2, "eval"),
    row("unknown flag", "--learning-rat 1", 2, "--learning-rat", "--help"),
    row("shortened flag", "--batch 4", 2, "--batch", "--help"),
    row("flag of a later version", "--n-layer 2", 2, "--n-layer", "--help", versions="0"),
    row("flag without a value", "--seed", 2, "--seed"),
    row("unknown preset", "--preset huge", 2, "huge", "lil", versions=GQA),
    row(
        "preset too large for the text",
        "train --device cpu --preset lil " + BAD,
        2,
        "512",
        prepare=data("few " * 99),
        versions=GQA,
    ),
    row("wrong type: word", "--batch-size two", 2, "--batch-size", "two", "int"),
    row("wrong type: fraction", "--batch-size 2.5", 2, "--batch-size", "2.5", "int"),
    row("wrong type: word for a fraction", "--learning-rate fast", 2, "--learning-rate", "fast", "float"),
    row("wrong type: nothing", "--batch-size=", 2, "--batch-size"),
    *(
        row(f"negative {flag}", f"--{flag} -1", 2, f"--{flag}", "-1")
        for flag in "batch-size block-size learning-rate max-steps max-seconds evals save-seconds seed".split()
    ),
    *(row(f"negative {flag}", f"--{flag} -3", 2, "-3", versions=BLOCKS) for flag in ("n-layer", "n-head", "n-embd")),
    *(row(f"zero {flag}", f"--{flag} 0", 2, f"--{flag} 0", "1") for flag in ("batch-size", "block-size", "evals")),
    row("zero n-head", "--n-head 0", 2, "--n-head 0", versions=BLOCKS),
    row("zero n-embd", "--n-embd 0", 2, "--n-embd 0", versions=BLOCKS),
    row("zero n-kv-head", "--n-kv-head 0", 2, "--n-kv-head 0", versions=GQA),
    row("zero d-ff", "--d-ff 0", 2, "--d-ff 0", versions=GQA),
    *(
        row(f"{value} {flag}", f"--{flag}={value}", 2, f"--{flag}", value)
        for value in ("nan", "inf", "-inf")
        for flag in ("learning-rate", "beta1", "max-seconds", "save-seconds", "temperature", "top-p")
    ),
    *(row(f"{v} {f}", f"--{f} {v}", 2, f"--{f}", v, versions=BLOCKS) for v in ("nan", "1") for f in ("dropout",)),
    row("learning rate beyond numbers", "--learning-rate 1e308", 2, "--learning-rate 1e.308", "0 to 1000000$"),
    row("Muon's beyond numbers", "--matrix-learning-rate 1e308", 2, "--matrix-learning-rate 1e.308", versions=GQA),
    row("beta1 1", "--beta1 1", 2, "--beta1 1", "0.9999"),
    row("warm-up beyond the budget", "--warmup 1.5", 2, "--warmup 1.5", versions="1234"),
    row("warm-up all the way", "--warmup 1", 0, versions="1234"),
    row("seed too large", f"--seed {2**31}", 2, f"{2**31}"),
    row("block size beyond the data", "--block-size 100000", 2, "100000", "--block-size"),
    row("block size beyond numbers", f"--block-size {10**30}", 2, "--block-size"),
    row("sample beyond numbers", f"{SAMPLE} --block-size {2**63}", 2, f"--block-size {2**63}", f"{2**20}"),
    row("heads do not divide", "--n-head 3", 2, "--n-head 3", "--n-embd 8", versions=BLOCKS),
    row("more heads than width", "--n-head 16", 2, "--n-head 16", "--n-embd 8", versions=BLOCKS),
    row("heads beyond numbers", f"--n-head {10**30}", 2, f"--n-head {10**30}", "--n-embd 8", versions=BLOCKS),
    row("key heads do not divide", "--n-head 4 --n-kv-head 3", 2, "--n-kv-head 3", "--n-head 4", versions=GQA),
    row("more key heads than heads", "--n-kv-head 4", 2, "--n-kv-head 4", "--n-head 2", versions=GQA),
    row("odd rotary width", "--n-head 2 --n-embd 6", 2, "--n-head 2", "even", versions="245"),
    row("odd width without rotation", "--n-head 2 --n-embd 6", 0, versions="13"),
    row("vocabulary below the bytes", "--vocab-size 255", 2, "--vocab-size 255", "256", versions=BPE),
    row("vocabulary of the bytes", "--vocab-size 256", 0, versions=BPE),
    row("vocabulary beyond the text", "--vocab-size 50000", 0, versions=BPE),
    row("vocabulary beyond numbers", f"--vocab-size {10**30}", 0, versions=BPE),
    row("context below the block", "eval --out run --context 7", 2, "--context 7", "8", "32", versions=ALIBI),
    row("context beyond reach", "eval --out run --context 33", 2, "--context 33", "8", "32", versions=ALIBI),
    row("context at reach", "eval --out run --context 32", 0, versions=ALIBI),
    row("unknown dropout schedule", "--dropout-schedule up", 2, "up", "constant, linear", versions=BLOCKS),
    row("unknown optimizer", "--optimizer sgd", 2, "sgd", "adamw", versions=GQA),
    row("unknown device", "--device toaster", 2, "--device toaster", "cpu"),
    row("device misspelt", "--device cpu:x", 2, "--device cpu:x", "cpu"),
    row("device without data", "--device meta", 2, "--device meta", "cpu"),
    *(row(f"device {d}", f"--device {d}", 2, f"--device {d}", "cpu") for d in ("hpu", "xpu", "xla", "vulkan", "mtia")),
    row("no such CUDA device", "--device cuda:99", 2, "--device cuda:99", "cpu"),
    row("unknown dtype", "--dtype float8", 2, "--dtype float8", "float32, bfloat16"),
    row("dtype not offered", "--dtype float16", 2, "--dtype float16", "float32, bfloat16"),
    row("resume and overwrite", RESUME + " --overwrite", 2, "--resume", "--overwrite"),
    row("model too large", f"--n-embd {2**46}", "12", "memory|--n-embd", versions=BLOCKS),
    row("batch too large", f"--batch-size {10**14}", "12", "memory|--batch-size"),
    row("batch beyond numbers", f"--batch-size {10**30}", "12", "memory|--batch-size"),
    row("out is a file", "--out text.txt", 2, "text.txt"),
    row("out under a file", "--out text.txt/run", 2, "text.txt/run"),
    row("out holds a run", "--out run", 2, "--out run", "--resume", "--overwrite"),
    row("learning rate zero", "--learning-rate 0", 0),
    row("gradient clipped to zero", "--grad-clip 0", 0, versions=BLOCKS),
    row("more evaluations than steps", "--evals 1000", 0),
    row("evaluations beyond numbers", f"--evals {10**30}", 0),
    row("help", "--help", 0),
]
CHECKPOINTS = [(path, command) for path, command in (("checkpoint.pt", RESUME), ("best.pt", SAMPLE), ("best.pt", EVAL))]
RUNS = [
    *(
        row(f"{c or 'train'} of nothing", c + " --resume" * (not c), 2, "no run", "train")
        for c in ("", "sample", "eval")
    ),
    *(row(f"{c} of a folder that is not there", f"{c} --out none", 2, "none") for c in ("--resume", "sample", "eval")),
    *(row(f"{c} of a file", f"{c} --out text.txt", 2, "text.txt") for c in ("--resume", "sample", "eval")),
    *(
        row(f"{c} of another version's run", c, 2, "run", OTHER, prepare=other_version("config.json"))
        for c in (RESUME, SAMPLE, EVAL)
    ),
    *(
        row(f"{c} with another version's {path}", c, 2, path, OTHER, prepare=other_version(path))
        for path, c in CHECKPOINTS
    ),
    row("resume with other batches", RESUME + " --batch-size 3", 2, "batch.size", "2", "3"),
    row("resume with another block size", RESUME + " --block-size 5", 2, "block.size", "8", "5"),
    row("resume with another seed", RESUME + " --seed 3", 2, "seed", "1337", "3"),
    row("resume with another learning rate", RESUME + " --learning-rate 0.5", 2, "learning.rate", "0.5"),
    row("resume with another width", RESUME + " --n-embd 16", 2, "n.embd", "8", "16", versions=BLOCKS),
    row("resume with another tokenizer", RESUME + " --tokenizer run/tokenizer.json", 2, "tokenizer", versions=BPE),
    row("evaluate with another width", EVAL + " --n-embd 16", 2, versions=BLOCKS),
    row("resume with a longer text", RESUME, 2, "text|data", prepare=put("text.txt", TEXT + "the end")),
    row("resume with a shorter text", RESUME, 2, "text|data", prepare=put("text.txt", TEXT[:-1])),
    row("resume with unknown characters", RESUME, 2, "text|data|Ж", prepare=put("text.txt", TEXT + "Ж")),
    row("resume without the text", RESUME, 2, "text.txt", prepare=without("text.txt")),
    row("resume with the text elsewhere", RESUME + " --data bad.txt", 0, prepare=data(TEXT)),
    row("resume with another text", RESUME + " --data bad.txt", 2, "text|data", prepare=data(TEXT[5:])),
    row("evaluate another text", EVAL + " --data bad.txt", 0, prepare=data(TEXT[5:])),
    *(
        row(f"{c} with {path} {how}", c, 2, f"run/{path}", prepare=prepare(f"run/{path}"))
        for path, c in CHECKPOINTS
        for how, prepare in {
            "missing": without,
            "of zero length": lambda path: put(path, b""),
            "of ten bytes": lambda path: cut(path, 10),
            "cut in half": lambda path: lambda name: cut(path, Path(path).stat().st_size // 2)(name),
            "a byte short": lambda path: cut(path, -1),
            "a text": lambda path: put(path, TEXT),
            "of random bytes": lambda path: put(path, random.Random(3).randbytes(3000)),
            "a folder": folder,
            "a list": lambda path: state(path, lambda content: [1, 2, 3]),
            "an empty dict": lambda path: state(path, lambda content: content.clear()),
            "without weights": lambda path: state(path, lambda content: content.pop("model") and None),
            "of bare weights": lambda path: state(path, lambda content: content["model"]),
            "of other weights": lambda path: state(path, lambda content: content["model"].popitem() and None),
            "of absurd size": lambda path: state(path, absurd),
            "packed": lambda path: repacked(path, zipfile.ZIP_DEFLATED),
            "swollen": lambda path: repacked(path, zipfile.ZIP_DEFLATED, **{"archive/more": bytes(10**7)}),
            "in the older format": older_format,
            "with a step before the first": lambda path: state(path, progress(step=0)),
            "with a step beyond numbers": lambda path: state(path, progress(step=10**30)),
            "with a fraction of a step": lambda path: state(path, progress(step=2.5)),
            "with a word for a loss": lambda path: state(path, progress(best="low")),
            "with a number for rows": lambda path: state(path, progress(rows=7)),
            "with rows of numbers": lambda path: state(path, progress(rows=[1, 2])),
            "with empty rows": lambda path: state(path, progress(rows=[{}, {}])),
            "with a word in a row": lambda path: state(
                path, lambda content: content["progress"]["rows"][0].update(val_loss="1\n2")
            ),
            "hostile: pickle": lambda path: hostile(path, "pickle"),
            "hostile: torch": lambda path: hostile(path, "torch"),
            "hostile: legacy": lambda path: hostile(path, "legacy"),
            "hostile: hidden": lambda path: hostile(path, "hidden"),
        }.items()
    ),
    row(
        "resume without moments",
        RESUME,
        2,
        "checkpoint.pt",
        prepare=state("run/checkpoint.pt", lambda c: c.pop("optimizer") and None),
    ),
    row("resume with absurd moments", RESUME, 2, "checkpoint.pt", prepare=state("run/checkpoint.pt", absurd_moments)),
    row(
        "resume with moments in another order",
        RESUME,
        2,
        "checkpoint.pt",
        prepare=state("run/checkpoint.pt", lambda content: content["optimizer"].reverse()),
        versions=BLOCKS,
    ),
    *(
        row(f"resume with moments {how}", RESUME, 2, "checkpoint.pt", prepare=state("run/checkpoint.pt", change))
        for how, change in {
            "too short": moment(torch.zeros(1)),
            "too long": moment(torch.zeros(1).expand(2**30)),
            "of another type": moment(torch.zeros(2, 8, dtype=torch.float64)),
            "without numbers": moment("none"),
            "too few": lambda content: content["optimizer"].pop() and None,
            "too many": lambda content: content["optimizer"].append(content["optimizer"][0]),
            "not in a list": lambda content: content.update(optimizer=3),
            "without names": lambda content: content.update(optimizer=[3] * len(content["optimizer"])),
            "all in one place": lambda content: content["optimizer"][0].update(
                exp_avg=torch.zeros(()).expand_as(content["optimizer"][0]["exp_avg"])
            ),
        }.items()
    ),
    *(
        row(f"{c} with a tokenizer {how}", c, 2, "tokenizer", prepare=prepare)
        for c in (RESUME, SAMPLE)
        for how, prepare in {
            "missing": without("run/tokenizer.json"),
            "of zero length": put("run/tokenizer.json", ""),
            "cut in half": cut("run/tokenizer.json", 20),
            "not JSON": put("run/tokenizer.json", b"\xff\xfe\0"),
            "of another shape": put("run/tokenizer.json", "[1, 2]"),
            "of wrong types": put("run/tokenizer.json", '{"chars": 5, "merges": "x"}'),
            "nested too deep": put("run/tokenizer.json", "[" * 100_000),
            "of another size": larger_tokenizer,
        }.items()
    ),
    *(
        row(f"{c} with other tokens", c, 2, "tokenizer|character", prepare=same_size_tokenizer)
        for c in (RESUME, SAMPLE, EVAL)
    ),
    *(
        row(f"{c} with config.json {how}", c, 2, *says, prepare=prepare)
        for c in (RESUME, SAMPLE)
        for how, says, prepare in (
            ("missing", ["run"], without("run/config.json")),
            ("of zero length", ["config.json"], put("run/config.json", "")),
            ("cut", ["config.json"], cut("run/config.json", 30)),
            ("a list", ["config.json"], put("run/config.json", "[]")),
            ("not text", ["config.json"], put("run/config.json", b"\xff\xfe\0")),
            ("nested too deep", ["config.json"], put("run/config.json", "[" * 100_000)),
            ("without a version", ["config.json"], put("run/config.json", "{}")),
            ("with an unknown field", ["config.json"], config(colour="red")),
            ("with a text for a number", ["batch.size|config.json"], config(batch_size="two")),
            ("with a fraction for a count", ["batch.size|config.json"], config(batch_size=2.5)),
            ("with a list for a number", ["learning.rate|config.json"], config(learning_rate=[1])),
            ("with true for a number", ["seed|config.json"], config(seed=True)),
            ("with a number for true", ["overwrite|config.json"], config(overwrite=1)),
            ("with null for a text", ["prompt|config.json"], config(prompt=None)),
            ("with a number for a text", ["data|config.json"], config(data=7)),
            ("out of range", ["batch.size|config.json"], config(batch_size=0)),
        )
    ),
    row("runs with odd names beside them", "", 0, prepare=lambda name: Path("runs", name, "²").mkdir(parents=True)),
]
GENERATION = [
    row("prompt empty", SAMPLE + " --prompt ''", 0),
    row("prompt longer than the context", SAMPLE + f" --prompt '{'the old fox ' * 20}'", 0),
    row("prompt with an unknown character", SAMPLE + " --prompt 'fox Ж'", 2, "Ж", "characters", versions="01"),
    row("prompt of any characters", SAMPLE + " --prompt 'fox Ж 言葉 🦊'", 0, versions=BPE),
    row("prompt unknown before a training", "--prompt 'fox Ж' --max-steps 9", 2, "Ж", versions="01"),
    row("prompt unknown before it goes on", RESUME + " --prompt Ж --max-steps 9", 2, "Ж", versions="01"),
    row("prompt of any characters in training", "--prompt 'fox Ж 言葉 🦊'", 0, versions=BPE),
    row("prompt not UTF-8", SAMPLE + " --prompt 'a \udcff'", 2, "udcff"),
    row("temperature zero", SAMPLE + " --temperature 0", 0),
    row("temperature negative", SAMPLE + " --temperature -1", 2, "--temperature -1", "0 or more"),
    row("temperature tiny", SAMPLE + " --temperature 1e-10", 0),
    row("temperature next to nothing", SAMPLE + " --temperature 1e-45", 0),
    row("temperature smaller still", SAMPLE + " --temperature 1e-320", 0),
    row("temperature huge", SAMPLE + " --temperature 1e300", 0),
    row("top-k zero", SAMPLE + " --top-k 0", 0),
    row("top-k negative", SAMPLE + " --top-k -1", 2, "--top-k -1", "0 or more"),
    row("top-k beyond the vocabulary", SAMPLE + f" --top-k {10**30}", 0),
    row("top-p zero", SAMPLE + " --top-p 0", 2, "--top-p 0", "1"),
    row("top-p negative", SAMPLE + " --top-p -0.5", 2, "--top-p -0.5", "1"),
    row("top-p one", SAMPLE + " --top-p 1", 0),
    row("top-p two", SAMPLE + " --top-p 2", 2, "--top-p 2", "1"),
    row("top-p small", SAMPLE + " --top-p 0.001", 0),
    row("stop string never met", SAMPLE + " --stop 'once upon a time' --max-new-tokens 30", 0),
    row("stop string empty", SAMPLE + " --stop ''", 0),
    row("no new tokens", SAMPLE + " --max-new-tokens 0", 0),
    row("fewer than no new tokens", SAMPLE + " --max-new-tokens -1", 2, "--max-new-tokens -1", "0 or more"),
    row("more tokens than the context", SAMPLE + " --max-new-tokens 50", 0),
    row("another block size", EVAL + " --block-size 4", "02"),
]
TABLE = [(row, NAMES[int(n)]) for row in DATA + FLAGS + RUNS + GENERATION for n in row.versions]


# ------------------------------------------------------------------------------------------------------------ the tests


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a finished run of every version, made once."""
    base = tmp_path_factory.mktemp("bad_input")
    threads, fsync, before = torch.get_num_threads(), os.fsync, os.getcwd()
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # slow, and it matters to a power cut only
    os.chdir(base)
    try:
        Path("text.txt").write_bytes(TEXT.encode())
        for name in NAMES:
            with contextlib.redirect_stdout(io.StringIO()):
                assert importlib.import_module(name).main([*small(name), "--out", f"runs/{name}"]) == 0
        yield base
    finally:
        os.chdir(before)
        os.fsync = fsync
        torch.set_num_threads(threads)


@pytest.fixture
def desk(runs, monkeypatch):
    """A working directory with text.txt and `run`, a finished run of the version."""

    def lay(name):
        folder = runs / "desk"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(runs / "runs" / name, folder / "run")
        (folder / "text.txt").write_bytes(TEXT.encode())
        config = json.loads((folder / "run" / "config.json").read_text())
        (folder / "run" / "config.json").write_text(json.dumps(config | {"out": "run"}))
        monkeypatch.chdir(folder)
        monkeypatch.setattr(Figure, "savefig", lambda self, file, **how: file.write(b"a picture"))  # which is slow
        return importlib.import_module(name)

    return lay


def call(module, argv, capsys):
    """Exit status, standard output and lines on standard error, warnings included, of a command line."""

    def show(message, category, filename, lineno, file=None, line=None):
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=sys.stderr)

    capsys.readouterr()
    with warnings.catch_warnings(), time_limit(300):
        warnings.simplefilter("default")
        warnings.showwarning = show
        try:
            status = module.main(argv)
        except SystemExit as exit:
            status = exit.code
    out, err = capsys.readouterr()
    return status, out, err.splitlines()


@contextlib.contextmanager
def time_limit(seconds):
    """Turns a hang into a failure."""

    def late(*_):
        raise TimeoutError(f"hangs: {seconds} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tree():
    """All files and folders here but the token cache: {path: content}."""
    paths = [path for path in Path().rglob("*") if "cache" not in path.parts and path != Path("runs")]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.mark.parametrize("row, name", TABLE, ids=lambda value: value if isinstance(value, str) else value.name)
def test_bad_input(row, name, desk, capsys):
    module = desk(name)
    row.prepare(name)
    argv = shlex.split(row.argv)
    alone = argv and (argv[0] in ("train", "sample", "eval") or "--resume" in argv)
    before = tree()
    status, out, err = call(module, argv if alone else [*small(name), *argv], capsys)
    assert str(status) in str(row.status), (status, err)
    if status == 0:
        return
    assert len(err) == 1, err
    assert err[0].startswith(f"{name}: ") and len(err[0]) < 400
    for part in row.says:
        assert re.search(part, err[0], re.IGNORECASE), err[0]
    if status == 2:
        assert tree() == before, "a refused command changed something"


def test_the_table_is_long():
    assert len(DATA + FLAGS + RUNS + GENERATION) >= 60
    names = [row.name for row in DATA + FLAGS + RUNS + GENERATION]
    assert len(set(names)) == len(names)


def test_the_hostile_pickles_would_work(desk):
    """Otherwise their rows would prove nothing."""
    desk(NAMES[0])
    for wrap in ("pickle", "torch", "legacy", "hidden"):
        shutil.copy("run/best.pt", "evil.pt")
        hostile("evil.pt", wrap)(NAMES[0])
        with contextlib.suppress(Exception):
            pickle.loads(Path("evil.pt").read_bytes())
            torch.load("evil.pt", weights_only=False)
        with contextlib.suppress(Exception):
            torch.load("evil.pt", weights_only=False)
        assert Path("owned.txt").exists(), wrap
        Path("owned.txt").unlink()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("name", NAMES)
def test_cuda_without_one(name, desk, capsys):
    module = desk(name)
    for argv in ([*small(name), "--device", "cuda"], ["sample", "--out", "run", "--device", "cuda"]):
        before = tree()
        status, out, err = call(module, argv, capsys)
        assert (status, len(err)) == (2, 1) and "--device cuda" in err[0] and "cpu" in err[0]
        assert tree() == before


@pytest.mark.parametrize("name", NAMES)
def test_byte_order_mark_is_no_part_of_the_text(name, desk):
    module = desk(name)
    Path("bad.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    run = module.load_run("run")
    plain, marked = (module.load_corpus(replace(run.cfg, data=d), run.tokenizer) for d in ("text.txt", "bad.txt"))
    assert plain.train.tolist() == marked.train.tolist() and plain.val.tolist() == marked.val.tolist()
    assert (plain.train_bytes, plain.val_bytes) == (marked.train_bytes, marked.val_bytes)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_is_greedy_and_stop_stops(name, desk, capsys):
    module = desk(name)
    greedy = ["sample", "--out", "run", "--temperature", "0", "--max-new-tokens", "40", "--prompt", "the"]
    out = [call(module, [*greedy, "--seed", seed], capsys)[1] for seed in ("1", "2")]
    assert out[0] == out[1]
    warm = ["sample", "--out", "run", "--temperature", "1", "--max-new-tokens", "40", "--prompt", "the"]
    whole = call(module, warm, capsys)[1]
    stop = next(text for text in (whole[i : i + 2] for i in range(8, 40)) if text.isascii() and text.isprintable())
    status, short, err = call(module, [*warm, "--stop", stop], capsys)
    assert (status, err) == (0, []) and short == "the" + whole[3:].partition(stop)[0] + "\n"
    assert call(module, [*warm, "--max-new-tokens", "0"], capsys)[1] == "the\n"


@pytest.mark.parametrize("name", NAMES)
def test_any_changed_byte_of_a_checkpoint(name, desk, capsys):
    """A flipped bit never ends in a traceback: the file is refused, or the bit was between the records."""
    module = desk(name)
    score = call(module, ["eval", "--out", "run"], capsys)[1]
    good, rng = Path("run/best.pt").read_bytes(), random.Random(name)
    for _ in range(25):
        at, bad = rng.randrange(len(good)), bytearray(good)
        bad[at] ^= 1 << rng.randrange(8)
        Path("run/best.pt").write_bytes(bad)
        status, out, err = call(module, ["eval", "--out", "run"], capsys)
        assert (status, out, err) == (0, score, []) or (status == 2 and len(err) == 1 and "best.pt" in err[0]), (
            at,
            status,
            err,
        )


# A process of its own, whose peak of memory shows what a checkpoint cost. argv: the versions' folder, version, and the
# crafted files. Prints for each the exit status, the lines on standard error, and by how many MB the peak has grown.
MEASURE = r"""
import contextlib, importlib, io, pathlib, re, shutil, sys
sys.path.insert(0, sys.argv[1])
module = importlib.import_module(sys.argv[2])
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]) // 1024
for path in ["run/best.pt", *sys.argv[3:]]:
    if path != "run/best.pt":
        shutil.copy(path, "run/best.pt")
    before, lines = peak(), io.StringIO()
    with contextlib.redirect_stderr(lines), contextlib.redirect_stdout(io.StringIO()):
        status = module.main(["eval", "--out", "run"])
    print(path, status, len(lines.getvalue().splitlines()), peak() - before)
"""


class Storage:
    """Pickled as torch pickles the storage of a tensor, but claiming any number of elements."""

    def __init__(self, numel):
        self.pickled = ("storage", torch.FloatStorage, "0", "cpu", numel)


class Claim:
    """Pickled as a tensor of any size and stride over its storage."""

    def __init__(self, size, stride, numel):
        self.parts = (Storage(numel), 0, size, stride, False, OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.parts


def craft(path, claim, method=zipfile.ZIP_STORED, n_bytes=80, more=0):
    """A checkpoint of one tensor: what it claims to be, over a record of n_bytes; and a text of `more` letters."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.pickled if isinstance(value, Storage) else None

    content = io.BytesIO()
    Pickler(content, 2).dump({"version": "v0_bigram", "model": {"w": claim}, "more": "\0" * more})
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as file:
        records = {"data.pkl": content.getvalue(), "version": b"3\n", "byteorder": b"little", "data/0": bytes(n_bytes)}
        for record, value in records.items():
            file.writestr(f"archive/{record}", value)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no peak of memory to read")
def test_absurd_sizes_are_refused_before_memory_is_taken(desk):
    desk("v0_bigram")
    many = 10**8  # floats: 400 MB
    craft("beyond_storage.pt", Claim((2**40, 5), (5, 1), 20))
    craft("beyond_record.pt", Claim((many,), (1,), many))
    craft("stride_zero.pt", Claim((2**50, 5), (0, 0), 20))
    craft("stride_huge.pt", Claim((4, 5), (2**60, 2**60), 20))
    craft("negative.pt", Claim((4, -5), (5, 1), 20))
    craft("overflow.pt", Claim((2**62, 2**62), (2**62, 1), 20))
    craft("bomb.pt", Claim((many,), (1,), many), zipfile.ZIP_DEFLATED, 4 * many)
    craft("pickle_bomb.pt", Claim((4, 5), (5, 1), 20), zipfile.ZIP_DEFLATED, more=2 * many)
    assert Path("bomb.pt").stat().st_size < many / 10
    files = sorted(map(str, Path().glob("*.pt")))
    argv = [sys.executable, "-c", MEASURE, str(ROOT), "v0_bigram", *files]
    shown = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=True).stdout
    good, *bad = [line.split() for line in shown.splitlines()]
    assert good[:3] == ["run/best.pt", "0", "0"] and [line[:3] for line in bad] == [[file, "2", "1"] for file in files]
    assert all(int(line[3]) < 100 for line in bad), shown


@pytest.mark.parametrize("name", NAMES)
def test_standard_output_that_cannot_show_a_letter(name, desk, monkeypatch):
    module = desk(name)
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert module.main(["sample", "--out", "run", "--prompt", "café Zoë"]) == 0
    sys.stdout.flush()
    assert raw.getvalue().startswith(b"caf")


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_reader_that_stops_reading(desk):
    """`python v0_bigram.py sample | head -1` ends quietly."""
    desk("v0_bigram")
    argv = [sys.executable, str(ROOT / "v0_bigram.py"), "sample", "--out", "run", "--max-new-tokens", "3000"]
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(write)
    assert result.returncode != 0 and len(result.stderr.splitlines()) <= 1, result.stderr


@pytest.mark.parametrize("name", NAMES[1:])
def test_more_layers_than_anyone_has(name):
    """Refused at once, instead of being built until the memory is full."""
    module = importlib.import_module(name)
    with pytest.raises(module.Halt):
        module.Config(n_layer=10**9)
