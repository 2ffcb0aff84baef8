"""Try random command lines, texts and damaged run files; report every traceback and every hang.

    python tests/stress/fuzz.py --seconds 300 --seed 1

Everything runs in this process, with tiny models, in a temporary folder. What a version may answer:
success, or one message and a status that is not 0. Otherwise the exit status is 1.
"""

import argparse
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
from contextlib import chdir
from dataclasses import fields
from pathlib import Path

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from conftest import TEXT, load_version, use
from small_runs import call, small, train

NUMBERS = ["0", "1", "2", "3", "7", "16", "-1", "0.5", "1e-9", "nan", "inf", "-inf", "1e999", "x"]
TEXTS = ["", " ", "\n", "a", "語", "\udcff", "the", "text.txt", "missing", ".", "\u202e", "-x", "'"]
TEXTS += ["best.pt", "run", "cpu", "cuda", "cuda:7", "adamw", "muon", "soap", "linear", "bfloat16"]
SLOW = {"max_steps", "max_seconds", "n_layer", "max_new_tokens"}  # huge is valid, and takes long


def judge(version, words):
    """Run a command line; returns what kind of end it came to, and what it said."""
    signal.alarm(60)
    try:
        done = call(version, *words)
    except BaseException:
        return "traceback or hang", traceback.format_exc()
    finally:
        signal.alarm(0)
    if done.status in (0, 2):
        return ("done", "", "refused by the command line")[done.status], done.err
    lines = 1 + sum(word.count("\n") for word in words)
    whole = done.err.startswith(f"{version.NAME}: ") and len(done.err.splitlines()) <= lines
    return "refused" if whole else "unclear", done.err


def random_flags(rng, version):
    """Some flags with values that they may not like."""
    words = []
    for field in rng.sample(fields(version.Config)[1:], rng.randint(1, 3)):
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


def attempt(rng, version):
    """One random command line, text or damaged file, on a fresh copy of the runs."""
    shutil.rmtree("now", ignore_errors=True)
    shutil.copytree("runs-of-all", "now")
    kind, command = (
        rng.choice(["flags", "text", "file"]),
        rng.choice(["train", use(version), "eval"]),
    )
    words = ["train", *small(version), *rng.choice([[], ["--out", "new"]])]
    if command != "train":
        words = [command] if command == "fill" else [command, "--max-new-tokens", "5"]
    if rng.random() < 0.3:
        words = ["--resume", "--max-steps", "8"]
    if kind == "flags":
        words += random_flags(rng, version)
    elif kind == "text":
        Path("now/text.txt").write_bytes(random_text(rng))
    else:
        path = rng.choice(sorted(Path("now/runs", version.NAME, "1").iterdir()))
        path.write_bytes(damage(rng, path.read_bytes()))
        kind = path.name
    with chdir("now"):
        return f"{kind}: {version.NAME} {words}", *judge(version, words)


def hang(*_):
    raise BaseException("it takes too long")  # which nothing takes for an error of its own


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    args, versions = parser.parse_args(), [load_version(i) for i in range(7)]
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, hang)
    Figure.savefig = lambda self, file: file.write(b"a picture")
    rng, ends, start = random.Random(args.seed), Counter(), time.monotonic()
    os.chdir(folder := tempfile.mkdtemp(prefix="fuzz-"))
    Path("runs-of-all").mkdir()
    with chdir("runs-of-all"):
        Path("text.txt").write_text(TEXT, encoding="utf-8")
        for version in versions:
            train(version)
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * 4096 + 2**31
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # what needs 2 GB more fails at once
    while time.monotonic() < start + args.seconds:
        case, end, said = attempt(rng, rng.choice(versions))
        ends[end] += 1
        if end in ("unclear", "traceback or hang"):
            print(f"{case}\n{said}\n", flush=True)
        if ends.total() % 100 == 0:
            print(f"{ends.total():,} inputs", flush=True)
    os.chdir("/")
    shutil.rmtree(folder)
    kinds = ", ".join(f"{n:,} {end}" for end, n in ends.most_common())
    print(f"{ends.total():,} inputs: {kinds}")
    sys.exit(bool(ends["unclear"] + ends["traceback or hang"]))


if __name__ == "__main__":
    main()
