"""Peak memory of training on a long text, and on a short one, in MB (10^6 bytes).

    python tests/stress/memory.py                                  # 500 MB, v2
    python tests/stress/memory.py --megabytes 50 --versions v2 v5

The text is made in a temporary folder: paragraphs of input.txt in ever new order, with lines of
invented words between them, so that it holds new words to its end. A version trains on it for a few
steps in a process of its own: it learns a tokenizer, encodes the text, and scores the whole
validation split. A second process does the same with one megabyte of text and the tokenizer at
hand: what it takes is Python, torch, the model and its largest batch. The exit status is 1 if the
long text takes more than a fifth of its size on top of that.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMALL = "--max-steps 3 --evals 1 --max-new-tokens 3 --device cpu --dtype float32 --n-layer 1"
LETTERS = "abdefghiklmnoprstu"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}  # many threads are slow on a busy machine


def write_text(path, megabytes, rng):
    """Write a text of so many MB, up to a paragraph more."""
    paragraphs = (ROOT / "input.txt").read_text(encoding="utf-8").split("\n\n")
    size = 0
    with open(path, "wb") as file:
        while size < megabytes * 10**6:
            words = " ".join("".join(rng.choices(LETTERS, k=6)) for _ in range(8))
            size += file.write(f"{rng.choice(paragraphs)} {words}.\n\n".encode())


def peak(name, *flags):
    """Train in a process of its own; returns the peak of its resident memory in MB."""
    print(f"{name} {' '.join(flags)}", flush=True)
    with open("log.txt", "w") as log:
        command = [sys.executable, ROOT / f"{name}.py", *SMALL.split(), "--n-embd", "32", *flags]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} failed:\n{Path('log.txt').read_text()[-2000:]}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 10**6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=500, help="size of the text")
    parser.add_argument("--versions", nargs="+", default=["v2"], help="v2 to v5")
    parser.add_argument("--seed", type=int, default=1, help="of the text")
    args, found, too_much = parser.parse_args(), [], False
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        os.chdir(folder)
        write_text("long.txt", args.megabytes, random.Random(args.seed))
        write_text("short.txt", 1, random.Random(args.seed))
        for version in args.versions:
            name = next(ROOT.glob(f"{version}_*.py")).stem
            long = peak(name, "--data", "long.txt", "--out", f"{name}/long")
            tokenizer = ["--tokenizer", f"{name}/long/tokenizer.json"]
            short = peak(name, "--data", "short.txt", "--out", f"{name}/short", *tokenizer)
            found.append(
                f"{version} {long:.0f} MB for {args.megabytes} MB, {short:.0f} MB for 1 MB"
            )
            too_much |= long - short > args.megabytes / 5
        os.chdir(ROOT)
    print("peak memory: " + "; ".join(found))
    sys.exit(too_much)


if __name__ == "__main__":
    main()
