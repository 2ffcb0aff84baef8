"""Does llama.cpp read what export.py --gguf writes as v4 does? On request, not by pytest:

    pip install gguf llama-cpp-python==0.3.36      # its build takes minutes
    python tests/stress/export_llama_cpp.py

A small v4 is trained on input.txt. llama.cpp must give the same token ids for texts with accents,
the same logits and the same greedy text. Then every character of Unicode is tokenized between
letters, digits and spaces, with a tokenizer whose merges cross the borders that a split may miss.
"""

import contextlib
import io
import os
import sys
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from llama_cpp import Llama

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import export  # noqa: E402
import v4_gqa_swiglu as v4  # noqa: E402
from bpe_tokenizer import PATTERNS, BPETokenizer  # noqa: E402

TEXTS = [
    "Once upon a time, in a café in Zürich, Zoë said: “It's naïve!”",
    "IT'S  1234 + 56\n\n\n don't\tl'été\r\n ça 😀👍🏽 ﬁn 日本語  7 ",
]
PROMPTS = ["Once", "The café", "\n\n", "She said that 12"]


def make(name, **settings):
    """Train a v4 and export it; returns the run and llama.cpp's model."""
    with contextlib.redirect_stdout(io.StringIO()):
        v4.train(v4.Config(out=name, device="cpu", evals=1, **settings))
    export.export(Path(name), Path(f"{name}_hf"), with_gguf=True)
    cache = dict(type_k=0, type_v=0)  # float32, not float16
    theirs = Llama(f"{name}_hf/model.gguf", n_ctx=256, logits_all=True, verbose=False, **cache)
    return v4.load_run(name, device="cpu"), theirs


def tokens_of(theirs, text):
    return theirs.tokenize(text.encode(), add_bos=False)


def compare_models():
    """Token ids, logits and greedy text of a model that has learned something."""
    run, theirs = make("run", data=str(ROOT / "input.txt"), max_steps=150)
    for text in TEXTS:
        assert tokens_of(theirs, text) == run.tokenizer.encode(text), text
    ids = run.tokenizer.encode((ROOT / "input.txt").read_text("utf-8")[-2000:])[:200]
    with torch.inference_mode():
        logits = run.model(torch.tensor([ids]))[0][0].numpy()
    theirs.eval(ids)
    difference = np.abs(theirs.scores[: len(ids)] - logits).max()
    assert difference < 1e-2 < logits.std(), difference
    for prompt in PROMPTS:
        how = dict(max_tokens=50, temperature=0.0, repeat_penalty=1.0)
        (answer,) = theirs.create_completion(prompt, **how)["choices"]
        idx = torch.tensor([run.tokenizer.encode(prompt)])
        new = [int(i) for i in v4.generate(run.model, idx, 50, 256, temperature=0)]
        assert answer["finish_reason"] == "length", answer
        assert answer["text"] == run.tokenizer.decode(new), (answer, run.tokenizer.decode(new))
        print(f"same 50 tokens after {prompt!r}: {answer['text'][:60]!r}...")
    print(f"same token ids of {len(TEXTS)} texts; logits differ by at most {difference:.1e}")


def compare_splits(name, pattern):
    """Only combining marks and two joiners may be split in another way, by the default pattern."""
    kinds = {chr(i): unicodedata.category(chr(i)) for i in range(0x110000)}
    lines = {
        c: f"ab{c}cd {c}{c}e 1{c}2 '{c}\n" for c in kinds if kinds[c] not in ("Cn", "Co", "Cs")
    }
    tokenizer = BPETokenizer.train("".join(lines.values()), 8000, pattern=pattern, progress=False)
    tokenizer.save(f"{name}.json")
    Path("text.txt").write_text("".join(lines.values())[:50_000], "utf-8")
    small = dict(data="text.txt", max_steps=1, n_layer=1, n_embd=32)
    _, theirs = make(f"{name}_run", tokenizer=f"{name}.json", **small)
    other = [c for c, line in lines.items() if tokens_of(theirs, line) != tokenizer.encode(line)]
    counts = dict(Counter(kinds[c] for c in other))
    print(f"{name}: {len(other):,} of {len(lines):,} characters are split in another way: {counts}")
    if name == "default":
        other = [c for c in other if kinds[c][0] != "M" and c not in "\u200c\u200d"]
    assert not other, other[:40]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        compare_models()
        for name, pattern in {**PATTERNS, "digits": export.DIGITS}.items():
            compare_splits(name, pattern)
        os.chdir(ROOT)
