"""Train every version on one text and compare them: bits/byte, seconds, loss curves, and a sample of each.

    python benchmarks/ladder.py                      # every version at its defaults, the README's table
    python benchmarks/ladder.py --keep runs/ladder   # and keep the run folders, runs/ladder/VERSION-SEED
    python benchmarks/ladder.py --seconds 60         # the same seconds of training for every version
    python benchmarks/ladder.py --tokens 5000000     # the same tokens
    python benchmarks/ladder.py --seeds 3 --versions v4 v5 --data FILE --flags "--n-layer 6"
    python benchmarks/ladder.py --versions v4 v5 --data FILE --nanogpt DIR --shares 1 0.083

Runs go one after another, seed by seed, so that a change in the machine's speed meets every version. A figure is what
the version's own `eval` prints for the run: the whole validation split, the weights of the lowest validation loss.
With a checkout of nanoGPT, that trains first in each round (see nanogpt.py); with --shares every version gets these
parts of the seconds that its training took. Writes benchmarks/results/NAME.json and NAME.png.
"""

import argparse
import csv
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from matplotlib.figure import Figure
from nanogpt import run_nanogpt
from report import RESULTS, ROOT, save

SCORE = re.compile(r"^best: .*?([\d.]+) bits/byte(?: \((-?[\d.]+) above)?", re.MULTILINE)
PEER = "nanoGPT"
HEADER = ["file", "parameters", "bits/byte", "above the entropy", "training, s"]
HEADER += ["whole command, s", "tokens seen"]


def run_version(script, arguments, folder):
    """Train, evaluate and sample once; returns the run's figures. Raises CalledProcessError."""
    began = time.perf_counter()
    command = [sys.executable, str(script), "train", "--out", str(folder), *arguments]
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    wall = time.perf_counter() - began
    bits, gap = SCORE.search(shown).groups()
    with open(folder / "metrics.csv", encoding="utf-8") as file:
        rows = [{name: float(x) for name, x in row.items()} for row in csv.DictReader(file)]
    return {
        "parameters": int(re.search(r"([\d,]+) parameters", shown)[1].replace(",", "")),
        "bits_per_byte": float(bits),
        "gap": float(gap) if gap else None,
        "seconds": rows[-1]["seconds"],
        "wall": wall,
        "tokens": int(rows[-1]["tokens"]),
        "rows": rows,
        "sample": (folder / "sample.txt").read_text(encoding="utf-8"),
    }


def spread(values, digits):
    """Median over the seeds, and the range in brackets where there are several."""
    if None in values:
        return "not known"
    text = f"{statistics.median(values):,.{digits}f}"
    ends = f"{min(values):,.{digits}f} to {max(values):,.{digits}f}"
    return text if len(values) == 1 else f"{text} ({ends})"


def table(results):
    """The results {version: its runs} as rows of cells."""
    rows = [HEADER]
    for name, runs in results.items():
        shown = f"`{name}.py`" if (ROOT / f"{name}.py").exists() else name
        cells = [shown, f"{runs[0]['parameters']:,}"]
        columns = (("bits_per_byte", 3), ("gap", 3), ("seconds", 0), ("wall", 0), ("tokens", 0))
        rows.append(cells + [spread([run[key] for run in runs], n) for key, n in columns])
    return rows


def plot(results, entropy, path):
    """Validation loss against seconds of training, the first seed of each version."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="seconds of training", ylabel="validation loss (bits/byte)")
    for name, (run, *_) in results.items():
        curve = [(row["seconds"], row["val_bits_per_byte"]) for row in run["rows"]]
        style = "k--" if name == PEER else "o-"
        axes.plot(*zip(*curve, strict=True), style, markersize=3, label=name)
    if entropy:
        axes.axhline(entropy, color="gray", linewidth=1, label="entropy of the text")
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = [0.2, 0.3, 0.5, 1, 2, 3]
    axes.set_yticks(ticks, map(str, ticks), minor=False)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def write(path, question, results):
    """NAME.json and NAME.png, after every seed, so that an interrupted comparison keeps its runs."""
    known = [run for runs in results.values() for run in runs if run["gap"] is not None]
    entropy = known[0]["bits_per_byte"] - known[0]["gap"] if known else None
    names = ("parameters", "bits_per_byte", "gap", "seconds", "wall", "tokens")
    figures = {
        name: {key: statistics.median(run[key] for run in runs) for key in names if runs[0][key]}
        for name, runs in results.items()
    }
    curves = {name: [run["rows"] for run in runs] for name, runs in results.items()}
    samples = {name: runs[0].get("sample", "") for name, runs in results.items()}
    more = {"floor": entropy, "figures": figures, "curves": curves, "samples": samples}
    plot(results, entropy, path.with_suffix(".png"))
    save(path, question, [table(results)], **more)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", default=str(ROOT / "input.txt"), help="the text (default: input.txt)")
    add("--versions", nargs="+", default=[f"v{i}" for i in range(6)], help="prefixes: v0 ... v5")
    add("--seconds", type=float, help="seconds of training, the same for all")
    add("--tokens", type=int, help="tokens of training, the same for all")
    add("--nanogpt", type=Path, metavar="DIR", help="a checkout of nanoGPT, to train as a peer")
    add("--shares", nargs="+", type=float, default=[], help="of nanoGPT's seconds, as budgets")
    add("--seeds", type=int, default=1, help="runs per version")
    add("--flags", default="", help="further flags for every version, in one string")
    add("--keep", type=Path, metavar="DIR", help="keep the run folders there")
    add("--out", type=Path, default=RESULTS / "ladder.json", help="where the result goes")
    add("--question", default="How far does each version get?", help="its heading")
    args = parser.parse_args()
    scripts = [path for v in args.versions for path in sorted(ROOT.glob(f"{v}_*.py"))]
    results = {}

    def keep(name, seed, run):
        results.setdefault(name, []).append(run)
        speed = f"{run['seconds']:.1f} s, {run['tokens'] / run['seconds']:,.0f} tokens/s"
        print(f"{name} seed {seed}: {run['bits_per_byte']:.4f} bits/byte, {speed}", flush=True)

    for seed in range(1337, 1337 + args.seeds):
        seconds = args.seconds
        if args.nanogpt:
            keep(PEER, seed, run_nanogpt(args.nanogpt, args.data, seed))
            seconds = results[PEER][-1]["seconds"] if args.shares else seconds
        for script in scripts:
            flags = ["--data", args.data, "--seed", str(seed), *shlex.split(args.flags)]
            if args.tokens:
                sys.path.insert(0, str(ROOT))
                cfg = __import__(script.stem).Config()
                steps = round(args.tokens / cfg.batch_size / cfg.block_size)
                flags += ["--max-steps", str(steps)]
            for share in args.shares or [1.0]:
                budget = ["--max-seconds", f"{seconds * share:.1f}"] if seconds else []
                name = script.stem + ("" if share == 1 else f", 1/{1 / share:.3g} of the seconds")
                with tempfile.TemporaryDirectory() as temporary:
                    folder = (args.keep or Path(temporary)) / f"{name}-{seed}"
                    keep(name, seed, run_version(script, flags + budget, folder))
        write(args.out, args.question, results)


if __name__ == "__main__":
    main()
