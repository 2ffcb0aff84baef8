"""Fast feed-forward: the tree, its soft mixture in training, its one leaf at inference; and that the benchmark runs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import variations  # noqa: E402

import v5_ngpt as v5  # noqa: E402

CONFIG = dict(
    n_layer=2,
    n_embd=32,
    n_head=2,
    n_kv_head=1,
    d_ff=64,
    block_size=16,
    batch_size=2,
    dtype="float32",
)


@pytest.fixture
def mlp():
    torch.manual_seed(1)
    return variations.FastMLP(v5.Config(**CONFIG))


def test_leaf_weights_are_products_along_the_way(mlp):
    logits = torch.randn(3, 15)
    right, weights = logits.sigmoid(), mlp.leaf_weights(logits)
    for leaf in range(16):
        node, product = 0, torch.ones(3)
        for depth in range(3, -1, -1):  # from the root: the leaf's number in binary says the way
            go_right = leaf >> depth & 1
            product = product * (right[:, node] if go_right else 1 - right[:, node])
            node = 2 * node + 1 + go_right
        assert torch.allclose(weights[:, leaf], product)
    assert torch.allclose(weights.sum(-1), torch.ones(3))


def test_sure_routers_make_mixture_and_single_leaf_equal(mlp):
    x = v5.normalize(torch.randn(2, 50, 32))
    assert (mlp.soft(x) - mlp.hard(x)).abs().max() > 1e-4
    with torch.no_grad():
        mlp.s_r.weight.fill_(1e6)
    assert torch.allclose(mlp.soft(x), mlp.hard(x), atol=1e-6)
    assert mlp.chosen_leaf(x).unique().numel() > 1


def test_one_leaf_reads_only_its_own_units(mlp):
    x = v5.normalize(torch.randn(1, 32))
    leaf, before = mlp.chosen_leaf(x).item(), mlp.hard(x)
    with torch.no_grad():
        for unit in range(64):
            if unit // 4 != leaf:
                mlp.gate_proj.weight[unit] = mlp.up_proj.weight[unit] = mlp.down_proj.weight[
                    :, unit
                ] = torch.nan
    assert torch.equal(mlp.hard(x), before)


def test_hardening_is_part_of_the_training_loss_only():
    torch.manual_seed(1)
    model = variations.FastModel(v5.Config(**CONFIG), 300)
    idx = torch.randint(300, (2, 16))
    _, loss = model(idx, idx)
    loss.backward()
    assert all(block.mlp.router.weight.grad.abs().sum() > 0 for block in model.blocks)
    assert all(
        0 < block.mlp.hardening < 0.6932 for block in model.blocks
    )  # at most the entropy of a coin, ln 2
    logits, loss = model.eval()(idx, idx)
    assert torch.allclose(
        loss, torch.nn.functional.cross_entropy(logits.flatten(0, 1), idx.flatten())
    )


def test_benchmark_writes_its_table(tmp_path):
    text = (ROOT / "input.txt").read_text("utf-8")[:20_000]
    (tmp_path / "text.txt").write_text(text, encoding="utf-8", newline="")
    flags = [f"{name}={value}" for name, value in CONFIG.items() if name != "dtype"] + [
        "vocab_size=300",
        "evals=1",
    ]
    command = [
        sys.executable,
        ROOT / "benchmarks" / "variations.py",
        "--data",
        "text.txt",
        "--out",
        "out.md",
    ]
    command += ["--steps", "2", "--seeds", "2", "--flags", *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [
        line.split("|")
        for line in (tmp_path / "out.md").read_text("utf-8").splitlines()
        if line[:1] == "|"
    ]
    assert [row[1].strip() for row in rows[2:]] == list(variations.VARIATIONS)
    assert [int(row[3]) for row in rows[2:]] == [64, 4, 64, 64]
