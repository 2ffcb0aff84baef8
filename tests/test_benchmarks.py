"""The benchmarks' own arithmetic, and that they run."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import nanogpt  # noqa: E402
import scaffold  # noqa: E402


def test_entropy_and_rare_tokens():
    assert scaffold.frequency_figures(np.array([20] * 8)) == pytest.approx((3, 1, 0))
    # probabilities 1/2, 1/4, 1/4 and a token that is never used
    assert scaffold.frequency_figures(np.array([20, 10, 0, 10])) == pytest.approx((1.5, 0.75, 0.25))
    assert scaffold.frequency_figures(np.array([9, 9])) == pytest.approx((1, 1, 1))


def test_scaffold_prints_a_table_and_leaves_nothing_behind(tmp_path):
    text = (ROOT / "input.txt").read_text("utf-8")[:20_000]
    (tmp_path / "text.txt").write_text(text, encoding="utf-8", newline="")
    command = [sys.executable, ROOT / "benchmarks" / "scaffold.py", "--data", "text.txt", "--vocab-sizes", "400"]
    done = subprocess.run([*command, "--steps", "1"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    assert [len(line) for line in lines] == [9] * 4
    assert [line[:3] for line in lines[2:]] == [["text.txt", "400", "plain"], ["text.txt", "400", "scaffold"]]
    assert int(lines[2][3]) == 0 < int(lines[3][3]) and float(lines[3][8]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


MODEL = """
import torch
from types import SimpleNamespace as GPTConfig
class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(config.vocab_size))
    def forward(self, idx, targets):
        logits = self.logits.expand(*idx.shape, -1)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
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
    assert run["bits_per_byte"] == pytest.approx(math.log2(4) * 100 / 125)  # 100 characters of validation, 125 bytes
    assert run["nats"] == pytest.approx(math.log(4)) and run["parameters"] == 4
    assert run["seconds"] == pytest.approx(0.1 + 0.1 + 0.4 + 2 * 0.1)  # the median step for those that evaluated
    assert run["tokens"] == 5 * 12 * 64
    assert run["curve"] == [pytest.approx((0.3, 2 / math.log(2) * 100 / 125))]
