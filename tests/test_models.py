"""What every version must keep to: data, model, optimizers, evaluation, generation.

The oracles are slow loops over single tokens, closed forms, and stand-ins for a model.
"""

import ast
import io
import itertools
import json
import math
import re
import sys
import tokenize
from collections import namedtuple
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import VOCAB, load_version, make_config, make_model, take_step, versions

from bpe_tokenizer import BPETokenizer

every_version = versions(0, 1, 2, 3, 4, 5)
from_v1 = versions(1, 2, 3, 4, 5)
from_v2 = versions(2, 3, 4, 5)
with_cache = versions(4, 5)
TEXT = "Anna saw a naïve cat;\nthe café — 日本 — sold \U0001f40c 12 times.\n"


def number(version):
    return int(version.NAME[1])


def make_tokenizer(version, text=TEXT, n_merges=8):
    """Characters for v0 and v1; after that bytes and a few merged tokens."""
    if number(version) < 2:
        return version.CharTokenizer(text)
    return BPETokenizer.train(text * 9, 256 + n_merges, progress=False)


class StandIn(nn.Module):
    """In place of a model: the logits after a window (B, T) are rule(window) (B, V)."""

    def __init__(self, rule):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))  # tells on which device the model is
        self.blocks, self.rule, self.windows = [None], rule, []

    def forward(self, idx, targets=None, caches=None):
        window = idx
        if caches is not None:  # which hold the tokens where a block would keep keys and values
            window = torch.cat((*caches[0], idx), dim=1)
            caches[0][:] = [window]
        self.windows.append(window.clone())
        return self.rule(window)[:, None].expand(-1, idx.size(1), -1), None


def script(ids, vocab_size):
    """A StandIn that says these ids, one after the other."""
    spoken = iter(ids)
    return StandIn(lambda window: F.one_hot(torch.tensor([next(spoken)]), vocab_size).float())


# --- data


@every_version
def test_targets_are_the_next_tokens(version):
    tokens, cfg = np.arange(1000, dtype=np.uint16), make_config(version)
    for step in (0, 1, 977):
        idx, targets = version.get_batch(tokens, cfg, step, "cpu")
        assert idx.shape == targets.shape == (4, 8) and idx.dtype == torch.int64
        assert (targets == idx + 1).all() and (idx == idx[:, :1] + torch.arange(8)).all()


@every_version
def test_a_batch_depends_on_seed_and_step_alone(version):
    tokens, cfg = np.arange(10**6), make_config(version)
    idx, _ = version.get_batch(tokens, cfg, 5, "cpu")
    np.random.seed(1), torch.manual_seed(1)
    assert (version.get_batch(tokens, cfg, 5, "cpu")[0] == idx).all()
    for seed, step in ((cfg.seed, 6), (1, 5), (5, cfg.seed)):
        other, _ = version.get_batch(tokens, make_config(version, seed=seed), step, "cpu")
        assert not (other == idx).all()


@every_version
def test_all_windows_are_equally_probable(version):
    for n in (9, 10, 50):  # from block_size + 1 on
        cfg = make_config(version, batch_size=20_000)
        starts = version.get_batch(np.arange(n), cfg, 0, "cpu")[0][:, 0]
        counts = starts.bincount(minlength=n - 8)
        assert len(counts) == n - 8
        assert (counts - 20_000 / (n - 8)).abs().max() <= 4  # far more even than at random


@every_version
def test_a_pass_over_the_text_misses_little_of_it(version):
    cfg, seen = make_config(version), np.zeros(32_000, dtype=bool)
    for step in range(1000):  # of 4 windows of 8 tokens
        seen[version.get_batch(np.arange(32_000), cfg, step, "cpu")[0].numpy()] = True
    assert 0.8 < seen.mean() < 0.95  # at random places 1 - 1 / e = 0.63


