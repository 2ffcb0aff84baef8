"""How surprised are v1 and v5 by each token of a story that they never saw? Writes docs/tokens.json for the front page.

    python docs/tokens.py runs/ladder      # the folder that `benchmarks/ladder.py --keep` wrote

Each token: its text, its surprise in bits (-log2 of its probability), and the ten most probable tokens, with their
probabilities in percent. The story is a whole one of input.txt's validation split.
"""

import argparse
import importlib
import json
import math
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data"), str(ROOT / "benchmarks")]

import stories as maker  # noqa: E402
from surprise import validation_stories  # noqa: E402

NAMES = ("v1_transformer", "v5_ngpt")


@torch.inference_mode()
def surprises(run, story):
    """[[text, bits, [[text, percent], ...]], ...] for the tokens of a story, each after at least half a window."""
    block, decode = run.cfg.block_size, run.tokenizer.decode
    before = run.tokenizer.encode(maker.SEPARATOR)  # what stands before every story
    ids = torch.tensor(run.tokenizer.encode(maker.SEPARATOR + story))
    assert ids[: len(before)].tolist() == before
    tokens, done = [], len(before)
    while done < len(ids):
        start = max(0, done - max(1, block // 2))
        end = min(len(ids), start + block + 1)
        probs = run.model(ids[None, start : end - 1])[0][0].softmax(-1)  # (T, V)
        for i in range(done, end):
            row = probs[i - start - 1]
            top = [
                [decode([j]), round(100 * row[j].item(), 1)] for j in row.topk(10).indices.tolist()
            ]
            tokens.append([decode([ids[i].item()]), round(-math.log2(row[ids[i]].item()), 2), top])
        done = end
    return tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder with v1_transformer-1337 and v5_ngpt-1337")
    parser.add_argument("--story", type=int, default=0, help="which of the validation split")
    args = parser.parse_args()
    text = (ROOT / "input.txt").read_text(encoding="utf-8")
    story = validation_stories(text, args.story + 1)[args.story].strip()
    found = {}
    for name in NAMES:
        run = importlib.import_module(name).load_run(args.runs / f"{name}-1337", device="cpu")
        found[name] = surprises(run, story)
        bits = sum(token[1] for token in found[name])
        print(
            f"{name}: {len(found[name])} tokens, {bits:.1f} bits, {bits / len(story.encode()):.3f} bits/byte"
        )
    rows = {
        k: "[\n"
        + ",\n".join(json.dumps(t, ensure_ascii=False, separators=(",", ":")) for t in v)
        + "\n]"
        for k, v in found.items()
    }
    content = "{" + ",\n".join(f"{json.dumps(k)}: {v}" for k, v in rows.items()) + "}\n"
    (ROOT / "docs" / "tokens.json").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
