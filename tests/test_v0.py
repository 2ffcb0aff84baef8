"""v0 against counting: the best bigram model is known in closed form, and training must find it.

Of all tables of successors, the one with the counted frequencies has the lowest loss on the text
that it was counted on (the maximum-likelihood estimate of a first-order Markov chain).
"""

import math
from collections import Counter

import pytest
import torch

import v0_bigram as v0


def test_training_finds_the_counted_frequencies(folder):
    cfg = v0.Config(data="text.txt", out="run", block_size=16, batch_size=256, max_steps=500)
    model = v0.load_run(v0.train(v0.replace(cfg, learning_rate=0.03, evals=1))).model
    corpus = v0.load_corpus(cfg)
    ids, V = corpus.train.tolist(), corpus.tokenizer.vocab_size
    pairs, firsts = Counter(zip(ids[:-1], ids[1:], strict=True)), Counter(ids[:-1])
    nats = [-n * math.log(n / firsts[a]) for (a, _), n in pairs.items()]
    optimum = sum(nats) / (len(ids) - 1)  # the entropy of the next token given the one before
    assert optimum < 0.6 * math.log(V)
    loss, _ = v0.evaluate(model, corpus.train, corpus.tokenizer, 16)
    assert optimum - 1e-6 <= loss <= optimum + 0.01
    table = model(torch.arange(V)[None])[0][0].softmax(-1)  # (V, V): successors of each token
    for first in [first for first, n in firsts.items() if n >= 100]:
        counted = [pairs[first, second] / firsts[first] for second in range(V)]
        assert table[first].tolist() == pytest.approx(counted, abs=0.03)


def test_optimizer():
    cfg = v0.Config(learning_rate=0.25)
    model = v0.LanguageModel(cfg, 5)
    (optimizer,) = v0.make_optimizers(model, cfg)
    (group,) = optimizer.param_groups
    assert type(optimizer) is torch.optim.Adam and group["params"] == [model.table.weight]
    facts = (group["lr"], group["betas"], group["eps"], group["weight_decay"])
    assert facts == (0.25, (0.8, 0.99), 1e-8, 0.0)


def test_characters_are_tokens():
    tokenizer = v0.CharTokenizer("abc")
    assert tokenizer.encode("cab\n") == [3, 1, 2, 0] and tokenizer.decode([3, 1, 2, 0]) == "cab\n"
    assert v0.CharTokenizer("né").decode_bytes([2, 1]) == "én".encode()
    with pytest.raises(v0.UserError, match=r"\['d', 'é'\]"):
        tokenizer.encode("déa")
