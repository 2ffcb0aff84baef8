"""How much memory does training take for a long text? Peak resident memory beyond that of the model, in MB.

    python benchmarks/memory.py                                     # 500 MB, v2
    python benchmarks/memory.py --megabytes 50 --versions v2 v5

The text is made in a temporary folder, of the paragraphs of input.txt in ever new order, with sentences of invented
words between them, so that it holds new words to its end. A version then trains on it for a few steps in a process of
its own, with a small model but with the default vocabulary: it learns a tokenizer, encodes the text, trains, and scores
the whole validation split. The figure is the peak of that process less the peak of another one that does the same on
one megabyte with the tokenizer at hand, and so holds Python, torch, the model and its largest batch, but next to no
text. A third process trains again on the long text, whose token ids are in the cache by then. 1 MB is 10^6 bytes.
"""

import argparse
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RELIABILITY = ROOT / "benchmarks" / "reliability.md"
STEPS = "--max-steps 3 --evals 1 --max-new-tokens 3 --device cpu --dtype float32 --n-layer 1 --n-embd 32".split()
SYLLABLES = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r")]


# ------------------------------------------------------------------------------------------------------ reliability.md


def add_record_option(parser):
    """Give a benchmark the flag --record [FILE]: its figures also go to reliability.md, or to that file."""
    words = {"nargs": "?", "const": RELIABILITY, "metavar": "FILE", "type": lambda name: Path(name).resolve()}
    parser.add_argument("--record", help="also write the figures there (default: benchmarks/reliability.md)", **words)


def record(path, figures):
    """Write figures, {what: text}, as rows of a Markdown table, each with this process's command line.

    Rows that the same command wrote earlier are replaced; all else in the file stays.
    """
    command = f"`python benchmarks/{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}`"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    lines = [line for line in lines if not line.endswith(f"| {command} |")]
    lines = lines or ["# Reliability, in figures", "", "| what | figure | command |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | {command} |" for what, figure in figures.items()]
    path.write_bytes("\n".join([*lines, ""]).encode())


# ------------------------------------------------------------------------------------------------------------ the text


def invented(rng):
    """A word that does not exist: a few of them often, most of them rarely."""
    number, word = int(rng.paretovariate(0.3)) % 10**7, ""
    while number or not word:
        number, at = divmod(number, len(SYLLABLES))
        word += SYLLABLES[at]
    return word


def write_text(path, megabytes, rng):
    """Write a text of so many MB, to a paragraph."""
    paragraphs = (ROOT / "input.txt").read_bytes().decode().split("\n\n")
    size = 0
    with open(path, "wb") as file:
        while size < megabytes * 10**6:
            rng.shuffle(paragraphs)
            for paragraph in paragraphs:
                sentence = " ".join(invented(rng) for _ in range(rng.randint(3, 12))).capitalize()
                size += file.write(f"{paragraph} {sentence}.\n\n".encode())
                if size >= megabytes * 10**6:
                    break


# ---------------------------------------------------------------------------------------------------------- the figure


def peak(name, *flags):
    """Train in a process of its own; returns the peak of its resident memory in MB."""
    print(f"{name} {shlex.join(flags)}", file=sys.stderr, flush=True)
    argv = [sys.executable, str(ROOT / f"{name}.py"), *STEPS, *flags]
    with open("log.txt", "w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=os.environ | {"PYTHONUTF8": "1"})
        _, process.returncode, usage = os.wait4(process.pid, 0)
    if process.returncode:
        raise SystemExit(f"{name} failed:\n{Path('log.txt').read_text()[-2000:]}")
    megabytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 10**6
    print(f"its peak: {megabytes:.0f} MB", file=sys.stderr, flush=True)
    return megabytes


def measure(name):
    """Peaks in MB of three trainings of a version: on short.txt, on long.txt, and again on that."""
    first = peak(name, "--data", "long.txt", "--out", f"{name}/first")
    tokenizer = ["--tokenizer", f"{name}/first/tokenizer.json"]
    again = peak(name, "--data", "long.txt", "--out", f"{name}/again", *tokenizer)
    return peak(name, "--data", "short.txt", "--out", f"{name}/short", *tokenizer), first, again


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=500, help="size of the text")
    parser.add_argument("--versions", nargs="+", default=["v2"], help="prefixes: v2 ... v5")
    parser.add_argument("--seed", type=int, default=1, help="the text derives from it")
    add_record_option(parser)
    args = parser.parse_args()
    names = [path.stem for v in args.versions for path in sorted(ROOT.glob(f"{v}_*.py"))]
    worst, began = 0.0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        os.chdir(folder)
        write_text(Path("long.txt"), args.megabytes, random.Random(args.seed))
        write_text(Path("short.txt"), 1, random.Random(args.seed))
        print("| file | text, MB | the model's own peak, MB | beyond it, MB | beyond it, ids from the cache, MB |")
        print("|---|---|---|---|---|", flush=True)
        for name in names:
            model, first, again = measure(name)
            worst = max(worst, first - model, again - model)
            figures = " | ".join(f"{x:.0f}" for x in (model, first - model, again - model))
            print(f"| {name} | {args.megabytes} | {figures} |", flush=True)
        os.chdir(ROOT)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    if args.record:
        what = f"peak memory beyond the model's, text of {args.megabytes} MB, {' '.join(names)}"
        record(args.record, {what: f"{worst:.0f} MB"})


if __name__ == "__main__":
    main()
