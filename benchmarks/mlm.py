"""How well does v6 fill gaps: against counting, with characters or BPE, from scratch or from a trained v5?

    python benchmarks/mlm.py --v5 runs/ladder/v5_ngpt-1337 --data input.txt FILE

Three questions, each about 15 % of the validation words, all hidden, the same words whatever the tokens.
1. v6 at its defaults, against three fillers that count tokens. The best of them reads two tokens on each side.
2. Characters against BPE tokens, in equal CPU seconds of one thread, which other programs on the machine change little.
   For characters the benchmark puts in v1's tokenizer, and four times the context, for as much text.
3. A trained v5 as the start, with either objective, for a third of the steps of 1.

`ladder.py --keep runs/ladder` trains the v5. notebooks/10_masked_words.ipynb reads what this command writes.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from report import RESULTS, ROOT, save

sys.path.insert(0, str(ROOT))

import v1_transformer as v1
import v6_mlm as v6

# What a filler looks at: offsets from the gap, from nothing to the most. Each corrects the one before it.
FILLERS = {
    "the most frequent token": [()],
    "bigrams, as in v0": [(), (-1,)],
    "5-grams with the gap in the middle": [
        *[(), (1,), (-1,), (-1, 1), (-1, 1, 2), (-2, -1, 1), (-2, -1, 1, 2)],
    ],
}
HEAD = ["hidden tokens right", "hidden words right", "bits/byte of hidden words"]
SMALL = dict(n_layer=2, n_embd=64, evals=1)  # takes enough steps in a minute to learn something
RATES = ("learning_rate", "muon_learning_rate")
NOTES = (
    """15 % of the validation words hidden, whole, and the same in every row. Bytes are those of words. One seed.""",
    """One seed; two blocks of width 64; equal CPU seconds of one thread. *Single tokens right*: 15 % of the tokens hidden one
by one; *singly*: in training too. In all other columns whole words are hidden, the same in every row of a text. *Told by
the gaps*, in bits/byte: the most that the number of gaps can tell of a word, the entropy of its number of tokens.""",
    """Loss on the hidden words of the validation split. One seed; the budgets are steps.""",
)


class Characters(v1.CharTokenizer):
    """v1's tokenizer with what v6 asks of one."""

    def to_json(self):
        return json.dumps(self.chars)

    def encode_blocks(self, blocks):
        return map(self.encode, blocks)


class Filler:
    """Counts of tokens around a gap: p = (count + distinct * p of the smaller context) / (n + distinct).

    A context with a hidden token in it was never counted, so that the smaller ones decide.
    """

    def __init__(self, tokens, tokenizer, contexts):
        self.vocab_size, tokens = tokenizer.vocab_size, tokens.tolist()
        pieces = [tokenizer.decode_bytes([i]) for i in range(self.vocab_size)]
        words = {i for i, piece in enumerate(pieces) if piece[-1] in v6.LETTERS}  # what is hidden
        self.counts = {offsets: defaultdict(Counter) for offsets in contexts}
        for offsets, counts in self.counts.items():
            for i in range(2, len(tokens) - 2):
                if tokens[i] in words:
                    counts[tuple([tokens[i + offset] for offset in offsets])][tokens[i]] += 1

    def probabilities(self, ids, gap):
        """The probability (V,) of each token at a gap of ids, a list in which hidden ones are <mask>."""
        p = np.full(self.vocab_size, 1 / self.vocab_size)
        for offsets, counts in self.counts.items():
            inside = all(0 <= gap + offset < len(ids) for offset in offsets)
            found = counts.get(tuple([ids[gap + offset] for offset in offsets])) if inside else None
            if found:
                p *= len(found) / (len(found) + found.total())
                p[list(found)] += np.array(list(found.values())) / (len(found) + found.total())
        return p


