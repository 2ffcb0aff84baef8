"""What every version promises of data, model, optimizers, training and evaluation.

The oracles are closed forms, slow loops over single tokens, and the training loop written again.
What only one version has is in test_v0.py to test_v5.py.
"""

import json
import math
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
from conftest import TEXT, every_optimizer, every_version, from_v1, number, versions
from small_models import VOCAB, all_tokens, make_config, make_model, take_step

# --- data


@every_version
def test_a_batch_depends_on_seed_and_step_alone(version):
    tokens, cfg = np.arange(10**6), make_config(version)
    idx, targets = version.get_batch(tokens, cfg, 5, "cpu")
    assert idx.shape == (4, 8) and idx.dtype == torch.int64
    assert (targets == idx + 1).all() and (idx == idx[:, :1] + torch.arange(8)).all()
    np.random.seed(1), torch.manual_seed(1)
    assert (version.get_batch(tokens, cfg, 5, "cpu")[0] == idx).all()
    for seed, step in ((cfg.seed, 6), (1, 5)):
        other, _ = version.get_batch(tokens, make_config(version, seed=seed), step, "cpu")
        assert not (other == idx).all()


@every_version
def test_windows_lie_evenly(version):
    for n in (9, 50):  # tokens; all starts, from the first to the last, are equally frequent
        cfg = make_config(version, batch_size=20_000)
        counts = version.get_batch(np.arange(n), cfg, 0, "cpu")[0][:, 0].bincount(minlength=n - 8)
        assert (counts - 20_000 / (n - 8)).abs().max() <= 4  # far more even than at random
    cfg, seen = make_config(version), np.zeros(8000, dtype=bool)
    for step in range(250):  # of 4 windows of 8 tokens: one pass
        seen[version.get_batch(np.arange(8000), cfg, step, "cpu")[0].numpy()] = True
    assert 0.8 < seen.mean() < 0.95  # at random places 1 - 1 / e = 0.63


@every_version
def test_a_corpus_is_split_at_nine_tenths(version, folder):
    cfg, cut = make_config(version, data="text.txt", vocab_size=270), len(TEXT) * 9 // 10
    corpus = version.load_corpus(cfg)
    assert corpus.tokenizer.decode(corpus.train.tolist()) == TEXT[:cut]
    assert corpus.tokenizer.decode(corpus.val[1:].tolist()) == TEXT[cut:]
    assert corpus.val[0] == corpus.train[-1] and corpus.entropy is None
    facts = {"floor_bits_per_byte": {"validation": 0.5}}
    for digest, entropy in (("0" * 64, None), (sha256(TEXT.encode()).hexdigest(), 0.5)):
        Path("text.txt.json").write_text(json.dumps(facts | {"sha256": digest}))
        assert version.load_corpus(cfg, corpus.tokenizer).entropy == entropy


# --- the model


@every_version
def test_no_logit_sees_what_comes_after_it(version):
    model = make_model(version, std=0.2)
    idx = torch.randint(VOCAB, (2, 8))
    for t in range(8):
        changed = idx.clone()
        changed[:, t] = (changed[:, t] + 1) % VOCAB
        difference = (model(changed)[0] - model(idx)[0]).abs().amax(dim=(0, 2))  # (T,)
        assert (difference[:t] < 1e-6).all() and difference[t] > 1e-2
        later = difference[t + 1 :]  # they see it, but for v0, which sees one token only
        assert (later > 1e-4).all() if number(version) else (later == 0).all()


@versions(1, 2, 3, 4)
def test_initial_weights(version):
    model = make_model(version, vocab_size=90, n_layer=8, n_embd=64, block_size=70, d_ff=96)
    for name, p in model.named_parameters():
        if p.dim() < 2:
            assert p.eq(1.0 if name.endswith("weight") else 0.0).all(), name
            continue
        writes = "out_proj" in name or "down_proj" in name
        std = p.size(1) ** -0.5 / (4 if writes else 1)  # 16 halves of a block add to x
        assert p.std().item() == pytest.approx(std, rel=0.08), name
        assert p.mean().abs().item() < 4 * std / math.sqrt(p.numel()), name
    assert all(m.bias is None for m in model.modules() if isinstance(m, nn.Linear))


