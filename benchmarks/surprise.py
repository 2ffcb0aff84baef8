"""Where in a story does a trained model lose more bits than the grammar asks for? Trains a model, writes a JSON file.

    python benchmarks/surprise.py                                   # v5 with its defaults
    python benchmarks/surprise.py --version v4_gqa_swiglu --seconds 60 --stories 40
    python benchmarks/surprise.py --run FOLDER                      # a v5 that was trained on input.txt before

data/stories.py knows where in a story a choice was made and how many bits it holds; the text between two choices is
certain and holds none. It also knows where something named before returns, and how many bytes after its last mention.
`compare` cuts a story at all of these characters, and gives the bits of the grammar and of the model for each piece.
notebooks/5_training.ipynb draws the file that this command writes, benchmarks/results/surprise.json.
"""

import argparse
import importlib
import math
import sys
import tempfile
from bisect import bisect_right
from pathlib import Path

import torch
import torch.nn.functional as F
from report import RESULTS, ROOT, save

sys.path[:0] = [str(ROOT), str(ROOT / "data")]

import stories as maker  # noqa: E402


def validation_stories(text, n):
    """The first n whole stories of the validation split."""
    return text[maker.train_characters(text) :].split(maker.SEPARATOR)[1:-1][:n]


@torch.inference_mode()
def token_bits(model, tokenizer, story, block_size):
    """[(end, bits)] of each token of a story: the byte where it ends, and -log2 of its probability.

    The model reads the separator before the story, and at least block_size / 2 tokens before each token that it scores.
    """
    ids = tokenizer.encode(maker.SEPARATOR + story)
    ids, bits, done = torch.tensor(ids), [], 1
    while done < len(ids):
        start = max(0, done - max(1, block_size // 2))
        end = min(len(ids), start + block_size + 1)
        logits, _ = model(ids[None, start : end - 1])
        nats = F.cross_entropy(logits[0].float(), ids[start + 1 : end], reduction="none")
        bits += (nats[done - start - 1 :] / math.log(2)).tolist()
        done = end
    ends, at = [], -len(maker.SEPARATOR)
    for i in ids.tolist():
        at += len(tokenizer.token_bytes(i))
        ends.append(at)
    return [(end, b) for end, b in zip(ends[1:], bits, strict=True) if end > 0]


def compare(model, tokenizer, story, block_size):
    """A story in pieces, each a dict: text, grammar and model (bits), distance (bytes since the last mention, or None).

    A piece begins where a choice is made or where something returns. The bits of a token go to the piece in which the
    token ends.
    """
    pen, _ = maker.read_corpus(story + "\n")
    starts = sorted(
        {0, *(step.offset for step in pen.steps), *(recall.offset for recall in pen.recalls)}
    )
    ends = [*starts[1:], len(story)]
    pieces = [
        {"text": story[a:b], "grammar": 0.0, "model": 0.0, "distance": None}
        for a, b in zip(starts, ends, strict=True)
    ]
    place = {start: piece for start, piece in zip(starts, pieces, strict=True)}
    for step in pen.steps:
        place[step.offset]["grammar"] += step.bits
    for recall in pen.recalls:
        place[recall.offset]["distance"] = recall.distance
    byte_starts = [len(story[:start].encode()) for start in starts]
    for end, bits in token_bits(model, tokenizer, story, block_size):
        pieces[bisect_right(byte_starts, end - 1) - 1]["model"] += bits
    return [piece for piece in pieces if piece["text"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--version", default="v5_ngpt", help="v2_bpe_rope ... v5_ngpt")
    parser.add_argument(
        "--seconds", type=float, default=0, help="of training (default: the version's own)"
    )
    parser.add_argument(
        "--run", type=Path, metavar="FOLDER", help="a run of the version (default: train)"
    )
    parser.add_argument("--stories", type=int, default=40, help="of the validation split")
    parser.add_argument("--out", type=Path, default=RESULTS / "surprise.json")
    args = parser.parse_args()
    version, data = importlib.import_module(args.version), ROOT / "input.txt"
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.run or Path(temporary) / "run"
        if not args.run:
            version.train(version.Config(data=str(data), max_seconds=args.seconds, out=str(folder)))
        run = version.load_run(folder, data=str(data))
    corpus = version.load_corpus(run.cfg, run.tokenizer)
    _, bits = version.evaluate(run.model, corpus.val, run.tokenizer, run.cfg.block_size)
    found = []
    for story in validation_stories(data.read_text(encoding="utf-8"), args.stories):
        pieces = compare(run.model, run.tokenizer, story, run.cfg.block_size)
        found.append(
            [
                [p["text"], round(p["grammar"], 3), round(p["model"], 3), p["distance"]]
                for p in pieces
            ]
        )
    paid = [sum(piece[i] for pieces in found for piece in pieces) for i in (1, 2)]
    size = sum(len(piece[0].encode()) for pieces in found for piece in pieces)
    cells = [[f"{len(found)} stories of the validation split", "bits/byte"]]
    cells += [["what the grammar asks", f"{paid[0] / size:.4f}"]]
    cells += [[f"`{args.version}.py`", f"{paid[1] / size:.4f}"]]
    question = "Where in a story does a model lose more than the grammar asks?"
    note = "Piece by piece in notebooks/5_training.ipynb."
    save(args.out, question, [cells], note, version=args.version, bits_per_byte=bits, stories=found)


if __name__ == "__main__":
    main()
