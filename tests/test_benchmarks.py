"""Two benchmarks where a wrong figure would go unseen: a peer's, and the cache's."""

import math
import sys
from dataclasses import replace
from unittest import mock

import pytest
from conftest import ROOT, load_version
from small_models import make_config

sys.path.insert(0, str(ROOT / "benchmarks"))

import generation
import nanogpt

v4 = load_version(4)


MODEL = """
import torch
from types import SimpleNamespace as GPTConfig
class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(config.vocab_size))
    def forward(self, idx, targets):
        logits = self.logits.expand(*idx.shape, -1)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.view(-1))
"""
TRAIN = """
import os, pickle, torch
torch.manual_seed(1337 + 0)
vocab_size = pickle.load(open("data/text/meta.pkl", "rb"))["vocab_size"]
print("step 0: train loss 4.0, val loss 4.0")
for step, ms in enumerate((9000, 100, 100, 8000, 400)):
    if step == 3:
        print("step 3: train loss 3.0, val loss 2.0")
    print(f"iter {step}: loss 3.0000, time {ms:.2f}ms, mfu -100.00%")
arguments = {"vocab_size": vocab_size, "block_size": 64}
os.makedirs("out")
torch.save({"model": {"logits": torch.zeros(vocab_size)}, "model_args": arguments}, "out/ckpt.pt")
"""


def test_nanogpt_is_timed_without_its_evaluations_and_scored_exactly(tmp_path):
    """A stand-in that knows nothing pays log2 of its vocabulary for each character."""
    (tmp_path / "config").mkdir()
    for name, content in {"train.py": TRAIN, "model.py": MODEL, "configurator.py": ""}.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "text.txt").write_bytes(("a bé" * 250).encode())
    run = nanogpt.run_nanogpt(tmp_path, tmp_path / "text.txt", 7)
    bits = math.log2(4) * 100 / 125  # 100 characters of validation, 125 bytes
    assert run["bits_per_byte"] == pytest.approx(bits)
    assert run["nats"] == pytest.approx(math.log(4)) and run["parameters"] == 4
    seconds = 0.1 + 0.1 + 0.4 + 2 * 0.1  # the median step for those that evaluated
    assert run["seconds"] == pytest.approx(seconds) and run["tokens"] == 5 * 12 * 64
    (row,) = run["rows"]
    assert row == pytest.approx({"seconds": 0.3, "val_bits_per_byte": 2 / math.log(2) * 100 / 125})


def test_generation_is_compared_at_the_same_tokens():
    cfg = make_config(v4, n_kv_head=1, n_embd=16, block_size=24, vocab_size=300)
    found = generation.measure(v4, cfg, 8, 16, 1)  # {cached: (tokens/s, bytes of the cache)}
    n_bytes = 2 * 2 * 4 * 1 * 23 * 4  # k and v, blocks, D, K, tokens, bytes of a number
    assert (found[False][1], found[True][1]) == (0, n_bytes)
    whole = generation.measure(v4, replace(cfg, n_kv_head=4), 8, 16, 1)
    last = generation.table({1: found, 4: whole})[1:]
    assert [row[-1] for row in last] == ["0.25", "1.00"]
    attend = v4.attend

    def faulty(q, k, v, bias):
        return attend(q, k, v if q.size(2) > 1 else 9 * v, bias)

    with mock.patch.object(v4, "attend", faulty), pytest.raises(SystemExit):
        generation.measure(v4, cfg, 8, 16, 1)
