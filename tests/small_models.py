"""Small models of any version, and what is done to them again and again."""

from dataclasses import fields

import torch

VOCAB = 13
TINY = dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=32, d_ff=48, block_size=8, batch_size=4)
TINY |= dict(device="cpu", dtype="float32", max_steps=10)


def known(version, settings):
    """Of these settings those that the version has."""
    names = {f.name for f in fields(version.Config)}
    return {name: value for name, value in settings.items() if name in names}


def make_config(version, **changes):
    cfg = version.Config(**known(version, TINY | changes))
    cfg.check()
    return cfg


def make_model(version, std=0.0, vocab_size=VOCAB, **changes):
    """A small model for evaluation; with `std` all its weights are far from where they start."""
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


def all_tokens(version, model, prompt, n, block_size=8, **how):
    """The tokens (B, n) that `generate` yields."""
    return torch.stack(list(version.generate(model, prompt, n, block_size, **how)), dim=1)


def assert_equal_logits(ours, theirs, lengths):
    """The same logits from two models, for windows of several lengths."""
    for T in lengths:
        idx = torch.randint(VOCAB, (3, T))
        with torch.no_grad():
            expected = theirs(idx).logits
            assert expected.std() > 0.3  # the comparison is not one of zeros
            torch.testing.assert_close(ours(idx)[0], expected, rtol=0, atol=1e-4)
