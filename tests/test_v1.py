"""v1 against transformers' GPT-2 holding the same weights, and against closed forms."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn as nn
from transformers import GPT2Config, GPT2LMHeadModel

import v1_transformer as v1

VOCAB = 23


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_config(**changes):
    small = dict(n_layer=2, n_head=2, n_embd=16, block_size=12, batch_size=4, max_steps=10, device="cpu")
    return v1.Config(**(small | {"dtype": "float32"} | changes))


def make_model(cfg, seed=0, std=0.0):
    """A fresh model; with `std` its weights, norms included, are far from where they start."""
    torch.manual_seed(seed)
    model = v1.LanguageModel(cfg, VOCAB)
    if std:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p) * std)
    return model


def make_corpus(n=400):
    """Random tokens, as load_corpus would return them."""
    ids = np.random.default_rng(0).integers(0, VOCAB, n).astype(np.uint16)
    tokenizer = v1.CharTokenizer("".join(chr(ord("a") + i) for i in range(VOCAB - 1)))
    return v1.Corpus(tokenizer, ids[: n // 2], ids[n // 2 :], n // 2, n // 2, "", None)


def gpt2_holding(model, cfg):
    """transformers' GPT-2 with the weights of a v1 model; what v1 lacks (biases of linear maps) is zero."""
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB,
            n_positions=cfg.block_size,
            n_embd=cfg.n_embd,
            n_layer=cfg.n_layer,
            n_head=cfg.n_head,
            activation_function="relu",
            layer_norm_epsilon=model.norm.eps,
            tie_word_embeddings=False,
            attn_implementation="eager",
        )
    )
    state = {name: torch.zeros_like(p) for name, p in theirs.state_dict().items()}

    def put(name, weight):
        assert state[name].shape == weight.shape, name
        state[name] = weight.detach().clone()

    put("transformer.wte.weight", model.token_embedding.weight)
    put("transformer.wpe.weight", model.position_embedding.weight)
    for i, block in enumerate(model.blocks):
        at, attn, mlp = f"transformer.h.{i}.", block.attn, block.mlp
        put(at + "attn.c_attn.weight", attn.qkv_proj.weight.T)  # GPT-2 stores (in, out)
        put(at + "attn.c_proj.weight", attn.out_proj.weight.T)
        put(at + "mlp.c_fc.weight", mlp.up_proj.weight.T)
        put(at + "mlp.c_proj.weight", mlp.down_proj.weight.T)
        for theirs_name, norm in (("ln_1", block.attn_norm), ("ln_2", block.mlp_norm)):
            put(at + theirs_name + ".weight", norm.weight)
            put(at + theirs_name + ".bias", norm.bias)
    put("transformer.ln_f.weight", model.norm.weight)
    put("transformer.ln_f.bias", model.norm.bias)
    put("lm_head.weight", model.head.weight)
    theirs.load_state_dict(state)
    return theirs.eval()


# --- the model


@pytest.mark.parametrize(
    "sizes",
    [
        dict(n_layer=1, n_head=1, n_embd=8, block_size=5),
        dict(n_layer=2, n_head=4, n_embd=24, block_size=9),
        dict(n_layer=3, n_head=2, n_embd=32, block_size=16),
        dict(n_layer=2, n_head=3, n_embd=15, block_size=7),
    ],
)
def test_logits_equal_those_of_gpt2(sizes):
    cfg = make_config(**sizes)
    model = make_model(cfg, std=0.2).eval()
    theirs = gpt2_holding(model, cfg)
    for T in (1, cfg.block_size - 1, cfg.block_size):
        idx = torch.randint(VOCAB, (3, T))
        with torch.no_grad():
            ours, expected = model(idx)[0], theirs(idx).logits
        assert expected.std() > 0.5  # the comparison is not one of zeros
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


def test_loss_and_gradients_equal_those_of_gpt2():
    cfg = make_config()
    model = make_model(cfg, std=0.2).eval()
    theirs = gpt2_holding(model, cfg)
    tokens = torch.randint(VOCAB, (3, cfg.block_size + 1))
    idx, targets = tokens[:, :-1], tokens[:, 1:]
    _, loss = model(idx, targets)
    logits = theirs(idx).logits
    expected = -logits.double().log_softmax(-1).gather(-1, targets[..., None]).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward()
    expected.backward()
    ours = model.position_embedding.weight.grad
    torch.testing.assert_close(ours, theirs.transformer.wpe.weight.grad, rtol=1e-3, atol=1e-6)


def test_initial_weights():
    cfg = make_config(n_layer=8, n_head=4, n_embd=64, block_size=64)
    model = make_model(cfg)
    writers = 0
    for name, p in model.named_parameters():
        if p.dim() >= 2:
            writes = "out_proj" in name or "down_proj" in name
            writers += writes
            expected = p.size(1) ** -0.5 / (math.sqrt(16) if writes else 1)
            assert p.std().item() == pytest.approx(expected, rel=0.08), name
            assert abs(p.mean().item()) < 4 * expected / math.sqrt(p.numel()), name
        else:
            assert p.eq(1.0 if name.endswith("weight") else 0.0).all(), name
    assert writers == 16
    tokens = torch.randint(VOCAB, (4, 65))
    _, loss = model(tokens[:, :-1], tokens[:, 1:])
    assert loss.item() == pytest.approx(math.log(VOCAB) + 0.5, abs=0.3)  # logits of unit variance


# --- the optimizer


