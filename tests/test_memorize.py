"""Every version from v1 on can learn a short text by heart: nothing in it stands between a model and zero loss.

The text is filler in the manner of lorem ipsum, made of invented words. In a random window of it, the first half has
to find out where in the text it is; from there on all is known, so only the second half of a window is judged.
"""

import importlib
import random
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F

NAMES = ["v1_transformer", "v2_bpe_rope", "v3_alibi", "v4_gqa_swiglu", "v5_ngpt"]
from_v1 = pytest.mark.parametrize("version", [pytest.param(importlib.import_module(n), id=n[:2]) for n in NAMES])
SMALL = dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=64, d_ff=128, vocab_size=320, batch_size=16)
SMALL |= dict(evals=1, seed=1, device="cpu", dtype="float32")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def filler(size, seed=1):
    """About `size` characters of sentences in words that mean nothing."""
    rng = random.Random(seed)
    starts, middles, ends = "b d f l m n p r s t v qu".split(), "a e i o u au".split(), "m s t n r x".split()
    syllables = [a + b for a in starts for b in middles]
    words = ["".join(rng.choices(syllables, k=rng.choice((1, 2, 2, 3)))) + rng.choice(ends) for _ in range(80)]
    text = ""
    while len(text) < size:
        text += " ".join(rng.choices(words, k=rng.randint(4, 9))).capitalize() + rng.choice(". . . ? !".split()) + " "
    return text


def learn(version, text, folder):
    """Train a small model on a text, with the version's own defaults wherever they do not say its size."""
    (folder / "filler.txt").write_text(text, encoding="utf-8")
    characters = version.VERSION == "v1_transformer"  # which are about twice as many as tokens, and are learned later
    sizes = dict(block_size=64, max_steps=500) if characters else dict(block_size=32, max_steps=250)
    wanted = SMALL | sizes | {"data": "filler.txt", "out": "run"}
    known = {f.name for f in fields(version.Config)}
    cfg = version.Config(**{name: value for name, value in wanted.items() if name in known})
    run = version.load_run(version.train(cfg))  # with one evaluation, at the end, the best is the last
    return run, torch.from_numpy(version.load_corpus(cfg, run.tokenizer).train.astype("int64"))


@torch.no_grad()
def second_half_loss(model, tokens, block_size):
    """Mean nats/token of the later half of every window of block_size targets, wherever it begins."""
    windows = tokens.unfold(0, block_size + 1, 1)  # (windows, T + 1)
    logits, _ = model(windows[:, :-1])
    half = block_size // 2
    return F.cross_entropy(logits[:, half:].flatten(0, 1), windows[:, half + 1 :].flatten()).item()


def test_half_a_window_tells_where_it_is():
    """No 32 characters occur twice in the text, so zero loss can be had."""
    text = filler(2000)
    seen = [text[i : i + 32] for i in range(len(text) - 31)]
    assert len(set(seen)) == len(seen)
    assert len(text) > 2000 and len(set(text.split())) > 60


@from_v1
def test_filler_is_learned_by_heart(version, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, tokens = learn(version, filler(2000), tmp_path)
    assert second_half_loss(run.model, tokens, run.cfg.block_size) < 0.05
