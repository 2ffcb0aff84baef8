"""Train every version on one text and compare them in bits/byte: a table, a plot, the curves, and a sample of each.

    python benchmarks/ladder.py                      # every version as its defaults have it, the README's table
    python benchmarks/ladder.py --keep runs/ladder   # and keep the run folders, runs/ladder/VERSION-SEED
    python benchmarks/ladder.py --seconds 60         # the same seconds of training for every version
    python benchmarks/ladder.py --tokens 5000000     # the same tokens
    python benchmarks/ladder.py --seeds 3 --versions v4 v5 --data FILE --flags "--n-layer 6"
    python benchmarks/ladder.py --seeds 3 --versions v4 v5 --data FILE --nanogpt DIR --shares 1 0.083

Runs go one after another, seed by seed, so that a change in the machine's speed meets every version. A figure is what
the version's own `eval` prints for the run: the whole validation split, the weights of the lowest validation loss.
With several seeds the table gives medians, and the lowest and highest in brackets. The curves of all runs go to
ladder.json, for whoever wants to draw them: notebooks/5_training.ipynb does. With a checkout of nanoGPT, that trains
before the versions in each round (see nanogpt.py), and every version gets the seconds that it took for training, or
the parts of them that --shares names.
"""

import argparse
import csv
import json
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from matplotlib.figure import Figure
from nanogpt import run_nanogpt

ROOT = Path(__file__).resolve().parent.parent
SCORE = re.compile(r"^best: .*?([\d.]+) bits/byte(?: \((-?[\d.]+) above)?", re.MULTILINE)
PEER = "nanoGPT"


def named(share):
    """What a version's name in the table gains if it trains for a part of the seconds."""
    return "" if share == 1 else f", 1/{1 / share:.3g} of the seconds"


