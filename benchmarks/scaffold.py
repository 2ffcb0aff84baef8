"""What does Scaffold-BPE (arXiv:2404.17808) do to compression, to token frequencies and to a model?

    python benchmarks/scaffold.py                                   # input.txt, no model
    python benchmarks/scaffold.py --data input.txt other.txt --steps 2000
    python benchmarks/scaffold.py --seconds 120 --seeds 3

Tokenizers, plain and scaffold, are learned from the first 90 % of a text. Bytes/token is of the last 10 %; entropy and
rare tokens (used less than 10 times; the 256 bytes count too) are of the first 90 %, which is what a model learns from.
With --steps or --seconds v2 is trained with each tokenizer, all else equal: the same steps are the same tokens, not the
same bytes. Bits/byte is of the whole validation split, with the weights of the lowest validation loss; with several
seeds it is the median, and the lowest and highest stand in brackets. Files go to a temporary directory.
"""

import argparse
import contextlib
import math
import os
import statistics
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from report import RESULTS, ROOT, save

sys.path.insert(0, str(ROOT))

import v2_bpe_rope as v2
from bpe_tokenizer import BPETokenizer, ScaffoldTokenizer

RARE = 10  # uses below which a token counts as rare
HEADER = [
    "text",
    "vocabulary",
    "tokenizer",
    "scaffolds",
    "bytes/token",
    "entropy, bits",
    "/ log2 of the vocabulary",
]
HEADER += [f"used less than {RARE} times"]


def frequency_figures(counts):
    """Uses of each token, (vocabulary,) -> (entropy in bits, the same / log2 of the vocabulary, share of rare ones)."""
    p = counts[counts > 0] / counts.sum()
    entropy = float(-(p * np.log2(p)).sum())
    return entropy, entropy / math.log2(len(counts)), float((counts < RARE).mean())


def bits_per_byte(cfg):
    """Train v2 as cfg says and score the whole validation split."""
    with contextlib.redirect_stdout(sys.stderr):  # its progress is not part of the table
        folder = v2.train(cfg)
    run = v2.load_run(str(folder))
    corpus = v2.load_corpus(run.cfg, run.tokenizer)
    return v2.evaluate(run.model, corpus.val, run.tokenizer, run.cfg.block_size)[1]


def measure(data, vocab_size, scaffold, args):
    """One row of the table, its cells as text."""
    name = f"{data.stem}-{vocab_size}-{'scaffold' if scaffold else 'plain'}"
    print(f"{name}: learning the tokenizer", file=sys.stderr, flush=True)
    text = data.read_bytes().decode().removeprefix("\ufeff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a short text has fewer tokens: the table tells how many
        kind = ScaffoldTokenizer if scaffold else BPETokenizer
        learned = kind.train(text[: len(text) * 9 // 10], vocab_size, progress=False)
    folder = Path(tempfile.mkdtemp(dir="."))
    learned.save(folder / "tokenizer.json")
    budget = {"max_steps": args.steps or 1, "max_seconds": args.seconds}
    cfg = v2.Config(data=str(data), tokenizer=str(folder / "tokenizer.json"), **budget)
    corpus = v2.load_corpus(cfg)
    counts = np.bincount(corpus.train, minlength=learned.vocab_size)
    entropy, relative, rare = frequency_figures(counts)
    cells = [
        data.name,
        f"{learned.vocab_size:,}",
        "scaffold" if scaffold else "plain",
        f"{len(learned.scaffolds) if scaffold else 0:,}",
    ]
    cells += [
        f"{len(learned.decode_bytes(corpus.val[1:])) / (len(corpus.val) - 1):.3f}",
        f"{entropy:.3f}",
        f"{relative:.4f}",
        f"{rare:.2%}",
    ]
    if args.steps or args.seconds:
        scores = []
        for seed in range(1337, 1337 + args.seeds):
            print(f"{name}: training v2, seed {seed}", file=sys.stderr, flush=True)
            scores.append(bits_per_byte(replace(cfg, out=str(folder / str(seed)), seed=seed)))
        spread = f" ({min(scores):.4f} to {max(scores):.4f})" if len(scores) > 1 else ""
        cells.append(f"{statistics.median(scores):.4f}{spread}")
    print(f"{name}: {' | '.join(cells)}", file=sys.stderr, flush=True)
    return cells


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        default=[ROOT / "input.txt"],
        help="texts (default: input.txt)",
    )
    parser.add_argument("--vocab-sizes", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument(
        "--steps", type=int, default=0, help="steps of a v2 run on each tokenizer (default: no run)"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="seconds of training of each run"
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs per tokenizer")
    parser.add_argument("--out", type=Path, default=RESULTS / "scaffold.json", help="the result")
    args = parser.parse_args()
    args.out = args.out.resolve()
    texts, rows = [path.resolve() for path in args.data], []
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)  # where v2 keeps its cache of token ids
            for data in texts:
                for vocab_size in args.vocab_sizes:
                    rows += [
                        measure(data, vocab_size, scaffold, args) for scaffold in (False, True)
                    ]
            os.chdir(ROOT)
    except (v2.UserError, ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")
    header = HEADER + ["v2, bits/byte"] * bool(args.steps or args.seconds)
    question = "What does Scaffold-BPE do to compression, to token frequencies and to a model?"
    save(args.out, question, [[header, *rows]])


if __name__ == "__main__":
    main()
