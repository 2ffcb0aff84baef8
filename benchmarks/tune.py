"""Are the learning rates of all versions tuned alike? The same grid, tokens and seeds for each, in bits/byte.

    python benchmarks/tune.py                             # v1 to v5, the learning rates at half, once, twice
    python benchmarks/tune.py --versions v4 --tokens 800000 --seeds 3 --data FILE

The default of each learning rate (AdamW's, and Muon's where a version has it) is multiplied by one common factor. A
version whose best factor is not 1 is badly tuned, and its rung of the ladder not fair. The budget is in tokens, so
that the result does not depend on what else the machine does.

The text is used without its validation split, and the last tenth of what is left judges: what is learned about
learning rates is learned from the training split.
"""

import argparse
import sys
import tempfile
from itertools import product
from pathlib import Path
from statistics import median

from ladder import run_version, spread
from report import RESULTS, ROOT, save

RATES = ("learning_rate", "muon_learning_rate")


def training_split(data, folder):
    """A copy of a text without its last tenth, in a folder."""
    text = Path(data).read_bytes().decode()
    path = Path(folder) / Path(data).name
    path.write_bytes(text[: len(text) * 9 // 10].encode())
    return path


def scaled(script, factor, tokens):
    """Flags that multiply every learning rate of a version by a factor, for a budget in tokens."""
    cfg = __import__(script.stem).Config()
    steps = f"--max-steps={round(tokens / cfg.batch_size / cfg.block_size)}"
    names = [name for name in RATES if hasattr(cfg, name)]
    return [steps, *(f"--{name.replace('_', '-')}={getattr(cfg, name) * factor}" for name in names)]


def measure(scripts, args, data):
    """Bits/byte of every version, factor and seed on one text: {name: {factor: [...]}}."""
    found = {script.stem: {factor: [] for factor in args.factors} for script in scripts}
    with tempfile.TemporaryDirectory() as folder:
        part = training_split(data, folder)
        for seed, factor, script in product(range(args.seeds), args.factors, scripts):
            flags = ["--data", str(part), "--evals", "2", *scaled(script, factor, args.tokens)]
            flags += ["--seed", str(1337 + seed), "--max-new-tokens", "0"]
            run = run_version(script, flags, Path(folder) / f"{script.stem}-{factor}-{seed}")
            found[script.stem][factor].append(run["bits_per_byte"])
            print(f"{script.stem} x {factor:g}: {run['bits_per_byte']:.4f} bits/byte", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", nargs="+", default=[str(ROOT / "input.txt")], help="texts (default: input.txt)")
    add("--versions", nargs="+", default=[f"v{i}" for i in range(1, 6)], help="prefixes: v0 ... v5")
    add("--factors", nargs="+", type=float, default=[0.5, 1.0, 2.0], help="of the default rates")
    add("--tokens", type=int, default=400_000, help="of training, for each run")
    add("--seeds", type=int, default=1, help="runs per version and factor")
    add("--out", type=Path, default=RESULTS / "tune.json", help="where the result goes")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    scripts = [path for v in args.versions for path in sorted(ROOT.glob(f"{v}_*.py"))]
    tables = []
    for data in args.data:
        found = measure(scripts, args, data)
        rows = [[f"{Path(data).name}", *(f"x {factor:g}" for factor in args.factors)]]
        for name, by_factor in found.items():
            best = min(map(median, by_factor.values()))
            cells = [(spread(runs, 3), median(runs) == best) for runs in by_factor.values()]
            rows.append([f"`{name}.py`", *(f"**{cell}**" if b else cell for cell, b in cells)])
        tables.append(rows)
    note = f"Bits/byte after {args.tokens:,} tokens of training; the best of each row is bold."
    save(args.out, "Are the learning rates of all versions tuned alike?", tables, note)


if __name__ == "__main__":
    main()
