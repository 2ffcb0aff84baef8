"""Train v2 to v5 once, then score the validation split in windows of 1x, 2x and 4x the trained context.

    python benchmarks/length.py [--data FILE] [--seconds 120] [--out FILE]
    python benchmarks/length.py --runs DIR          # score runs that `ladder.py --keep DIR` trained

Every token is scored once in each column. In longer windows fewer tokens stand near the start, with little to read:
a model that copes with them must score better, even if it uses nothing that is further away than in training. v1 has no
position embeddings beyond its own, so it cannot take part. The table is printed and written to benchmarks/results/length.md.
"""

import argparse
import importlib
import shlex
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", default=str(ROOT / "input.txt"), help="the text (default: input.txt)"
    )
    parser.add_argument(
        "--seconds", type=float, default=0, help="seconds of training (default: the version's own)"
    )
    parser.add_argument(
        "--versions", nargs="+", default=["v2_bpe_rope", "v3_alibi", "v4_gqa_swiglu", "v5_ngpt"]
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--runs",
        type=Path,
        metavar="DIR",
        help="of trained runs, VERSION-SEED (default: train them)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results" / "length.md",
        help="where the table goes",
    )
    args = parser.parse_args()
    lines = ["| version | seed | 1x, bits/byte | 2x | 4x |", "|---|---|---|---|---|"]
    for seed in range(1337, 1337 + args.seeds):
        for name in args.versions:
            version = importlib.import_module(name)
            with tempfile.TemporaryDirectory() as temporary:
                folder = (args.runs or Path(temporary)) / f"{name}-{seed}"
                if not args.runs:
                    version.train(
                        version.Config(
                            data=args.data, max_seconds=args.seconds, out=str(folder), seed=seed
                        )
                    )
                run = version.load_run(folder, data=args.data)
            corpus, block_size = version.load_corpus(run.cfg, run.tokenizer), run.cfg.block_size
            windows = [k * block_size for k in (1, 2, 4)]
            scores = [
                version.evaluate(run.model, corpus.val, run.tokenizer, window)[1]
                for window in windows
            ]
            cells = [f"`{name}`", str(seed), *(f"{score:.4f}" for score in scores)]
            lines.append(f"| {' | '.join(cells)} |")
    command = ("python benchmarks/length.py " + shlex.join(sys.argv[1:])).strip()
    table = "\n".join(lines)
    args.out.write_text(
        f"# Longer than the training windows\n\n`{command}`\n\n{table}\n", encoding="utf-8"
    )
    print(table)


if __name__ == "__main__":
    main()