@from_v1
def test_bfloat16(version):
    """Products in bfloat16, the loss in float32, both close to those without autocast."""
    model, tokens, found = make_model(version, std=0.1), torch.randint(VOCAB, (4, 9)), []
    for low in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            logits, loss = model(tokens[:, :-1], tokens[:, 1:])
        model.zero_grad()
        loss.backward()
        found.append([logits, loss, *(p.grad.clone() for p in model.parameters())])
    assert found[1][0].dtype == torch.bfloat16 and found[1][1].dtype == torch.float32
    for exact, low in zip(*found, strict=True):
        assert 0 < (low - exact).norm() < 0.2 * exact.norm()
    assert abs(found[1][1] / found[0][1] - 1) < 0.02


@from_v1
def test_dropout_on_embeddings_and_what_each_half_adds(version):
    model = make_model(version, std=0.2, dropout=0.3, n_embd=64, block_size=128).train()
    dropped, halves = [], []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda m, args, out: dropped.append((args[0], out)))
        if isinstance(module, version.CausalSelfAttention | version.MLP):
            module.register_forward_hook(lambda m, args, out: halves.append(out))
    model(torch.randint(VOCAB, (8, 128)))
    assert len(dropped) == 5
    for x, out in dropped:
        assert out[x != 0].eq(0).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert all(x is half for (x, _), half in zip(dropped[1:], halves, strict=True))


class ByteTokenizer:
    """Each id is one byte."""

    def decode_bytes(self, ids):
        return bytes(ids)


@from_v1
def test_dropout_is_off_in_evaluation_and_generation(version):
    model, plain = make_model(version, std=0.2, dropout=0.8), make_model(version, std=0.2)
    ids, idx = np.arange(30) % VOCAB, torch.randint(VOCAB, (1, 8))
    assert not torch.equal(model.train()(idx)[0], model(idx)[0])
    scores = [version.evaluate(m.train(), ids, ByteTokenizer(), 8) for m in (model, plain)]
    assert scores[0] == scores[1] and not model.training
    texts = [all_tokens(version, m.train(), idx, 20, seed=1) for m in (model, plain)]
    assert torch.equal(*texts) and not model.training


# --- the optimizers


@from_v1
def test_schedule_in_closed_form(version):
    warmup = 0.0 if number(version) == 5 else 0.2
    cfg = make_config(version, warmup=warmup)
    for share in (0, 0.25, 0.9) if warmup else ():
        assert version.schedule(share * 0.2, cfg) == pytest.approx(share)  # a line from zero
    for share in (0, 0.25, 0.5, 2 / 3, 1):  # of the way down: cos^2 of as much of a right angle
        spent = warmup + share * (1 - warmup)
        expected = math.cos(math.pi / 2 * share) ** 2
        assert version.schedule(spent, cfg) == pytest.approx(expected, abs=1e-12)
    assert version.schedule(0.0, make_config(version, warmup=0.0)) == 1.0


@every_optimizer
def test_every_parameter_is_in_one_group(version, kind):
    rates = dict(learning_rate=0.1, adamw_learning_rate=0.2, muon_learning_rate=0.3)
    rates |= dict(soap_learning_rate=0.4)
    cfg = make_config(version, optimizer=kind, weight_decay=0.25, **rates)
    model, found = make_model(version), {}
    for optimizer in version.make_optimizers(model, cfg):
        for group in optimizer.param_groups:
            for p in group["params"]:
                assert id(p) not in found
                facts = (type(optimizer).__name__, group["initial_lr"], group["weight_decay"])
                found[id(p)] = facts
                if isinstance(optimizer, torch.optim.AdamW):
                    assert group["betas"] == (0.8, 0.99) and group["eps"] == 1e-8
    for name, p in model.named_parameters():
        decay = 0.25 if p.dim() == 2 and number(version) < 5 else 0.0
        expected = ("AdamW", 0.1, decay)
        if "_proj" in name and number(version) >= 4:
            class_name = {"muon": "Muon", "soap": "SOAP"}.get(kind, "AdamW")
            expected = (class_name, rates[f"{kind}_learning_rate"], decay)
        assert found.pop(id(p)) == expected, name
    assert not found


