"""Train v2 to v5 once, then score the validation split in windows of 1x, 2x and 4x the trained context.

    python benchmarks/length.py [--data FILE] [--seconds 120] [--out FILE]
    python benchmarks/length.py --runs DIR          # score runs that `ladder.py --keep DIR` trained

v1 has no position embeddings beyond its own, so it cannot take part.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

from report import RESULTS, ROOT, save

sys.path.insert(0, str(ROOT))
NAMES = ["v2_bpe_rope", "v3_alibi", "v4_gqa_swiglu", "v5_ngpt"]
NOTE = """Every token is scored once in each column. In longer windows fewer tokens stand near a start with little to
read, so a model that copes with them must score better: the table shows who copes, not how much the far text is worth."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", default=str(ROOT / "input.txt"), help="the text (default: input.txt)")
    add("--seconds", type=float, default=0, help="seconds of training (default: the version's own)")
    add("--versions", nargs="+", default=NAMES)
    add("--runs", type=Path, metavar="DIR", help="of runs, VERSION-1337 (default: train them)")
    add("--out", type=Path, default=RESULTS / "length.json", help="where the result goes")
    args = parser.parse_args()
    rows = [["version", "1x, bits/byte", "2x", "4x"]]
    for name in args.versions:
        version = importlib.import_module(name)
        with tempfile.TemporaryDirectory() as temporary:
            folder = (args.runs or Path(temporary)) / f"{name}-1337"
            if not args.runs:
                budget = {"max_seconds": args.seconds, "out": str(folder)}
                version.train(version.Config(data=args.data, **budget))
            run = version.load_run(folder, data=args.data)
        corpus = version.load_corpus(run.cfg, run.tokenizer)
        windows = [k * run.cfg.block_size for k in (1, 2, 4)]
        scores = [
            version.evaluate(run.model, corpus.val, run.tokenizer, window)[1] for window in windows
        ]
        rows.append([f"`{name}`", *(f"{score:.4f}" for score in scores)])
    save(args.out, "What do windows longer than those of training do to a model?", [rows], NOTE)


if __name__ == "__main__":
    main()