@every_version
def test_corpus_is_split_at_nine_tenths(version, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TEXT * 20 + "the end"
    Path("t.txt").write_text(text, encoding="utf-8", newline="")
    cfg, cut = make_config(version, data="t.txt", vocab_size=300), len(text) * 9 // 10
    corpus = version.load_corpus(cfg)
    assert corpus.tokenizer.decode(corpus.train.tolist()) == text[:cut]
    assert corpus.tokenizer.decode(corpus.val[1:].tolist()) == text[cut:]
    assert corpus.val[0] == corpus.train[-1] and corpus.entropy is None
    facts = {"floor_bits_per_byte": {"validation": 0.5}}
    for digest, entropy in (("0" * 64, None), (sha256(text.encode()).hexdigest(), 0.5)):
        Path("t.txt.json").write_text(json.dumps(facts | {"sha256": digest}))
        assert version.load_corpus(cfg, corpus.tokenizer).entropy == entropy


# --- the model


@every_version
def test_no_logit_sees_what_comes_after_it(version):
    model, T = make_model(version, std=0.2), 8
    idx = torch.randint(VOCAB, (2, T))
    with torch.no_grad():
        before = model(idx)[0]
        for t in range(T):
            changed = idx.clone()
            changed[:, t] = (changed[:, t] + 1) % VOCAB
            difference = (model(changed)[0] - before).abs().amax(dim=(0, 2))  # (T,)
            assert (difference[:t] < 1e-6).all() and difference[t] > 1e-2
            if number(version):  # v0 sees one token only
                assert (difference[t:] > 1e-4).all()
            else:
                assert (difference[t + 1 :] == 0).all()


@every_version
def test_logits_of_a_row_do_not_depend_on_its_batch(version):
    model = make_model(version, std=0.2)
    idx = torch.randint(VOCAB, (3, 8))
    with torch.no_grad():
        torch.testing.assert_close(model(idx)[0][1:2], model(idx[1:2])[0], rtol=0, atol=1e-5)


@every_version
def test_loss_is_the_mean_over_all_targets(version):
    model = make_model(version, std=0.2)
    tokens = torch.randint(VOCAB, (3, 9))
    logits, loss = model(tokens[:, :-1], tokens[:, 1:])
    assert logits.shape == (3, 8, VOCAB)
    log_probs = logits.detach().double().log_softmax(-1)
    each = [-log_probs[b, t, tokens[b, t + 1]].item() for b in range(3) for t in range(8)]
    assert loss.item() == pytest.approx(np.mean(each), rel=1e-5)
    assert model(tokens[:, :-1])[1] is None


@every_version
def test_initial_loss(version):
    model = make_model(version, vocab_size=200, n_embd=64, n_layer=4, block_size=64)
    tokens = torch.randint(200, (16, 65))
    loss = model(tokens[:, :-1], tokens[:, 1:])[1].item()
    assert abs(loss - math.log(200) - (0.5 if number(version) else 0.0)) < 0.1  # logits N(0, 1)


@versions(1, 2, 3, 4)
def test_initial_weights(version):
    model = make_model(version, vocab_size=90, n_layer=8, n_embd=64, block_size=70, d_ff=96)
    writers = 0
    for name, p in model.named_parameters():
        if p.dim() < 2:
            assert p.eq(1.0 if name.endswith("weight") else 0.0).all(), name
            continue
        writes = "out_proj" in name or "down_proj" in name
        writers += writes
        std = p.size(1) ** -0.5 / (4 if writes else 1)  # 16 halves of a block add to x
        assert p.std().item() == pytest.approx(std, rel=0.08), name
        assert p.mean().abs().item() < 4 * std / math.sqrt(p.numel()), name
    assert writers == 16
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert len(linear) > 16 and all(m.bias is None for m in linear)


@from_v1
def test_bfloat16(version):
    """Products in bfloat16, the loss in float32, both close to those without autocast."""
    model = make_model(version, std=0.1)
    tokens = torch.randint(VOCAB, (4, 9))
    idx, targets = tokens[:, :-1], tokens[:, 1:]
    seen = []
    model.blocks[0].mlp.down_proj.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        logits, loss = model(idx, targets)
    loss.backward()
    assert seen == [torch.bfloat16] and loss.dtype == torch.float32
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    exact, exact_loss = model(idx, targets)
    exact_loss.backward()
    assert (logits - exact).norm() < 0.03 * exact.norm()
    assert loss.item() == pytest.approx(exact_loss.item(), rel=0.02)
    for (name, p), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert gradient.dtype == p.dtype == torch.float32
        assert (gradient - p.grad).norm() < 0.2 * p.grad.norm(), name


# --- dropout


@from_v1
def test_dropout_on_embeddings_and_what_each_half_adds(version):
    model = make_model(version, std=0.2, dropout=0.3, n_embd=64, block_size=128).train()
    dropped, halves = [], []

    def watch(module, args, out):
        zeros = out[args[0] != 0].eq(0).float().mean().item()
        dropped.append((args[0], zeros))

    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(watch)
        if name.endswith((".attn", ".mlp")):
            module.register_forward_hook(lambda module, args, out: halves.append(out))
    model(torch.randint(VOCAB, (8, 128)))
    assert [zeros for _, zeros in dropped] == pytest.approx([0.3] * 5, abs=0.02)
    for (given, _), half in zip(dropped[1:], halves, strict=True):
        assert given is half


@from_v1
def test_dropout_is_off_in_evaluation_and_generation(version):
    model, plain = make_model(version, std=0.2, dropout=0.8), make_model(version, std=0.2)
    idx = torch.randint(VOCAB, (1, 8))
    assert not torch.equal(model.train()(idx)[0], model(idx)[0])
    assert torch.equal(model.eval()(idx)[0], plain.train()(idx)[0])
    tokenizer, ids = ByteTokenizer(), np.arange(30) % VOCAB
    scores = [version.evaluate(m.train(), ids, tokenizer, 8) for m in (model, plain)]
    assert scores[0] == scores[1] and not model.training
    texts = [all_tokens(version, m.train(), idx, 20, 8, seed=1) for m in (model, plain)]
    assert torch.equal(*texts) and not model.training


@from_v1
def test_dropout_follows_its_schedule(version):
    model = make_model(version)
    for kind, spent, p in (("constant", 0.5, 0.4), ("linear", 0.0, 0.0), ("linear", 0.5, 0.2)):
        cfg = make_config(version, dropout=0.4, dropout_schedule=kind)
        version.set_schedules(cfg, model, [], spent, 3)
        drops = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
        assert drops == pytest.approx([p] * 3)


@from_v1
def test_what_is_dropped_depends_on_seed_and_step_alone(version):
    model = make_model(version)

    def drawn(seed, step, before):
        torch.manual_seed(before)
        version.set_schedules(make_config(version, dropout=0.1, seed=seed), model, [], 0.5, step)
        return torch.rand(1).item()

    assert drawn(1, 3, before=0) == drawn(1, 3, before=5)
    assert len({drawn(seed, step, 0) for seed in (0, 1, 2) for step in (0, 1, 2)}) == 9


# --- the optimizer

OPTIMIZERS = [(1, "adamw"), (2, "adamw"), (3, "adamw"), (4, "muon"), (4, "adamw")]
OPTIMIZERS += [(5, "muon"), (5, "adamw"), (5, "soap")]
KINDS = [pytest.param(load_version(i), kind, id=f"v{i}-{kind}") for i, kind in OPTIMIZERS]
every_optimizer = pytest.mark.parametrize("version, kind", KINDS)


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
    model = make_model(version)
    optimizers = version.make_optimizers(model, cfg)
    found = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group["params"]:
                assert id(p) not in found
                facts = (type(optimizer).__name__, group["initial_lr"], group["weight_decay"])
                found[id(p)] = facts
                if isinstance(optimizer, torch.optim.AdamW):
                    assert group["betas"] == (0.8, 0.99) and group["eps"] == 1e-8
    assert len(found) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        decay = 0.25 if p.dim() == 2 and number(version) < 5 else 0.0
        expected = ("AdamW", 0.1, decay)
        if "_proj" in name and number(version) >= 4:
            class_name = {"muon": "Muon", "soap": "SOAP"}.get(kind, "AdamW")
            expected = (class_name, rates[f"{kind}_learning_rate"], decay)
        assert found[id(p)] == expected, name


@every_optimizer
def test_decay_in_closed_form(version, kind):
    """Without a gradient a weight is multiplied by 1 - lr * decay, and no more."""
    cfg = make_config(version, optimizer=kind, weight_decay=0.5)
    model = make_model(version, std=0.2)
    model.normalize_matrices = lambda: None  # it would hide that a matrix shrinks
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for optimizer in version.make_optimizers(model, cfg):
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        optimizer.step()
        optimizer.step()
    for name, p in model.named_parameters():
        kept = (1 - 0.1 * 0.5) ** 2 if p.dim() == 2 and number(version) < 5 else 1.0
        torch.testing.assert_close(p.detach(), before[name] * kept, rtol=1e-6, atol=0)


@every_optimizer
def test_one_batch_is_memorized(version, kind):
    cfg = make_config(version, optimizer=kind, max_steps=100)
    model = make_model(version).train()
    optimizers = version.make_optimizers(model, cfg)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tokens = torch.randint(VOCAB, (4, 9))
    tokens[:, 0] = torch.arange(4)  # rows that start alike could not be told apart
    for step in range(100):
        loss = take_step(version, model, cfg, optimizers, step, tokens[:, :-1], tokens[:, 1:])
    assert loss < 0.1
    for name, p in model.named_parameters():
        assert (p - before[name]).abs().max() > 1e-3, name


@every_optimizer
def test_optimizer_state_survives_saving(version, kind):
    cfg = make_config(version, optimizer=kind, max_steps=20)
    models = [make_model(version), make_model(version, std=0.1)]
    optimizers = [version.make_optimizers(model, cfg) for model in models]
    for step in range(16):  # SOAP sets its basis anew meanwhile
        tokens = torch.randint(VOCAB, (4, 9), generator=torch.Generator().manual_seed(step))
        for i in (0, 1) if step >= 4 else (0,):
            idx, targets = tokens[:, :-1], tokens[:, 1:]
            take_step(version, models[i], cfg, optimizers[i], step, idx, targets)
        if step == 3:
            saved = (models[0].state_dict(), [o.state_dict() for o in optimizers[0]])
            torch.save(saved, file := io.BytesIO())
            saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
            models[1].load_state_dict(saved[0])
            for optimizer, state in zip(optimizers[1], saved[1], strict=True):
                optimizer.load_state_dict(state)
    for (name, p), q in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q), name


