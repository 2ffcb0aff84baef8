"""v5 against the papers (arXiv:2410.01131, arXiv:2409.11321), written out in float64 numpy.

The oracle comes first and knows nothing of v5_ngpt.py; `to_paper` alone ties the two together.
"""

import math

import numpy as np
import pytest
import torch
from small_models import VOCAB, make_config, make_model, take_step

import v5_ngpt as v5

# --- the oracle: weights are numpy arrays (outputs, inputs)


def paper_norm(x, axis=-1):
    """Norm(x) = x / |x|, the projection on the unit sphere."""
    return x / np.sqrt((x * x).sum(axis=axis, keepdims=True))


def paper_softmax(scores):
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def paper_rope(x, base=10_000.0):
    """x (T, d_k): coordinate j turns with j + d_k/2 by the angle t * base^(-2j/d_k)."""
    T, d_k = x.shape
    angle = np.arange(T)[:, None] * base ** (-2.0 * np.arange(d_k // 2) / d_k)
    a, b = x[:, : d_k // 2], x[:, d_k // 2 :]
    turned = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
    return np.concatenate(turned, axis=1)


def paper_ngpt(weights, tokens, n_layer, n_head):
    """Logits (T, V) of nGPT (the list in section 2.6) on one sequence; scales are effective."""
    h = weights["E_input"][tokens]  # (T, C), rows of a normalized matrix
    T, d_model = h.shape
    d_k = d_model // n_head
    future = np.triu(np.ones((T, T), dtype=bool), k=1)
    for i in range(n_layer):
        w = {name.split(".")[1]: value for name, value in weights.items() if name[:2] == f"{i}."}
        heads = []
        q, k, v = h @ w["W_q"].T, h @ w["W_k"].T, h @ w["W_v"].T  # no norm stands before them
        for a in range(n_head):
            cut = slice(a * d_k, (a + 1) * d_k)
            q_a = paper_norm(paper_rope(q[:, cut])) * w["s_qk"][cut]
            k_a = paper_norm(paper_rope(k[:, cut])) * w["s_qk"][cut]
            scores = (q_a @ k_a.T) * math.sqrt(d_k)  # sqrt(d_k), not 1 / sqrt(d_k)
            heads.append(paper_softmax(np.where(future, -1e30, scores)) @ v[:, cut])
        h_attn = paper_norm(np.concatenate(heads, axis=1) @ w["W_o"].T)
        alpha_attn, alpha_mlp = np.abs(w["alpha_attn"]), np.abs(w["alpha_mlp"])
        h = paper_norm(h + alpha_attn * (h_attn - h))
        u = (h @ w["W_u"].T) * w["s_u"]
        nu = (h @ w["W_nu"].T) * w["s_nu"] * math.sqrt(d_model)
        h_mlp = paper_norm((u * (nu / (1 + np.exp(-nu)))) @ w["W_omlp"].T)  # u * SiLU(nu)
        h = paper_norm(h + alpha_mlp * (h_mlp - h))
    return (h @ weights["E_output"].T) * weights["s_z"]  # no final norm


def paper_soap(w, gradients, lr, beta1, beta2, eps, frequency, bases):
    """SOAP (arXiv:2409.11321, Algorithms 3 and 4) on one matrix; returns w after every gradient.

    M lives in the original space and is rotated where it is used; V lives in the rotated space.
    As in the authors' code, the first gradient only makes the first bases, and the bias
    corrections count from the second. An eigenbasis is free in sign, so `bases` are given.
    """
    w, first, track = w.copy(), gradients[0], [w.copy()]
    left, right = (1 - beta2) * first @ first.T, (1 - beta2) * first.T @ first
    (q_left, q_right), m, v = bases, np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients[1:], start=1):
        rotated = q_left.T @ g @ q_right
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * rotated * rotated
        m_hat = q_left.T @ m @ q_right / (1 - beta1**t)
        n = m_hat / (np.sqrt(v / (1 - beta2**t)) + eps)
        w = w - lr * q_left @ n @ q_right.T
        left = beta2 * left + (1 - beta2) * g @ g.T
        right = beta2 * right + (1 - beta2) * g.T @ g
        if t % frequency == 0:
            q_left, q_right = np.linalg.qr(left @ q_left)[0], np.linalg.qr(right @ q_right)[0]
        track.append(w.copy())
    return track


# --- the model's names and the paper's

READS = {"q_proj": "W_q", "k_proj": "W_k", "v_proj": "W_v", "up_proj": "W_u", "gate_proj": "W_nu"}
WRITES = {"out_proj": "W_o", "down_proj": "W_omlp"}  # their columns are vectors of length n_embd
SIZES = dict(n_layer=3, n_head=4, n_kv_head=2, n_embd=24, d_ff=20, block_size=7, batch_size=5)
NAMES = {"token_embedding": "E_input", "head": "E_output", "s_v": "s_nu", **READS, **WRITES}


def to_paper(model):
    """The numbers as they are stored, under the paper's names."""
    stored = {}
    for name, p in model.named_parameters():
        *parts, kind, _ = name.split(".")
        layer = f"{parts[1]}." if parts else ""
        value = p.detach().numpy()
        stored[layer + NAMES.get(kind, kind)] = value.ravel() if kind[:2] == "s_" else value
    return stored


def effective(stored, d_model):
    """A scale is stored as `scale` and used times init / scale (sections 2.5 and 2.6)."""
    unit = 1 / math.sqrt(d_model)
    ratios = {"s_qk": 1 / unit, "alpha_attn": 0.05 / unit, "alpha_mlp": 0.05 / unit}
    ratios["s_z"] = math.sqrt(d_model) / unit  # starts higher than the paper's 1
    return {name: value * ratios.get(name.split(".")[-1], 1.0) for name, value in stored.items()}


def largest_miss_of_unit_norm(model):
    """The largest | |w| - 1 | over all weight vectors of length n_embd."""
    misses = []
    for name, p in model.named_parameters():
        kind = name.split(".")[-2]
        if kind in NAMES and kind != "s_v":
            norms = p.detach().double().norm(dim=0 if kind in WRITES else 1)
            misses.append((norms - 1).abs().max().item())
    assert len(misses) == 2 + 7 * len(model.blocks)
    return max(misses)


@pytest.fixture
def float64(monkeypatch):
    """The same lines in float64: v5 normalizes, and takes its loss, in .float()."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# --- the model


@pytest.mark.parametrize("heads", [(2, 2, 8), (3, 3, 18), (4, 2, 16), (3, 1, 12)], ids=str)
def test_forward_is_the_papers_equations(float64, heads):
    """Also with grouped queries: that is the paper's model with keys, values and s_qk repeated."""
    H, K, C = heads
    model = make_model(v5, n_layer=3, n_head=H, n_kv_head=K, n_embd=C, d_ff=6)
    rng = np.random.default_rng(1)
    with torch.no_grad():  # scales away from where they start, some alphas below zero
        for name, p in model.named_parameters():
            if "alpha" in name or "s_" in name:
                p.mul_(torch.from_numpy(rng.uniform(0.4, 1.9, size=p.shape)))
            if "alpha" in name:
                p.mul_(torch.from_numpy(rng.choice([1.0, -1.0], size=p.shape, p=[0.7, 0.3])))
    idx = rng.integers(0, VOCAB, size=(2, 5))
    logits = model(torch.from_numpy(idx))[0].detach().numpy()
    weights = effective(to_paper(model), C)
    for name, value in weights.items():
        if name[2:] in ("W_k", "W_v", "s_qk"):
            by_head = value.reshape(K, C // H, *value.shape[1:])
            weights[name] = np.repeat(by_head, H // K, axis=0).reshape(C, *value.shape[1:])
    expected = np.stack([paper_ngpt(weights, row, 3, H) for row in idx])
    assert logits.dtype == np.float64 and expected.std() > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["adamw", "muon", "soap"])
def test_everything_stays_on_the_sphere(kind):
    cfg, model = make_config(v5, optimizer=kind, max_steps=9, **SIZES), make_model(v5, **SIZES)
    assert largest_miss_of_unit_norm(model) < 1e-6  # from the start
    optimizers, states = v5.make_optimizers(model, cfg), []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, out: states.extend((args[0], out)))
    for step in range(9):
        batch = v5.get_batch(np.arange(300) * 7 % VOCAB, cfg, step, "cpu")
        take_step(v5, model, cfg, optimizers, step, *batch)
        assert largest_miss_of_unit_norm(model) < 1e-6
    for x in states:
        assert (x.detach().double().norm(dim=-1) - 1).abs().max() < 1e-6


def test_scales_start_at_their_initial_values():
    """A scale is used times init / stored, so that Adam moves it as much faster."""
    model, unit = make_model(v5, **SIZES), 24**-0.5
    expected = {"s_qk": ((2, 6), 1.0, unit), "s_z": ((VOCAB, 1), 24**0.5, unit)}
    expected |= {"s_u": ((20, 1), 1.0, 1.0), "s_v": ((20, 1), 1.0, 1.0)}
    expected |= {"alpha_attn": ((24,), 0.05, unit), "alpha_mlp": ((24,), 0.05, unit)}
    for name, scale in model.named_modules():
        if not isinstance(scale, v5.Scale):
            continue
        shape, init, stored = expected[name.split(".")[-1]]
        torch.testing.assert_close(scale(), torch.full(shape, init))
        torch.testing.assert_close(scale.weight.detach(), torch.full(shape, stored))


def test_normalize():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]]).bfloat16()  # the docstring's example; zero stays
    torch.testing.assert_close(v5.normalize(x), torch.tensor([[0.6, 0.8], [0, 0]]))


