"""Every version from v1 on memorizes a short text: nothing stands between a model and zero loss.

The text is filler made of invented words. In a random window of it, the first half has to find
out where in the text it is; from there on all is known, so only the second half is judged.
"""

import random

import torch
import torch.nn.functional as F
from conftest import make_config, versions


def make_filler(size):
    """About `size` characters of sentences in words that mean nothing."""
    rng = random.Random(1)
    starts, middles = "b d f l m n p r s t v qu".split(), "a e i o u au".split()
    syllables = [a + b for a in starts for b in middles]
    text, words = "", []
    for _ in range(80):
        word = "".join(rng.choices(syllables, k=rng.choice((1, 2, 2, 3))))
        words.append(word + rng.choice("mstnrx"))
    while len(text) < size:
        text += " ".join(rng.choices(words, k=rng.randint(4, 9))).capitalize() + ". "
    return text


def test_half_a_window_tells_where_it_is():
    """No 32 characters occur twice in the text, so zero loss can be had."""
    text = make_filler(2000)
    seen = [text[i : i + 32] for i in range(len(text) - 31)]
    assert len(set(seen)) == len(seen) and len(set(text.split())) > 60


@versions(1, 2, 3, 4, 5)
def test_filler_is_memorized(version, tmp_path, monkeypatch):
    """With the version's own learning rates, from the command train to the loaded run."""
    monkeypatch.chdir(tmp_path)
    size, T = (1000, 64) if version.NAME[1] == "1" else (2000, 32)  # characters or longer tokens
    (tmp_path / "filler.txt").write_text(make_filler(size), encoding="utf-8")
    sizes = dict(n_embd=64, d_ff=128, vocab_size=320, batch_size=16, block_size=T)
    cfg = make_config(version, data="filler.txt", out="run", max_steps=300, evals=1, **sizes)
    run = version.load_run(version.train(cfg))  # with one evaluation, the best is the last
    tokens = torch.from_numpy(version.load_corpus(cfg, run.tokenizer).train.astype("int64"))
    windows = tokens.unfold(0, T + 1, 1)  # (windows, T + 1)
    with torch.no_grad():
        logits, _ = run.model(windows[:, :-1])
    targets = windows[:, T // 2 + 1 :].flatten()
    assert F.cross_entropy(logits[:, T // 2 :].flatten(0, 1), targets) < 0.05
