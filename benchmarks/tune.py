"""Are the learning rates of all versions tuned alike? The same grid, seconds and seeds for each, in bits/byte.

    python benchmarks/tune.py                             # v1 to v5, the learning rates at half, once, twice
    python benchmarks/tune.py --versions v4 --seconds 60 --seeds 3 --data FILE
    python benchmarks/tune.py --jobs 2                    # two runs at once, each on one thread

The default of each learning rate (AdamW's, and Muon's where a version has it) is multiplied by one common factor. A
version whose best factor is not 1 is badly tuned, and its rung of the ladder not fair. Runs go version by version
within each factor, so that a change in the machine's speed meets every version. Medians; the best is bold.

The figures are those of input.txt's validation split, so this is how the defaults were chosen, not how they are judged
on a text of your own.
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

RATES = ("learning_rate", "matrix_learning_rate")


def scaled(script, factor):
    """Flags that multiply every learning rate of a version by a factor."""
    cfg = __import__(script.stem).Config()
    pairs = [(f"--{name.replace('_', '-')}", str(getattr(cfg, name) * factor)) for name in RATES if hasattr(cfg, name)]
    return [text for pair in pairs for text in pair]


def table(results, factors):
    """Bits/byte by version and factor, as Markdown."""
    lines = ["| file | " + " | ".join(f"x {factor:g}" for factor in factors) + " |", "|---" * (len(factors) + 1) + "|"]
    for name, row in results.items():
        medians = [statistics.median(row[factor]) if row[factor] else None for factor in factors]
        best = min((m for m in medians if m is not None), default=None)
        cells = ["" if m is None else f"**{m:.3f}**" if m == best else f"{m:.3f}" for m in medians]
        lines.append(f"| `{name}.py` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=str(ROOT / "input.txt"), help="the text (default: input.txt)")
    parser.add_argument("--versions", nargs="+", default=[f"v{i}" for i in range(1, 6)], help="prefixes: v0 ... v5")
    parser.add_argument("--factors", nargs="+", type=float, default=[0.5, 1.0, 2.0], help="of the default rates")
    parser.add_argument("--seconds", type=float, default=40.0, help="of training, for each run")
    parser.add_argument("--seeds", type=int, default=1, help="runs per version and factor")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; with more than one each has one thread")
    parser.add_argument("--flags", default="", help="further flags for every run, in one string")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "tune.md", help="where the table goes")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    scripts = [path for v in args.versions for path in sorted(ROOT.glob(f"{v}_*.py"))]
    results = {script.stem: {factor: [] for factor in args.factors} for script in scripts}
    command = ("python benchmarks/tune.py " + shlex.join(sys.argv[1:])).strip()
    if args.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

    def run(job):
        seed, factor, script = job
        flags = ["--data", args.data, "--max-seconds", str(args.seconds), "--evals", "2", "--seed", str(seed)]
        flags += ["--max-new-tokens", "0", *scaled(script, factor), *shlex.split(args.flags)]
        with tempfile.TemporaryDirectory() as folder:
            figure = run_version(script, flags, Path(folder) / "run")["bits_per_byte"]
        results[script.stem][factor].append(figure)
        print(f"{script.stem} x {factor:g} seed {seed}: {figure:.4f} bits/byte", flush=True)

    with ThreadPool(args.jobs) as pool:
        pool.map(run, product(range(1337, 1337 + args.seeds), args.factors, scripts), chunksize=1)
    title = f"# Learning rates, {args.seconds:g} seconds each\n\n`{command}`\n\n"
    args.out.write_text(title + table(results, args.factors) + "\n", encoding="utf-8")
    print(table(results, args.factors))


if __name__ == "__main__":
    main()
