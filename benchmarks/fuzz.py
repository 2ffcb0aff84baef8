"""Try random command lines, texts and damaged run files; report every traceback and every hang.

    python benchmarks/fuzz.py --seconds 300 --seed 1

Everything runs in this process, with tiny models, in a temporary folder. What a version may answer:
success, or one message and a status that is not 0. The last line is the row for reliability.md.
"""

import argparse
import importlib
import io
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from pathlib import Path

import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
NAMES = ["v0_bigram", "v1_transformer", "v2_bpe_rope", "v3_alibi", "v4_gqa_swiglu", "v5_ngpt"]
WORDS = "a the old fox owl café river saw lost found her red key map. Who knows? Zoë!\n".split(" ")
SMALL = "--data text.txt --max-steps 4 --evals 2 --batch-size 2 --block-size 8 --max-new-tokens 5"
SMALL = f"{SMALL} --device cpu".split()
SIZES = "--n-layer 1 --n-head 2 --n-embd 8 --dtype float32".split()
NUMBERS = ["0", "1", "2", "3", "7", "16", "-1", "0.5", "1e-9", "nan", "inf", "-inf", "1e999", "x"]
TEXTS = ["", " ", "\n", "a", "語", "\udcff", "the", "text.txt", "missing", ".", "\u202e", "-x", "'"]
TEXTS += ["best.pt", "run", "cpu", "cuda", "cuda:7", "adamw", "muon", "soap", "linear", "bfloat16"]
SLOW = {"max_steps", "max_seconds", "n_layer", "max_new_tokens"}  # huge is valid, and takes long


def call(name, words):
    """Run a command line; returns what kind of end it came to, and what it said."""
    sys.argv = [f"{name}.py", *words]
    err, status = io.StringIO(), 0
    signal.alarm(60)
    try:
        with redirect_stdout(io.TextIOWrapper(io.BytesIO())), redirect_stderr(err):
            importlib.import_module(name).main()
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        return "traceback or hang", traceback.format_exc()
    finally:
        signal.alarm(0)
    if isinstance(status, str):
        message, lines = status + err.getvalue(), 1 + sum(word.count("\n") for word in words)
        whole = message.startswith(f"{name}: ") and len(message.splitlines()) <= lines
        return "refused" if whole else "unclear", message
    return ("refused by the command line", "done")[not status], err.getvalue()


def random_flags(rng, name):
    """Some flags with values that they may not like."""
    words = []
    for field in rng.sample(fields(importlib.import_module(name).Config)[1:], rng.randint(1, 3)):
        flag = "--" + field.name.replace("_", "-")
        numbers = NUMBERS + ([] if field.name in SLOW else ["100000", "2147483647", "2147483648"])
        value = rng.choice(numbers if field.type in (int, float) else TEXTS)
        if field.name != "compile":  # which takes minutes
            words += [flag] if field.type is bool else [flag, value]
    return words


def damage(rng, content):
    """A damaged copy of a file's content."""
    a, b = sorted(rng.randint(0, len(content)) for _ in range(2))
    middle = [b"", content[a:b] * 2, b"\0" * (b - a), rng.randbytes(min(b - a, 20))]
    torn = content[:a] + rng.choice(middle) + content[b:]
    return rng.choice([torn, torn, content[:a], rng.choice(TEXTS).encode("utf-8", "replace")])


def random_text(rng):
    """The bytes of a text that may be too short, too uniform, or no text at all."""
    characters = rng.choice(["\n", "a", "a ", "語é a\n", "\ufeff\r\n\0\u2028 ", "😀\u0301x"])
    content = "".join(rng.choices(characters, k=rng.choice([0, 1, 10, 100, 1000]))).encode()
    return rng.choice([content, content, content[1:], content + b"\xff", rng.randbytes(200)])


def attempt(rng, name):
    """One random command line, text or damaged file, on a fresh copy of the runs."""
    shutil.rmtree("now", ignore_errors=True)
    shutil.copytree("runs-of-all", "now")
    os.chdir("now")
    words = SMALL + (SIZES if name != NAMES[0] else []) + rng.choice([[], ["--out", "new"]])
    kind, command = rng.choice(["flags", "text", "file"]), rng.choice(["train", "sample", "eval"])
    words = [command, *(words if command == "train" else ["--max-new-tokens", "5"])]
    if rng.random() < 0.3:
        words = ["--resume", "--max-steps", "8"]
    if kind == "flags":
        words += random_flags(rng, name)
    elif kind == "text":
        Path("text.txt").write_bytes(random_text(rng))
    else:
        path = rng.choice(sorted(Path("runs", name, "1").iterdir()))
        path.write_bytes(damage(rng, path.read_bytes()))
        kind = path.name
    end, said = call(name, words)
    os.chdir("..")
    return f"{kind}: {name} {words}", end, said


def hang(*_):
    raise BaseException("it takes too long")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    args, command = parser.parse_args(), " ".join(sys.argv)  # of this script
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, hang)
    Figure.savefig = lambda self, file: file.write(b"a picture")
    rng, ends, start = random.Random(args.seed), Counter(), time.monotonic()
    os.chdir(folder := tempfile.mkdtemp(prefix="fuzz-"))
    Path("runs-of-all").mkdir()
    os.chdir("runs-of-all")
    Path("text.txt").write_text(" ".join(rng.choices(WORDS, k=300)), encoding="utf-8")
    for name in NAMES:
        assert call(name, SMALL + (SIZES if name != NAMES[0] else []))[0] == "done", name
    os.chdir("..")
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * 4096 + 2**31
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # what needs 2 GB more fails at once
    while time.monotonic() < start + args.seconds:
        case, end, said = attempt(rng, rng.choice(NAMES))
        ends[end] += 1
        if end in ("unclear", "traceback or hang"):
            print(f"{case}\n{said}\n", flush=True)
    os.chdir("/")
    shutil.rmtree(folder)
    figure = f"{ends.total():,}: " + ", ".join(f"{n:,} {end}" for end, n in ends.most_common())
    print(f"| bad inputs tried | {figure} | `python {command}` |")


if __name__ == "__main__":
    main()