@every_optimizer
def test_one_batch_is_memorized(version, kind):
    """With the version's own learning rates: nothing stands between a model and zero loss."""
    cfg = make_config(version, optimizer=kind, max_steps=100)
    model = make_model(version).train()
    optimizers = version.make_optimizers(model, cfg)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tokens = torch.randint(VOCAB, (4, 9))
    tokens[:, 0] = torch.arange(4)  # rows that start alike could not be told apart
    for step in range(100):
        loss = take_step(version, model, cfg, optimizers, step, tokens[:, :-1], tokens[:, 1:])
    assert loss < (3.2 if number(version) == 6 else 0.1)  # v6 gives the sum over 32 tokens
    for name, p in model.named_parameters():
        assert (p - before[name]).abs().max() > 1e-3, name


# --- training and evaluation


@every_version
@pytest.mark.parametrize("dtype, clip, rising", [("float32", 0.01, True), ("bfloat16", 0.0, False)])
def test_training_is_this_loop(version, dtype, clip, rising, folder):
    """Six steps; with far too much clipping or none (0), with rising or constant dropout."""
    changes = dict(data="text.txt", out="run", max_steps=6, evals=2, vocab_size=270, dtype=dtype)
    changes |= dict(dropout_schedule="linear" if rising else "constant", grad_clip=clip)
    cfg, is_v0 = make_config(version, dropout=0.2, **changes), number(version) == 0
    saved, corpus = version.train(cfg), version.load_corpus(cfg)
    torch.manual_seed(cfg.seed)
    model = version.LanguageModel(cfg, corpus.tokenizer.vocab_size)
    optimizers, losses = version.make_optimizers(model, cfg), []
    for step in range(6):
        if not is_v0:
            for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                group["lr"] = group["initial_lr"] * version.schedule(step / 6, cfg)
            for module in (m for m in model.modules() if isinstance(m, nn.Dropout)):
                module.p = 0.2 * step / 6 if rising else 0.2
            torch.manual_seed(cfg.seed * 1_000_003 + step)
        idx, targets = version.get_batch(corpus.train, cfg, step, "cpu")
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16" and not is_v0):
            loss = model(idx, targets)[1]
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        if clip and not is_v0:
            gradients = [p.grad for p in model.parameters()]
            norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
            for g in gradients:
                g.mul_(min(1.0, clip / norm))
        for optimizer in optimizers:
            optimizer.step()
    rows = (saved / "metrics.csv").read_text().splitlines()[1:]  # evaluations at steps 3 and 6
    means = [sum(losses[:3]) / 3, sum(losses[3:]) / 3]
    assert [float(row.split(",")[3]) for row in rows] == pytest.approx(means, rel=1e-4)
    trained = version.LanguageModel(cfg, corpus.tokenizer.vocab_size)
    name, key = ("best.pt", "step") if is_v0 else ("checkpoint.pt", "training")
    version.load_checkpoint(saved / name, trained, key)
    for (name, p), q in zip(model.named_parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-4, atol=1e-5, msg=name)


@every_version
@pytest.mark.parametrize("block_size", [8, 1000])
def test_evaluation_equals_a_slow_loop(version, block_size):
    """One pass per token; windows of 8 with one of a single token at the end, and one for all."""
    text = "日本 " + TEXT[:60]
    if number(version) < 2:
        tokenizer = version.CharTokenizer(text)
    else:
        tokenizer = version.BPETokenizer.train(text * 9, 264, progress=False)
    longest = block_size if number(version) == 1 else 8  # v1 has a table of positions
    model = make_model(version, std=0.3, vocab_size=tokenizer.vocab_size, block_size=longest)
    tokens, nats, n = np.array(tokenizer.encode(text)[:42], dtype=np.uint16), 0.0, 41
    for target in range(1, n + 1):
        first = (target - 1) // block_size * block_size  # the window's first input
        seen = torch.from_numpy(tokens[first:target].astype(np.int64))[None]
        nats -= model(seen)[0][0, -1].double().log_softmax(-1)[tokens[target]].item()
    n_bytes = len(tokenizer.decode_bytes(tokens[1:].tolist()))
    assert abs(nats / n - math.log(tokenizer.vocab_size)) > 0.01  # no uniform model's
    score = version.evaluate(model, tokens, tokenizer, block_size)
    assert score == pytest.approx((nats / n, nats / math.log(2) / n_bytes), rel=1e-5)
    assert version.evaluate(model, tokens[:1], tokenizer, 8) == (0.0, 0.0)  # nothing to score