# --- SOAP


def make_gradients(shape, steps, seed):
    """A matrix and gradients A S N S' B^T: fixed orthogonal A, B, falling scales S, S', noise N."""
    rng = np.random.default_rng(seed)
    a, b = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in shape)
    rows, cols = (10.0 ** -np.linspace(0, 1, n) for n in shape)
    noise = rng.standard_normal((steps, *shape))
    return rng.standard_normal(shape), a @ (rows[:, None] * noise * cols) @ b.T


def run_soap(w, gradients, **options):
    """v5's SOAP on one matrix; returns w after every gradient, and its bases after the first."""
    p = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimizer, track, bases = v5.SOAP([p], **options), [], None
    for g in gradients:
        p.grad = torch.from_numpy(g.copy())
        optimizer.step()
        state = optimizer.state[p]
        if bases is None:
            bases = [state[name].numpy().copy() for name in ("Q_L", "Q_R")]
        track.append(p.detach().numpy().copy())
    return track, bases


@pytest.mark.parametrize("frequency", [1, 3, 10])
@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 6)], ids=str)
def test_soap_is_algorithm_3(shape, frequency):
    w, gradients = make_gradients(shape, 31, seed=sum(shape) + frequency)
    track, bases = run_soap(w, gradients, lr=0.03, betas=(0.9, 0.8), eps=1e-6, frequency=frequency)
    G = gradients[0]
    for q, covariance in zip(bases, (G @ G.T, G.T @ G), strict=True):
        np.testing.assert_allclose(q.T @ q, np.eye(len(q)), atol=1e-12)
        rotated = q.T @ covariance @ q
        np.testing.assert_allclose(rotated, np.diag(np.diag(rotated)), atol=1e-12)
        assert (np.diff(np.diag(rotated)) < 1e-12).all()  # the largest first, or V is misplaced
    expected = paper_soap(w, gradients, 0.03, 0.9, 0.8, 1e-6, frequency, bases)
    np.testing.assert_allclose(track, expected, rtol=0, atol=1e-8)
    assert np.abs(track[-1] - w).max() > 0.1
    cfg = make_config(v5, optimizer="soap")
    (group,) = v5.make_optimizers(make_model(v5), cfg)[1].param_groups
    assert (group["betas"], group["eps"], group["frequency"]) == ((0.8, 0.95), 1e-8, 10)