def test_exactly_what_has_two_dimensions_decays():
    cfg = make_config(weight_decay=0.25)
    model = make_model(cfg)
    optimizer = v1.make_optimizer(model, cfg)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    times = Counter(id(p) for group in optimizer.param_groups for p in group["params"])
    for name, p in model.named_parameters():
        assert times[id(p)] == 1, name
        assert decay[id(p)] == (0.25 if p.dim() >= 2 else 0.0), name
    assert len(times) == len(list(model.parameters()))


def test_decay_in_closed_form():
    cfg = make_config(weight_decay=0.5, learning_rate=0.1)
    model = make_model(cfg, std=0.2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = v1.make_optimizer(model, cfg)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for (
        name,
        p,
    ) in model.named_parameters():  # without a gradient AdamW multiplies by 1 - lr * decay, and no more
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.1 * 0.5 if p.dim() >= 2 else 1.0))


def test_schedule_in_closed_form():
    cfg = make_config(warmup=0.2, lr_floor=0.1)
    for spent in (0.0, 0.05, 0.1, 0.15, 0.199):
        assert v1.schedule(spent, cfg) == pytest.approx(spent / 0.2, abs=1e-9)  # the ramp: a straight line from zero
    assert v1.schedule(0.2, cfg) == pytest.approx(1.0)  # the peak
    assert v1.schedule(0.6, cfg) == pytest.approx(0.55)  # halfway down: the mean of peak and floor
    assert v1.schedule(0.4, cfg) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)  # a quarter: cos 45 degrees
    assert v1.schedule(1.0, cfg) == pytest.approx(0.1)  # the floor
    assert v1.schedule(0.0, make_config(warmup=0.0, lr_floor=0.1)) == pytest.approx(1.0)


# --- the training step


def run_step(cfg, step, watch=None, model=None):
    """One train_step at a given step of the budget; `watch` gets each dropout's p as the forward pass begins."""
    model = model or make_model(cfg)
    if watch is not None:
        drops = [module for module in model.modules() if isinstance(module, nn.Dropout)]
        model.register_forward_pre_hook(lambda *_: watch.extend(module.p for module in drops))
    optimizer = v1.make_optimizer(model, cfg)
    progress = v1.Progress(step=step)
    model.train()
    stats = v1.train_step(model, optimizer, make_corpus(), cfg, progress, torch.device("cpu"))
    return stats, model, optimizer


@pytest.mark.parametrize("step", [0, 1, 5, 9])
def test_learning_rate_follows_the_schedule(step):
    cfg = make_config(warmup=0.2, learning_rate=0.01)
    stats, _, optimizer = run_step(cfg, step)
    expected = 0.01 * v1.schedule(step / 10, cfg)
    assert stats["learning_rate"] == pytest.approx(expected)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([expected] * 2)


@pytest.mark.parametrize("kind, expected", [("constant", [0.4, 0.4, 0.4]), ("linear", [0.0, 0.2, 0.36])])
def test_dropout_follows_its_schedule(kind, expected):
    cfg = make_config(dropout=0.4, dropout_schedule=kind)
    for step, p in zip((0, 5, 9), expected, strict=True):
        seen = []
        stats, model, _ = run_step(cfg, step, watch=seen)
        assert len(seen) == 1 + 2 * cfg.n_layer  # the embeddings, and in each block one for attention, one for results
        assert seen == pytest.approx([p] * len(seen))
        assert stats["dropout"] == pytest.approx(p)


def test_training_drops_what_the_schedule_says():
    dropped = {}

    def count(name):
        def hook(module, args, out):
            dropped[name] = ((out == 0) & (args[0] != 0)).sum().item() / (args[0] != 0).sum().item()

        return hook

    cfg = make_config(dropout=0.3, n_embd=32, batch_size=32)
    model = make_model(cfg)
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(count(name))
    run_step(cfg, 0, model=model)
    assert len(dropped) == 5
    for name, fraction in dropped.items():
        assert fraction == pytest.approx(0.3, abs=0.02), name


def gradient_norm(cfg):
    """The norm of the whole gradient of the first batch, added up in float64."""
    model = make_model(cfg)
    idx, targets = v1.get_batch(make_corpus().train, cfg, 0, "cpu")
    model(idx, targets)[1].backward()
    return math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters()))


def test_gradient_clipping():
    cfg = make_config(grad_clip=1e-3)
    unclipped = gradient_norm(cfg)
    assert unclipped > 0.01
    for clip, left in ((1e-3, 1e-3), (1e6, unclipped)):
        stats, model, _ = run_step(make_config(grad_clip=clip), 0)
        assert stats["grad_norm"] == pytest.approx(unclipped, rel=1e-4)  # what is reported is what it was
        norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters()))
        assert norm == pytest.approx(left, rel=1e-2)


def test_dropout_is_off_in_evaluation():
    cfg = make_config(dropout=0.9)
    model, plain = make_model(cfg, std=0.2), make_model(make_config(dropout=0.0), std=0.2)
    idx = torch.randint(VOCAB, (2, cfg.block_size))
    model.train()
    assert not torch.equal(model(idx)[0], model(idx)[0])  # else the rest would show nothing
    model.eval(), plain.train()  # without dropout the mode makes no difference
    first, second = model(idx)[0], model(idx)[0]
    assert torch.equal(first, second)
    assert torch.equal(first, plain(idx)[0])
    attn, x = model.blocks[0].attn, torch.randn(2, cfg.block_size, cfg.n_embd)
    bias = v1.attention_bias(cfg.block_size, "cpu")
    assert torch.equal(attn(x, bias), attn(x, bias))
    attn.train()
    assert not torch.equal(attn(x, bias), attn(x, bias))  # attention has a dropout of its own