def score(predict, texts, tokenizer):
    """Shares of hidden tokens and of hidden words that are right, and bits/byte, of a predictor.

    predict: from ids (T,) with hidden ones, and their positions (N,), probabilities (N, V).
    """
    right, words, bits, n_bytes = [], [], 0.0, 0
    for text in texts:
        idx, targets = v6.hide([text], tokenizer.vocab_size, seed=0, exam=True)
        gaps = (targets[0] >= 0).nonzero()[:, 0]
        if len(gaps):
            probs, hidden = predict(idx[0], gaps), targets[0, gaps].numpy()
            right += (probs.argmax(1) == hidden).tolist()
            words += text[gaps, 1].tolist()
            bits -= np.log2(probs[np.arange(len(gaps)), hidden]).sum()
            n_bytes += sum(byte in v6.LETTERS for byte in tokenizer.decode_bytes(hidden.tolist()))
    wrong = {word for word, ok in zip(words, right, strict=True) if not ok}
    return np.mean(right), 1 - len(wrong) / len(set(words)), bits / n_bytes


def filler(tokens, tokenizer, contexts):
    """`predict` of a Filler."""
    counted = Filler(tokens, tokenizer, contexts)
    return lambda ids, gaps: np.stack(
        [counted.probabilities(ids.tolist(), gap) for gap in gaps.tolist()]
    )


def network(model):
    """`predict` of a trained v6."""

    @torch.inference_mode()
    def predict(ids, gaps):
        return model(ids[None])[0][0, gaps].double().softmax(-1).numpy()

    return predict


def given_away(texts, tokenizer):
    """The most that the number of `<mask>` in a row can tell of a hidden word, in bits/byte.

    It is the entropy of the number of tokens in a word, per byte of a word.
    """
    words = torch.cat([text[1:] for text in texts])
    tokens = Counter(words[words[:, 1] > 0, 1].tolist())  # word: tokens
    lengths = np.array(list(Counter(tokens.values()).values())) / len(tokens)
    ids = words[words[:, 1] > 0, 0].tolist()
    n_bytes = sum(byte in v6.LETTERS for byte in tokenizer.decode_bytes(ids))
    return -(lengths * np.log2(lengths)).sum() * len(tokens) / n_bytes


def one_by_one(texts):
    """The same texts, but each token a word of its own: what is hidden then has visible neighbors."""
    ends = np.cumsum([len(text) for text in texts])
    return [
        torch.stack((text[:, 0], torch.arange(end - len(text), end) + 1), dim=1)
        for text, end in zip(texts, ends.tolist(), strict=True)
    ]


def train(folder, **settings):
    """A run of v6 as (run, validation texts, its rows of metrics.csv)."""
    cfg = v6.Config(device="cpu", dtype="float32", out=str(folder), **settings)
    run = v6.load_run(v6.train(cfg))
    texts = v6.find_texts(v6.load_corpus(cfg, run.tokenizer).val, run.tokenizer, cfg.block_size)
    with open(run.folder / "metrics.csv", encoding="utf-8") as file:
        rows = [{name: float(x) for name, x in row.items()} for row in csv.DictReader(file)]
    return run, texts, rows


def shown(shares):
    """Shares and bits/byte as cells."""
    *shares, bits = shares
    return [*(f"{share:.1%}" for share in shares), f"{bits:.3f}"]


def compare_fillers(data, folder):
    """Question 1: a table, the figures of v6, and its curve."""
    run, texts, rows = train(folder / "scratch", data=data)
    corpus, table = v6.load_corpus(run.cfg, run.tokenizer), [["filler", *HEAD]]
    for name, contexts in FILLERS.items():
        predict = filler(corpus.train, run.tokenizer, contexts)
        table.append([name, *shown(score(predict, texts, run.tokenizer))])
        print(table[-1], flush=True)
    found = score(network(run.model), texts, run.tokenizer)
    table.append([f"`{v6.NAME}.py`", *shown(found)])
    print(table[-1], flush=True)
    figures = dict(zip(("tokens", "words", "bits_per_byte"), map(float, found), strict=True))
    figures |= {name: rows[-1][name] for name in ("seconds", "step")}
    figures["parameters"] = sum(p.numel() for p in run.model.parameters())
    return table, figures | {"filled": v6.fill(run)}, rows


