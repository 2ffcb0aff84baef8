"""v0 against counting: the best bigram model is known in closed form, and training must find it.

The oracle is collections.Counter: of all tables of successors, the one with the counted frequencies has the lowest
loss on the text it was counted on (the maximum-likelihood estimate of a first-order Markov chain).
"""

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch

import v0_bigram as v0


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_text(n_words=500, seed=1):
    """A small text whose next characters are far from equally likely."""
    rng = random.Random(seed)
    words = ["ann", "saw", "the", "sea", "and", "a", "boat;", "then", "sang", "été"]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    return " ".join(rng.choices(words, weights, k=n_words)).replace("; ", ";\n")


def counted_loss(ids):
    """Nats per token of ids[1:] under the frequencies with which tokens follow each other in ids themselves."""
    pairs, firsts = Counter(zip(ids[:-1], ids[1:], strict=True)), Counter(ids[:-1])
    return -sum(n * math.log(n / firsts[first]) for (first, _), n in pairs.items()) / (len(ids) - 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The last state of a v0.train run, with the corpus and the configuration that it had."""
    folder = tmp_path_factory.mktemp("v0")
    text = make_text()
    (folder / "text.txt").write_text(text, encoding="utf-8")
    cfg = v0.Config(
        data=str(folder / "text.txt"),
        out=str(folder / "run"),
        block_size=16,
        batch_size=64,
        max_steps=500,
        learning_rate=0.03,
        evals=1,
        device="cpu",
        dtype="float32",
    )
    assert v0.train(cfg) == folder / "run"
    corpus = v0.load_corpus(cfg)
    model = v0.LanguageModel(cfg, corpus.tokenizer.vocab_size)
    progress = v0.load_checkpoint(folder / "run" / "checkpoint.pt", model)
    assert progress.step == 500
    return model, corpus, text


def test_the_optimum_is_counted_right():
    # "abac": after a once b, once c; after b always a: two choices of ln 2 and one of 0, over three tokens
    assert counted_loss([0, 1, 0, 2]) == pytest.approx(2 * math.log(2) / 3)


def test_training_reaches_the_loss_of_counted_frequencies(trained):
    model, corpus, text = trained
    ids = corpus.train.tolist()
    assert "".join(corpus.tokenizer.chars[i] for i in ids) == text[: len(text) * 9 // 10]
    optimum = counted_loss(ids)
    loss = v0.evaluate(model, corpus.train, corpus.train_bytes, 16)["nats_per_token"]
    assert optimum - 1e-6 <= loss <= optimum + 0.01
    assert optimum < 0.6 * math.log(corpus.tokenizer.vocab_size)  # so that reaching it says something


def test_the_optimum_holds_by_full_batches_too(trained):
    _, corpus, _ = trained
    ids = torch.from_numpy(corpus.train.astype(np.int64))[None]
    cfg = v0.Config(learning_rate=0.1)
    model = v0.LanguageModel(cfg, corpus.tokenizer.vocab_size)
    optimizer = v0.make_optimizer(model, cfg)
    for _ in range(300):
        optimizer.zero_grad()
        _, loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(counted_loss(corpus.train.tolist()), abs=0.003)


def test_the_table_holds_the_counted_frequencies(trained):
    model, corpus, _ = trained
    ids = corpus.train.tolist()
    pairs, firsts = Counter(zip(ids[:-1], ids[1:], strict=True)), Counter(ids[:-1])
    every_token = torch.arange(corpus.tokenizer.vocab_size)[None]
    table = model(every_token)[0][0].softmax(-1)  # (V, V): successors of each token
    for first, n in firsts.items():
        if n >= 100:
            counted = [pairs[first, second] / n for second in range(corpus.tokenizer.vocab_size)]
            assert table[first].tolist() == pytest.approx(counted, abs=0.03)


def test_an_untrained_model_is_uniform():
    model = v0.LanguageModel(v0.Config(), 11)
    logits, loss = model(torch.tensor([[3, 1, 4]]), torch.tensor([[1, 4, 1]]))
    assert logits.shape == (1, 3, 11)
    assert loss.item() == pytest.approx(math.log(11), abs=1e-6)
