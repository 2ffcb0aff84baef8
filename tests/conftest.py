"""What tests of the versions share: the list of versions, and small models of any of them."""

import importlib
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # wherever pytest is started
torch.set_num_threads(1)  # tensors this small are slower on several threads

NAMES = ["v0_bigram", "v1_transformer", "v2_bpe_rope", "v3_alibi", "v4_gqa_swiglu", "v5_ngpt"]
VOCAB = 13
TINY = dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=32, d_ff=48, block_size=8, batch_size=4)
TINY |= dict(device="cpu", dtype="float32", max_steps=10)


def load_version(number):
    return importlib.import_module(NAMES[number])


def versions(*numbers):
    """Parametrize a test over the versions with these numbers: versions(4, 5)."""
    modules = [pytest.param(load_version(i), id=f"v{i}") for i in numbers]
    return pytest.mark.parametrize("version", modules)


def make_config(version, **changes):
    """A small Config; of the settings only what this version knows."""
    known = {f.name for f in fields(version.Config)}
    settings = {name: value for name, value in (TINY | changes).items() if name in known}
    cfg = version.Config(**settings)
    cfg.check()
    return cfg


def make_model(version, std=0.0, vocab_size=VOCAB, **changes):
    """A model for evaluation; with `std` all its weights are far from where they start."""
    torch.manual_seed(0)
    model = version.LanguageModel(make_config(version, **changes), vocab_size)
    if std:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p) * std)
        if hasattr(model, "normalize_matrices"):
            model.normalize_matrices()
    return model.eval()


def take_step(version, model, cfg, optimizers, step, idx, targets):
    """What `train` does in a step, without clipping; returns the loss."""
    version.set_schedules(cfg, model, optimizers, step / cfg.max_steps, step)
    _, loss = model(idx, targets)
    model.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()


def assert_equal_logits(ours, theirs, lengths):
    """The same logits from two models, at several lengths of the window."""
    for T in lengths:
        idx = torch.randint(VOCAB, (3, T))
        with torch.no_grad():
            expected = theirs(idx).logits
            assert expected.std() > 0.3  # the comparison is not one of zeros
            torch.testing.assert_close(ours(idx)[0], expected, rtol=0, atol=1e-4)