def compare_tokens(data, sizes, seconds, folder):
    """Question 2 for one text: rows of a table. The first: characters, also in training hidden one by one."""
    rows, characters, hide = [], Characters(Path(data).read_bytes().decode()), v6.hide
    for singly, size in [(True, 0), *((False, size) for size in sizes)]:
        settings = SMALL | {"data": data, "max_seconds": seconds, "vocab_size": size}
        settings |= {} if size else {"block_size": 1024, "batch_size": 2}
        swap = (
            {}
            if size
            else dict.fromkeys(("load_tokenizer", "learn_tokenizer"), lambda *_: characters)
        )
        if singly:
            swap["hide"] = lambda texts, mask, seed, exam=False: hide(
                texts if exam else one_by_one(texts), mask, seed, exam
            )
        with mock.patch("time.perf_counter", time.process_time), mock.patch.dict(vars(v6), swap):
            out = folder / f"{Path(data).stem}-{singly}-{size}"
            run, texts, metrics = train(out, **settings)
        alone = score(network(run.model), one_by_one(texts), run.tokenizer)[0]
        found = score(network(run.model), texts, run.tokenizer)
        kind = f"{run.tokenizer.vocab_size:,} {'BPE tokens' if size else 'characters'}{', singly' * singly}"
        away = f"{given_away(texts, run.tokenizer):.3f}"
        row = [Path(data).name, kind, f"{metrics[-1]['step']:,.0f}"]
        rows.append([*row, *shown([alone, *found]), away])
        print(rows[-1], flush=True)
    return rows


def compare_starts(data, source, scratch, folder):
    """Question 3: a table and the curves of the runs; scratch: the curve of the run of question 1."""
    steps, curves = round(scratch[-1]["step"] / 3), {"from scratch": scratch}
    curves["from scratch, a third"] = train(folder / "third", data=data, max_steps=steps)[2]
    defaults = v6.Config()
    for objective, factor in (("mntp", 1.0), ("mlm", 0.1), ("mntp", 0.1)):
        rates = {name: factor * getattr(defaults, name) for name in RATES}
        settings = {"max_steps": steps, "objective": objective, "init_from": str(source)} | rates
        name = f"from v5, {objective}, learning rates x {factor:g}"
        curves[name] = train(folder / name, data=data, **settings)[2]
    table = [["start", "steps", "bits/byte of hidden words"]]
    for name, rows in curves.items():
        table.append([name, f"{rows[-1]['step']:,.0f}", f"{rows[-1]['val_bits_per_byte']:.3f}"])
    return table, curves


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", nargs="+", default=["input.txt"], help="texts; 1 and 3 read the first only")
    add("--v5", type=Path, metavar="RUN", help="a v5 trained on the first text, for question 3")
    add("--questions", nargs="+", type=int, default=[1, 2, 3], help="3 needs the result of 1")
    add("--sizes", nargs="+", type=int, default=[0, 512, 1024, 4096], help="0: characters")
    add("--seconds", type=float, default=45, help="of CPU time for each size")
    add("--out", type=Path, default=RESULTS, help="the folder where the results go")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if 1 in args.questions:
            table, figures, curve = compare_fillers(args.data[0], folder)
            question = "How well does v6 fill gaps, against counting?"
            save(args.out / "mlm.json", question, [table], NOTES[0], figures=figures, curve=curve)
        if 3 in args.questions:
            curve = json.loads((args.out / "mlm.json").read_text(encoding="utf-8"))["curve"]
            table, curves = compare_starts(args.data[0], args.v5, curve, folder)
            question = "What is a trained v5 worth as the start of v6?"
            save(args.out / "mlm_starts.json", question, [table], NOTES[2], curves=curves)
        if 2 in args.questions:
            torch.set_num_threads(1)
            table = [["text", "tokens", "steps", "single tokens right", *HEAD, "told by the gaps"]]
            for data in args.data:
                table += compare_tokens(data, args.sizes, args.seconds, folder)
            question = "Characters or BPE tokens: which fill gaps better?"
            save(args.out / "mlm_tokens.json", question, [table], NOTES[1])


if __name__ == "__main__":
    main()
