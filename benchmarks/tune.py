"""Are the learning rates of all versions tuned alike? The same grid, seconds and seeds for each, in bits/byte.

    python benchmarks/tune.py                             # v1 to v5, the learning rates at half, once, twice
    python benchmarks/tune.py --versions v4 --seconds 60 --seeds 3 --data FILE FILE
    python benchmarks/tune.py --jobs 2                    # two runs at once, each on one thread

The default of each learning rate (AdamW's, and Muon's where a version has it) is multiplied by one common factor. A
version whose best factor is not 1 is badly tuned, and its rung of the ladder not fair. Runs go version by version
within each factor, so that a change in the machine's speed meets every version. Medians, with the lowest and highest
in brackets where there are several seeds; the best is bold.

Each text is used without its validation split, and the last tenth of what is left judges: what is learned about
learning rates is learned from the training split.
"""

import argparse
import os
import shlex
import statistics
import sys
import tempfile
from itertools import product
from multiprocessing.pool import ThreadPool
from pathlib import Path

from ladder import ROOT, run_version
from optimizers import training_split

RATES = ("learning_rate", "muon_learning_rate")


def scaled(script, factor):
    """Flags that multiply every learning rate of a version by a factor."""
    cfg = __import__(script.stem).Config()
    pairs = [
        (f"--{name.replace('_', '-')}", str(getattr(cfg, name) * factor))
        for name in RATES
        if hasattr(cfg, name)
    ]
    return [text for pair in pairs for text in pair]


def table(results, factors):
    """Bits/byte by version and factor, as Markdown."""
    lines = [
        "| file | " + " | ".join(f"x {factor:g}" for factor in factors) + " |",
        "|---" * (len(factors) + 1) + "|",
    ]
    for name, row in results.items():
        medians = [statistics.median(row[factor]) for factor in factors]
        cells = [f"**{m:.3f}**" if m == min(medians) else f"{m:.3f}" for m in medians]
        if len(row[factors[0]]) > 1:
            ends = [(min(row[factor]), max(row[factor])) for factor in factors]
            cells = [
                f"{cell} ({low:.3f} to {high:.3f})"
                for cell, (low, high) in zip(cells, ends, strict=True)
            ]
        lines.append(f"| `{name}.py` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", nargs="+", default=[str(ROOT / "input.txt")], help="texts (default: input.txt)"
    )
    parser.add_argument(
        "--versions", nargs="+", default=[f"v{i}" for i in range(1, 6)], help="prefixes: v0 ... v5"
    )
    parser.add_argument(
        "--factors", nargs="+", type=float, default=[0.5, 1.0, 2.0], help="of the default rates"
    )
    parser.add_argument("--seconds", type=float, default=40.0, help="of training, for each run")
    parser.add_argument("--seeds", type=int, default=1, help="runs per version and factor")
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at once; with more than one each has one thread"
    )
    parser.add_argument("--flags", default="", help="further flags for every run, in one string")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results" / "tune.md",
        help="where the table goes",
    )
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    scripts = [path for v in args.versions for path in sorted(ROOT.glob(f"{v}_*.py"))]
    command = ("python benchmarks/tune.py " + shlex.join(sys.argv[1:])).strip()
    report = f"# Learning rates, {args.seconds:g} seconds each\n\n`{command}`\n"
    if args.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    for data in args.data:
        results = {script.stem: {factor: [] for factor in args.factors} for script in scripts}
        with tempfile.TemporaryDirectory() as folder, ThreadPool(args.jobs) as pool:
            part = training_split(data, folder)

            def run(job, part=part, results=results):
                seed, factor, script = job
                flags = [
                    "--data",
                    str(part),
                    "--max-seconds",
                    str(args.seconds),
                    "--evals",
                    "2",
                    "--seed",
                    str(seed),
                ]
                flags += [
                    "--max-new-tokens",
                    "0",
                    *scaled(script, factor),
                    *shlex.split(args.flags),
                ]
                with tempfile.TemporaryDirectory() as folder:
                    figure = run_version(script, flags, Path(folder) / "run")["bits_per_byte"]
                results[script.stem][factor].append(figure)
                print(
                    f"{part.name}, {script.stem} x {factor:g} seed {seed}: {figure:.4f} bits/byte",
                    flush=True,
                )

            pool.map(
                run, product(range(1337, 1337 + args.seeds), args.factors, scripts), chunksize=1
            )
        report += f"\n{Path(data).name}:\n\n{table(results, args.factors)}\n"
        args.out.write_text(report, encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