# --- the training loop


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@every_version
def test_training_is_this_loop(version, dtype, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(TEXT * 20, encoding="utf-8", newline="")
    changes = dict(data="t.txt", out="run", max_steps=6, evals=2, vocab_size=270, dtype=dtype)
    changes |= dict(dropout=0.2, dropout_schedule="linear", grad_clip=1e9, max_new_tokens=1)
    cfg = make_config(version, **changes)
    saved = version.train(cfg) / ("checkpoint.pt" if number(version) else "best.pt")

    corpus = version.load_corpus(cfg)
    torch.manual_seed(cfg.seed)
    model = version.LanguageModel(cfg, corpus.tokenizer.vocab_size)
    optimizers = version.make_optimizers(model, cfg)
    for step in range(6):
        if number(version):
            for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                group["lr"] = group["initial_lr"] * version.schedule(step / 6, cfg)
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.2 * step / 6
            torch.manual_seed(cfg.seed * 1_000_003 + step)
        idx, targets = version.get_batch(corpus.train, cfg, step, "cpu")
        low = dtype == "bfloat16" and number(version) > 0
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = model(idx, targets)[1]
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    trained = version.LanguageModel(cfg, corpus.tokenizer.vocab_size)
    version.load_checkpoint(saved, trained, "training" if number(version) else "step")
    for (name, p), q in zip(model.named_parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-5, atol=1e-6, msg=name)


@from_v1
@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_gradient_clipping(version, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(TEXT * 20, encoding="utf-8", newline="")
    norms, make_optimizers = [], version.make_optimizers

    def watched(model, cfg):
        def watch(*_):
            squares = sum(p.grad.double().square().sum().item() for p in model.parameters())
            norms.append(math.sqrt(squares))

        optimizers = make_optimizers(model, cfg)
        optimizers[0].register_step_pre_hook(watch)
        return optimizers

    monkeypatch.setattr(version, "make_optimizers", watched)
    changes = dict(data="t.txt", out="run", vocab_size=270, max_steps=3, evals=1)
    version.train(make_config(version, grad_clip=clip, **changes))
    assert len(norms) == 3
    if clip < 1:
        assert norms == pytest.approx([clip] * 3, rel=1e-2)
    else:
        assert min(norms) > 0.01 and max(norms) > 1.1 * min(norms)  # as they were


# --- evaluation


class ByteTokenizer:
    """Each id is one byte."""

    def decode_bytes(self, ids):
        return bytes(ids)


def score_one_by_one(model, tokens, block_size):
    """Nats over tokens[1:]: each target from what its window has before it, one pass per target."""
    nats = 0.0
    for target in range(1, len(tokens)):
        first = (target - 1) // block_size * block_size  # the window's first input
        seen = torch.from_numpy(tokens[first:target].astype(np.int64))[None]
        with torch.no_grad():
            nats -= model(seen)[0][0, -1].double().log_softmax(-1)[tokens[target]].item()
    return nats


@every_version
@pytest.mark.parametrize("block_size", [1, 8, 11, 1000])
def test_evaluation_equals_a_slow_loop(version, block_size):
    """Windows of one target, with a short one at the end, longer than in training, and one only."""
    tokenizer = make_tokenizer(version)
    longest = block_size if number(version) == 1 else 8  # v1 has a table of positions
    model = make_model(version, std=0.3, vocab_size=tokenizer.vocab_size, block_size=longest)
    tokens = np.array(tokenizer.encode(TEXT), dtype=np.uint16)
    n, n_bytes = len(tokens) - 1, len(TEXT.encode()) - len(tokenizer.decode(tokens[:1]).encode())
    assert n % 8 and n % 11
    nats = score_one_by_one(model, tokens, block_size)
    assert abs(nats / n - math.log(tokenizer.vocab_size)) > 0.01  # not what a uniform model pays
    score = version.evaluate(model.train(), tokens, tokenizer, block_size)
    assert score == pytest.approx((nats / n, nats / math.log(2) / n_bytes), rel=1e-5)


@every_version
def test_a_uniform_model_pays_log2_of_the_vocabulary(version):
    model = make_model(version)
    for p in model.parameters():
        p.data.zero_()
    tokens = np.arange(38, dtype=np.uint16) % VOCAB
    nats, bits = version.evaluate(model.train(), tokens, ByteTokenizer(), 8)
    assert not model.training
    assert nats == pytest.approx(math.log(VOCAB)) and bits == pytest.approx(math.log2(VOCAB))
    assert version.evaluate(model, tokens[:1], ByteTokenizer(), 8) == (0.0, 0.0)  # nothing to score


# --- generation


def all_tokens(version, model, prompt, n, block_size, **how):
    return torch.stack(list(version.generate(model, prompt, n, block_size, **how)), dim=1)


@every_version
def test_a_full_window_slides_or_drops_its_older_half(version):
    def wander(window):  # the next token is the window's last plus 5: a text that is known before
        return F.one_hot((window[:, -1] + 5) % VOCAB, VOCAB).float()

    for prompt_length, block_size, lengths in (
        (5, 8, [5, 6, 7, 8, 4, 5, 6, 7, 8, 4, 5]),
        (13, 8, [8, 4, 5, 6, 7, 8, 4]),  # of a prompt that is too long, the end
        (2, 5, [2, 3, 4, 5, 2, 3, 4, 5, 2]),
        (3, 1, [1, 1, 1, 1]),
    ):
        if number(version) < 4:  # without a cache
            lengths = [min(prompt_length + i, block_size) for i in range(len(lengths))]
        model = StandIn(wander)
        text = torch.arange(prompt_length + len(lengths)) * 5 % VOCAB
        prompt = text[None, :prompt_length]
        generated = all_tokens(version, model, prompt, len(lengths), block_size, temperature=0)
        assert generated[0].tolist() == text[prompt_length:].tolist()
        assert [window.size(1) for window in model.windows] == lengths
        for i, window in enumerate(model.windows):
            assert window[0].tolist() == text[: prompt_length + i][-window.size(1) :].tolist()


@every_version
def test_temperature_zero_takes_the_most_probable(version):
    model = make_model(version, std=0.6)
    text = torch.randint(VOCAB, (2, 5))
    generated = all_tokens(version, model, text, 4, 9, temperature=0)
    for how in (dict(temperature=0, top_p=0.5), dict(temperature=1.7, top_k=1), dict(top_p=1e-3)):
        assert torch.equal(generated, all_tokens(version, model, text, 4, 9, seed=5, **how))
    for _ in range(4):
        with torch.no_grad():
            text = torch.cat((text, model(text)[0][:, -1:].argmax(-1)), dim=1)
    assert torch.equal(generated, text[:, 5:])


PROBS = [0.02, 0.3, 0.08, 0.25, 0.05, 0.2, 0.1]  # by size: 0.30 0.25 0.20 0.10 0.08 0.05 0.02
N_DRAWS = 40_000


@every_version
@pytest.mark.parametrize(
    "how, kept",
    [
        (dict(), range(7)),
        (dict(top_k=3), (1, 3, 5)),
        (dict(top_k=50), range(7)),
        (dict(top_p=0.5), (1, 3)),  # 0.30 is too little, 0.55 enough
        (dict(top_p=0.8), (1, 3, 5, 6)),  # 0.75 is too little
        (dict(top_p=0.29), (1,)),
        (dict(top_p=0.0), (1,)),
        (dict(top_k=4, top_p=0.6), (1, 3)),  # 0.55 of the 0.85 that four tokens hold is 0.65
        (dict(temperature=0.5), range(7)),
        (dict(temperature=2.0), range(7)),
        (dict(temperature=0.5, top_p=0.9), (1, 3, 5)),  # squared: 0.42 0.29 0.19 0.05 ...
    ],
    ids=str,
)
def test_draws_follow_the_filtered_distribution(version, how, kept):
    model = StandIn(lambda window: torch.tensor(PROBS).log().expand(window.size(0), -1))
    prompts = torch.zeros(N_DRAWS, 1, dtype=torch.long)
    draws = all_tokens(version, model, prompts, 1, 8, seed=1, **how)
    sharpness = 1 / how.get("temperature", 1.0)
    expected = np.array([p**sharpness * (i in kept) for i, p in enumerate(PROBS)])
    expected /= expected.sum()
    drawn = np.bincount(draws.flatten().numpy(), minlength=7) / N_DRAWS
    assert drawn[expected == 0].sum() == 0
    tolerance = 4.5 * np.sqrt(expected * (1 - expected) / N_DRAWS) + 1e-12
    assert (np.abs(drawn - expected) <= tolerance).all()


@every_version
def test_a_seed_fixes_the_draws(version):
    model = make_model(version, std=0.2)
    prompt = torch.randint(VOCAB, (2, 3))
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = all_tokens(version, model, prompt, 30, 8, seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    torch.manual_seed(12)
    assert torch.equal(first, all_tokens(version, model, prompt, 30, 8, seed=1))
    assert not torch.equal(first, all_tokens(version, model, prompt, 30, 8, seed=2))


def show_sample(version, tokenizer, model, monkeypatch, **changes):
    """What print_sample returns, and all that was printed after each token and at the end."""
    printed = []
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    model.register_forward_pre_hook(lambda *_: printed.append(sys.stdout.getvalue()))
    cfg = make_config(version, **dict(temperature=0.0) | changes)
    text = version.print_sample(version.Run(None, cfg, tokenizer, model, 0))
    return text, [*printed, sys.stdout.getvalue()]


def say(version, tokenizer, ids, monkeypatch, **changes):
    """The text, and the printed pieces of it, when the model says these ids."""
    model = script([int(i) for i in ids], tokenizer.vocab_size)
    changes = dict(max_new_tokens=len(ids)) | changes
    text, printed = show_sample(version, tokenizer, model, monkeypatch, **changes)
    start = printed[0]  # the header and the prompt
    assert printed[-1].startswith(start + text)
    return text, [now[len(before) :] for before, now in zip(printed, printed[1:-1], strict=False)]


@every_version
def test_a_sample_is_printed_as_it_is_drawn(version, monkeypatch):
    tokenizer = make_tokenizer(version)
    text, pieces = say(version, tokenizer, tokenizer.encode(TEXT), monkeypatch)
    assert text == TEXT and TEXT.startswith("".join(pieces))
    assert (
        all("\ufffd" not in piece for piece in pieces) and sum(map(bool, pieces)) > len(TEXT) // 2
    )
    short = say(version, tokenizer, tokenizer.encode(TEXT), monkeypatch, max_new_tokens=3)[0]
    assert TEXT.startswith(short) and 3 <= len(short) < len(TEXT)
    assert say(version, tokenizer, [], monkeypatch)[0] == ""


@every_version
def test_a_prompt_is_printed_and_continued(version, monkeypatch):
    tokenizer = make_tokenizer(version)
    for prompt, read in (("cat", "cat"), ("", "\n\n")):  # without one, the start of a paragraph
        model = script(tokenizer.encode("the"), tokenizer.vocab_size)
        changes = dict(prompt=prompt, max_new_tokens=len(tokenizer.encode("the")))
        text, printed = show_sample(version, tokenizer, model, monkeypatch, **changes)
        assert text == prompt + "the" and printed[0].endswith(f"\n\n{prompt}")
        assert tokenizer.decode(model.windows[0][0].tolist()) == read


@every_version
@pytest.mark.parametrize(
    "said, shown",
    [
        ("a cat; END the rest", "a cat; "),
        ("ENENDEND", "EN"),
        ("END", ""),
        ("the EN", "the EN"),  # only the beginning of the stop string: it is text after all
        ("E E N EEN END.END", "E E N EEN "),
        ("no such thing", "no such thing"),
    ],
)
def test_the_stop_string_is_never_shown(version, said, shown, monkeypatch):
    tokenizer = make_tokenizer(version, said, 0)
    text, pieces = say(version, tokenizer, tokenizer.encode(said), monkeypatch, stop="END")
    assert text == shown and shown.startswith("".join(pieces))
    assert len(pieces) == (
        said.index("END") + 2 if "END" in said else len(said) - 1
    )  # it ended there


@from_v2
def test_characters_are_never_torn(version, monkeypatch):
    plain = BPETokenizer()
    for data, stop, shown in (
        ("a日本END本".encode(), "END", "a日本"),
        ("a日本".encode(), "本", "a日"),
        (b"a\xff\xff\xff\xc3\xa9b", "", "a\ufffd\ufffd\ufffdéb"),  # bytes that are no text
        (b"\xe6\x97\xff\xe6\x97\xa5", "", "\ufffd\ufffd日"),
        (b"\xa9\xe2\x82\xac\xe2", "", "\ufffd€\ufffd"),
        (b"a.\xc3", ".", "a"),
    ):
        ids = [plain.byte_order.index(byte) for byte in data]
        text, pieces = say(version, plain, ids, monkeypatch, stop=stop)
        assert text == shown and shown.startswith("".join(pieces))
    merged = BPETokenizer([[plain.byte_order.index(b) for b in b"\xa9\xc3"]])  # end and start
    ids = [plain.byte_order.index(0xC3), *[256] * 6, plain.byte_order.index(0xA9)]
    text, pieces = say(version, merged, ids, monkeypatch)
    assert text == "é" * 7 and "".join(pieces) == "é" * 6


@every_version
def test_a_sample_of_a_real_model(version, monkeypatch):
    tokenizer = make_tokenizer(version)
    model = make_model(version, std=0.3, vocab_size=tokenizer.vocab_size)
    how = dict(temperature=1.0, top_k=5, top_p=0.9, seed=3)
    changes = how | dict(prompt="the", max_new_tokens=25)
    text, _ = show_sample(version, tokenizer, model, monkeypatch, **changes)
    prompt = torch.tensor([tokenizer.encode("the")])
    ids = all_tokens(version, model, prompt, 25, 8, **how)
    assert text == "the" + tokenizer.decode(ids[0].tolist())


# --- shape comments: a trailing "# (B, T, C)" is compared with what the statement gave when it ran

SIZES = dict(B=7, T=10, C=48, H=6, K=3, G=2, D=8, d_ff=40, V=61, past=0, S=10)
PAST = 9  # tokens that a cache holds before T more come
TERM = r"(?:past|d_ff|[A-Z]|\d+)"
SHAPE = re.compile(rf"\({TERM}(?:\s*[-+*/,]\s*{TERM})*,?\)")
AT_LEAST = [3, 12, 15, 14, 18, 22]  # comments; lower it if you remove some on purpose
Comment = namedtuple("Comment", "line shapes statement in_rotate seen")


def find_comments(source):
    """The comments of sections 2, 3 and 6 that state shapes, each with its statement."""
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    section, comments = "", []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        banner = re.match(r"# -+ (\d)", token.string)
        section, line = banner[1] if banner else section, token.start[0]
        is_trailing = token.type == tokenize.COMMENT and token.line[: token.start[1]].strip()
        if is_trailing and section in ("2", "3", "6"):
            shapes = SHAPE.findall(token.string)
            assert shapes or not token.string.startswith("# ("), f"{line}: is not checked"
            around = [s for s in statements if s.lineno <= line <= s.end_lineno]
            in_rotate = any(getattr(s, "name", "") == "rotate" for s in around)
            if shapes:  # ast.walk goes by depth, so the last statement is the innermost
                comments.append(Comment(line, shapes, around[-1], in_rotate, []))
    return comments


def observe(version):
    """The shape comments; `seen` holds the sizes and the true shapes of each time."""
    comments = find_comments(Path(version.__file__).read_text("utf-8"))
    lines = {c.line: range(c.statement.lineno, c.statement.end_lineno + 1) for c in comments}
    owner = {line: c for c in comments for line in lines[c.line]}
    running, sizes = {}, dict(SIZES)

    def watch(frame, event, returned):
        """Called before each line and after the last: look at what the statement before gave."""
        if frame.f_code.co_filename != version.__file__:
            return None
        now, done = owner.get(frame.f_lineno) if event == "line" else None, running.get(frame)
        if done and done is not now:
            if isinstance(done.statement, ast.Return):
                values = returned
            else:
                target = ast.unparse(done.statement.targets[0]).replace("[:]", "")
                values = eval(target, {}, dict(frame.f_locals))
            values = values if isinstance(values, tuple | list) else [values]
            done.seen.append((dict(sizes), [tuple(v.shape) for v in values]))
        running[frame] = now
        return watch

    B, T, V = SIZES["B"], SIZES["T"], SIZES["V"]
    widths = dict(n_head=6, n_kv_head=3, n_embd=48, d_ff=40, batch_size=B)
    cfg = make_config(version, block_size=T, **widths)
    model = make_model(version, vocab_size=V, block_size=PAST + T, **widths)
    idx = torch.randint(V, (B, PAST + T))
    before = sys.gettrace()
    sys.settrace(watch)
    try:
        version.get_batch(np.arange(200), cfg, 0, "cpu")
        model(idx[:, :T], idx[:, 1 : T + 1])
        list(version.generate(model, idx[:, :T], 1, T, top_k=3, top_p=0.5))
        if number(version) >= 4:
            caches = [[] for _ in model.blocks]
            sizes |= {"T": PAST, "S": PAST}
            model(idx[:, :PAST], caches=caches)
            sizes |= {"T": T, "past": PAST, "S": PAST + T}
            model(idx[:, PAST:], caches=caches)
    finally:
        sys.settrace(before)
    return comments


def is_true(comment, shapes):
    """Whether shapes, one for all values or one for each, are those of all that was seen.

    Only `rotate` takes queries as well as keys: there H stands for H or K.
    """
    for sizes, found in comment.seen:
        for heads in ("H", "K") if comment.in_rotate else ("H",):
            known = sizes | {"H": sizes[heads]}
            stated = [eval(shape.replace("/", "//"), {}, known) for shape in shapes]
            stated = [shape if isinstance(shape, tuple) else (shape,) for shape in stated]
            if (stated * len(found) if len(stated) == 1 else stated) == found:
                break
        else:
            return False
    return True


@every_version
def test_shape_comments(version):
    comments = observe(version)
    assert len(comments) >= AT_LEAST[number(version)]
    for comment in comments:
        assert comment.seen, f"{comment.line}: never ran"
        assert is_true(comment, comment.shapes), f"{comment.line}: {comment.seen}"


@every_version
def test_legend_explains_the_letters_of_shape_comments(version):
    source = Path(version.__file__).read_text("utf-8")
    legend = re.search(r"^# Shapes: (.*(?:\n# .*)*)", source, re.MULTILINE)[1]
    for comment in find_comments(source):
        for letter in re.findall(r"\b[A-Z]\b", "".join(comment.shapes)):
            assert re.search(rf"\b{letter}\b", legend), f"{comment.line}: {letter}"


@every_version
def test_a_wrong_shape_comment_is_found(version):
    """Any size of any comment replaced by another, any two swapped, one left out or added."""
    for comment in observe(version):
        true, wrong = comment.shapes[0].strip("(,)").split(", "), []
        for i in range(len(true)):
            wrong += [true[:i] + [size] + true[i + 1 :] for size in (*SIZES, "D/2", "4 * C", "1")]
            wrong += [true[:i] + true[i + 1 :], [*true, "1"]]
        wrong += map(list, itertools.permutations(true))
        for other in wrong:
            same = other == true or number(version) < 4 and {"S", "T"} <= {*true, *other}
            if other and not same:
                shapes = [f"({', '.join(other)},)", *comment.shapes[1:]]
                assert not is_true(comment, shapes), f"{comment.line}: {shapes}"