def run_version(script, arguments, folder):
    """Train once, then evaluate; returns the figures of the run. Raises CalledProcessError if a command fails."""
    began = time.perf_counter()
    command = [sys.executable, str(script), "train", "--out", str(folder), *arguments]
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    wall = time.perf_counter() - began
    data = [a for pair in pairwise(arguments) if pair[0] == "--data" for a in pair]
    printed = subprocess.run(
        [sys.executable, str(script), "eval", "--out", str(folder), *data],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    bits, gap = SCORE.search(printed).groups()
    with open(folder / "metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        "parameters": int(re.search(r"([\d,]+) parameters", shown)[1].replace(",", "")),
        "bits_per_byte": float(bits),
        "gap": float(gap) if gap else None,
        "floor": float(bits) - float(gap) if gap else None,
        "seconds": float(rows[-1]["seconds"]),
        "wall": wall,
        "tokens": int(rows[-1]["tokens"]),
        "curve": [(float(row["seconds"]), float(row["val_bits_per_byte"])) for row in rows],
        "rows": [{name: float(value) for name, value in row.items()} for row in rows],
        "sample": (folder / "sample.txt").read_text(encoding="utf-8"),
    }


def median(runs, key):
    """Median of a figure over the seeds; None where it is not known."""
    values = [run[key] for run in runs]
    return None if None in values else statistics.median(values)


def spread(runs, key, digits):
    """Median of a figure over the seeds, and its range where there are several."""
    values = [run[key] for run in runs]
    text = f"{statistics.median(values):,.{digits}f}"
    return (
        text
        if len(values) == 1
        else f"{text} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"
    )


def table(results):
    """The results as a Markdown table."""
    lines = [
        "| file | parameters | bits/byte | above the floor | training, s | whole command, s | tokens seen |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, runs in results.items():
        gap = spread(runs, "gap", 3) if runs[0]["gap"] is not None else "not known"
        shown = f"`{name}.py`" if (ROOT / f"{name}.py").exists() else name
        cells = [shown, f"{runs[0]['parameters']:,}", spread(runs, "bits_per_byte", 3), gap]
        cells += [spread(runs, "seconds", 0), spread(runs, "wall", 0), f"{runs[0]['tokens']:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(results, path):
    """Validation loss against seconds of training, the first seed of each version."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="seconds of training", ylabel="validation loss (bits/byte)")
    for name, runs in results.items():
        axes.plot(*zip(*runs[0]["curve"], strict=True), "o-", markersize=3, label=name)
    floor = next(iter(results.values()))[0].get("floor")
    if floor:
        axes.axhline(floor, color="gray", linewidth=1, label="entropy of the text")
    axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def write_curves(results, command, path):
    """{"command", "floor", "figures": {version: medians}, "curves": {version: [metrics.csv]}}."""
    curves = {}
    for name, runs in results.items():
        if "rows" in runs[0]:
            curves[name] = [run["rows"] for run in runs]
    kept = ("parameters", "bits_per_byte", "gap", "seconds", "wall", "tokens")
    figures = {name: {key: median(runs, key) for key in kept} for name, runs in results.items()}
    floor = next(iter(results.values()))[0].get("floor")
    content = {"command": command, "floor": floor, "figures": figures, "curves": curves}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_report(args, results, command):
    """ladder.md, .png and .json, rewritten after every seed, so that an interrupted comparison keeps what it has."""
    args.out.mkdir(parents=True, exist_ok=True)
    text = f"# The ladder, measured\n\n`{command}`\n\n{table(results)}\n\n![loss against seconds]({args.name}.png)\n"
    for name, runs in results.items():
        if "sample" in runs[0]:
            text += f"\n## {name}\n\n```text\n{runs[0]['sample'].strip()}\n```\n"
    (args.out / f"{args.name}.md").write_text(text, encoding="utf-8")
    plot(results, args.out / f"{args.name}.png")
    write_curves(results, command, args.out / f"{args.name}.json")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", default=str(ROOT / "input.txt"), help="the text (default: input.txt)"
    )
    parser.add_argument(
        "--versions", nargs="+", default=[f"v{i}" for i in range(6)], help="prefixes: v0 ... v5"
    )
    parser.add_argument("--seconds", type=float, help="seconds of training, the same for all")
    parser.add_argument("--tokens", type=int, help="tokens of training, the same for all")
    parser.add_argument(
        "--nanogpt", type=Path, metavar="DIR", help="a checkout of nanoGPT, to train as a peer"
    )
    parser.add_argument(
        "--shares", nargs="+", type=float, default=[1.0], help="of nanoGPT's seconds, to train for"
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs per version")
    parser.add_argument(
        "--flags", default="", help="further flags for every version, in one string"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results",
        help="folder for NAME.md, .png and .json",
    )
    parser.add_argument("--name", default="ladder")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the run folders there (default: delete them)"
    )
    args = parser.parse_args()
    scripts = [path for v in args.versions for path in sorted(ROOT.glob(f"{v}_*.py"))]
    names = [script.stem + named(share) for script in scripts for share in args.shares]
    results = {name: [] for name in [*names, *[PEER] * bool(args.nanogpt)]}
    command = "python benchmarks/ladder.py " + shlex.join(sys.argv[1:])

    def add(name, seed, run):
        results[name].append(run)
        speed = f"{run['seconds']:.1f} s, {run['tokens'] / run['seconds']:,.0f} tokens/s"
        print(f"{name} seed {seed}: {run['bits_per_byte']:.4f} bits/byte, {speed}", flush=True)

    for seed in range(1337, 1337 + args.seeds):
        seconds = args.seconds
        if args.nanogpt:
            add(PEER, seed, run_nanogpt(args.nanogpt, args.data, seed))
            seconds = results[PEER][-1]["seconds"]
        for script in scripts:
            arguments = ["--data", args.data, "--seed", str(seed), *shlex.split(args.flags)]
            if args.tokens:
                sys.path.insert(0, str(ROOT))
                cfg = __import__(script.stem).Config()
                arguments += [
                    "--max-steps",
                    str(round(args.tokens / cfg.batch_size / cfg.block_size)),
                ]
            for share in args.shares:
                budget = ["--max-seconds", f"{seconds * share:.1f}"] if seconds else []
                name = script.stem + named(share)
                with tempfile.TemporaryDirectory() as temporary:
                    folder = (args.keep or Path(temporary)) / f"{name}-{seed}"
                    add(name, seed, run_version(script, arguments + budget, folder))
        write_report(args, {name: runs for name, runs in results.items() if runs}, command.strip())
    print(table(results))


if __name__ == "__main__":
    main()
