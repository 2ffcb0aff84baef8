"""The benchmarks' own arithmetic, and that they run."""

import importlib
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import generation  # noqa: E402
import nanogpt  # noqa: E402
import scaffold  # noqa: E402
import step  # noqa: E402
import tune  # noqa: E402


def test_entropy_and_rare_tokens():
    assert scaffold.frequency_figures(np.array([20] * 8)) == pytest.approx((3, 1, 0))
    # probabilities 1/2, 1/4, 1/4 and a token that is never used
    assert scaffold.frequency_figures(np.array([20, 10, 0, 10])) == pytest.approx((1.5, 0.75, 0.25))
    assert scaffold.frequency_figures(np.array([9, 9])) == pytest.approx((1, 1, 1))


def test_scaffold_prints_a_table_and_leaves_nothing_behind(tmp_path):
    text = (ROOT / "input.txt").read_text("utf-8")[:20_000]
    (tmp_path / "text.txt").write_text(text, encoding="utf-8", newline="")
    command = [
        sys.executable,
        ROOT / "benchmarks" / "scaffold.py",
        "--data",
        "text.txt",
        "--vocab-sizes",
        "400",
    ]
    done = subprocess.run([*command, "--steps", "1"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()
    ]
    assert [len(line) for line in lines] == [9] * 4
    assert [line[:3] for line in lines[2:]] == [
        ["text.txt", "400", "plain"],
        ["text.txt", "400", "scaffold"],
    ]
    assert int(lines[2][3]) == 0 < int(lines[3][3]) and float(lines[3][8]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


MODEL = """
from types import SimpleNamespace as GPTConfig
class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(config.vocab_size))
    def forward(self, idx, targets):
        logits = self.logits.expand(*idx.shape, -1)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.view(-1))
    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), learning_rate, betas, weight_decay=weight_decay)
"""
TRAIN = """
import pickle, sys, torch
torch.manual_seed(1337 + 0)
vocab_size = pickle.load(open("data/text/meta.pkl", "rb"))["vocab_size"]
print("step 0: train loss 4.0, val loss 4.0")
for step, ms in enumerate((9000, 100, 100, 8000, 400)):
    if step == 3:
        print("step 3: train loss 3.0, val loss 2.0")
    print(f"iter {step}: loss 3.0000, time {ms:.2f}ms, mfu -100.00%")
arguments = {"vocab_size": vocab_size, "block_size": 64}
torch.save({"model": {"logits": torch.zeros(vocab_size)}, "model_args": arguments}, "ckpt.pt")
import os
os.makedirs("out")
os.rename("ckpt.pt", "out/ckpt.pt")
"""


def test_a_peer_is_timed_without_its_evaluations_and_scored_exactly(tmp_path):
    """A stand-in for nanoGPT that knows nothing pays log2 of its vocabulary for each character."""
    (tmp_path / "config").mkdir()
    for name, content in {"train.py": TRAIN, "model.py": MODEL, "configurator.py": ""}.items():
        (tmp_path / name).write_text(content)
    text = "a bé" * 250
    (tmp_path / "text.txt").write_bytes(text.encode())
    run = nanogpt.run_nanogpt(tmp_path, tmp_path / "text.txt", 7)
    assert run["bits_per_byte"] == pytest.approx(
        math.log2(4) * 100 / 125
    )  # 100 characters of validation, 125 bytes
    assert run["nats"] == pytest.approx(math.log(4)) and run["parameters"] == 4
    assert run["seconds"] == pytest.approx(
        0.1 + 0.1 + 0.4 + 2 * 0.1
    )  # the median step for those that evaluated
    assert run["tokens"] == 5 * 12 * 64
    (row,) = run["rows"]
    assert row == pytest.approx({"seconds": 0.3, "val_bits_per_byte": 2 / math.log(2) * 100 / 125})


def test_a_step_is_counted_and_its_time_shared_out(tmp_path, monkeypatch):
    """The products of v1's forward pass, written down by hand, and as many again for each of the two gradients."""
    monkeypatch.chdir(tmp_path)
    flags = ["--data", str(ROOT / "input.txt"), "--n-layer", "2", "--n-head", "2", "--n-embd", "8"]
    flags += ["--block-size", "16", "--batch-size", "3", "--dtype", "float32"]
    training = step.Training("v1_transformer", flags)
    C, T, V = 8, 16, training.corpus.tokenizer.vocab_size
    block = (
        C * 3 * C + C * C + C * 4 * C * 2 + 2 * T * C
    )  # q, k, v; out; the MLP; scores and their sums, per token
    assert training.flops() == 3 * 2 * 3 * T * (2 * block + C * V)
    shares = training.shares(3)
    assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) > 0
    assert {"matrix products", "attention", "loss", "AdamW", "the rest"} <= shares.keys()
    row = {
        "name": "`v1.py`",
        "parameters": 1000,
        "tokens": 48,
        "seconds": 0.002,
        "flops": 4_000_000,
        "shares": shares,
    }
    _, line = step.speed_table([row], {"float32": 10.0, "bfloat16": 20.0})
    assert line[2:] == ["2.0", "24,000", "0.00", "2", "20%", "10%"]
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.setattr(
        step, "matrix_peak", lambda dtype, device: 1.0
    )  # slow without bfloat16 units
    row, *_ = step.measure("v1_transformer", flags, 2, False, tmp_path)
    assert (row["name"], row["parameters"], row["tokens"], row["flops"]) == (
        "nanoGPT as v1",
        V,
        48,
        0,
    )
    peer = step.Peer("v1_transformer", flags, tmp_path)
    peer.step()
    assert peer.model.logits.abs().min() > 0.9e-3  # each has moved by the learning rate, about


def test_generation_compares_like_with_like():
    v4 = importlib.import_module("v4_gqa_swiglu")
    cfg = v4.Config(
        vocab_size=300, n_layer=2, n_embd=16, n_head=4, n_kv_head=1, d_ff=16, block_size=24
    )
    found = generation.measure(v4, cfg, 8, 16, 1)
    assert (
        found[False][1] == 0 and found[True][1] == 2 * 2 * 4 * 1 * 23 * 4
    )  # k and v, blocks, D, K, tokens, bytes
    whole = generation.measure(v4, replace(cfg, n_kv_head=4), 8, 16, 1)
    assert [row[-1] for row in generation.table({1: found, 4: whole})[1:]] == ["0.25", "1.00"]
    attend = v4.attend
    faulty = lambda q, k, v, bias: attend(q, k, v if q.size(2) > 1 else 9 * v, bias)  # noqa: E731
    with mock.patch.object(v4, "attend", faulty), pytest.raises(SystemExit):
        generation.measure(v4, cfg, 8, 16, 1)


def test_a_text_without_its_validation_split(tmp_path):
    (tmp_path / "text.txt").write_bytes("é\r\n".encode() * 100)
    (tmp_path / "copies").mkdir()
    assert (
        tune.training_split(tmp_path / "text.txt", tmp_path / "copies").read_bytes()
        == "é\r\n".encode() * 90
    )
