"""v5_ngpt.py against the papers' equations, written out in float64 numpy from arXiv:2410.01131 and arXiv:2409.11321.

The oracle comes first and knows nothing of v5_ngpt.py; `to_paper` alone ties the two together.
"""

import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import v5_ngpt as v5

OPTIMIZERS = ("adamw", "muon", "soap")


# ------------------------------------------------------------------------------------------------------------------
# The oracle: the papers' equations in plain numpy. Nothing below looks at v5_ngpt.py.
#
# A weight is a numpy array stored (outputs, inputs), so a layer is x @ W.T. All functions are analytic (a norm is
# sqrt(sum x*x), never an absolute value), so that a complex step x + ih yields the exact derivative Im f / h.
# ------------------------------------------------------------------------------------------------------------------
def paper_norm(x, axis=-1):
    """Norm(x) = x / ||x||, the projection on the unit sphere."""
    return x / np.sqrt((x * x).sum(axis=axis, keepdims=True))


def paper_abs(x):
    """|x| continued analytically off the real line."""
    return np.where(x.real < 0, -x, x)


def paper_softmax(scores):
    e = np.exp(scores - scores.real.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def paper_rope(x, base):
    """RoPE on x (T, d_k), half-split: coordinate j turns with coordinate j + d_k/2 by the angle t * base^(-2j/d_k)."""
    half = x.shape[-1] // 2
    y = np.empty_like(x)
    for t in range(x.shape[0]):
        for j in range(half):
            angle = t * base ** (-2.0 * j / x.shape[-1])
            y[t, j] = x[t, j] * math.cos(angle) - x[t, j + half] * math.sin(angle)
            y[t, j + half] = x[t, j] * math.sin(angle) + x[t, j + half] * math.cos(angle)
    return y


def paper_ngpt(weights, tokens, n_layer, n_head, base=10_000.0):
    """Logits (T, V) of nGPT (arXiv:2410.01131, the list in Section 2.6) on one sequence; scales given as effective."""
    h = weights["E_input"][tokens]  # (T, C), rows of a normalized matrix
    T, d_model = h.shape
    d_k = d_model // n_head
    future = np.triu(np.ones((T, T), dtype=bool), k=1)
    for i in range(n_layer):
        w = {name.split(".")[1]: value for name, value in weights.items() if name.startswith(f"{i}.")}
        heads = []
        q, k, v = h @ w["W_q"].T, h @ w["W_k"].T, h @ w["W_v"].T  # no normalization layer stands before them
        for a in range(n_head):
            cut = slice(a * d_k, (a + 1) * d_k)
            q_a = paper_norm(paper_rope(q[:, cut], base)) * w["s_qk"][cut]
            k_a = paper_norm(paper_rope(k[:, cut], base)) * w["s_qk"][cut]
            scores = (q_a @ k_a.T) * math.sqrt(d_k)  # sqrt(d_k), not 1 / sqrt(d_k)
            heads.append(paper_softmax(np.where(future, -1e30, scores)) @ v[:, cut])
        h_attn = paper_norm(np.concatenate(heads, axis=1) @ w["W_o"].T)
        h = paper_norm(h + paper_abs(w["alpha_attn"]) * (h_attn - h))
        u = (h @ w["W_u"].T) * w["s_u"]
        nu = (h @ w["W_nu"].T) * w["s_nu"] * math.sqrt(d_model)
        h_mlp = paper_norm((u * (nu / (1 + np.exp(-nu)))) @ w["W_omlp"].T)  # SwiGLU(u, nu) = u * SiLU(nu)
        h = paper_norm(h + paper_abs(w["alpha_mlp"]) * (h_mlp - h))
    return (h @ weights["E_output"].T) * weights["s_z"]  # no final norm


def paper_loss(weights, idx, targets, n_layer, n_head):
    """Mean cross-entropy in nats/token over a batch (B, T), and the logits (B, T, V)."""
    logits = np.stack([paper_ngpt(weights, row, n_layer, n_head) for row in idx])
    p = paper_softmax(logits)
    picked = [p[b, t, targets[b, t]] for b in range(idx.shape[0]) for t in range(idx.shape[1])]
    return -np.log(np.array(picked)).mean(), logits


def paper_gradients(stored, effective, idx, targets, n_layer, n_head, step=1e-30):
    """d loss / d stored by complex steps, one scalar at a time; `effective` maps stored scales to effective ones."""
    grads = {}
    for name, value in stored.items():
        grads[name] = np.zeros_like(value)
        for where in np.ndindex(value.shape):
            moved = dict(stored, **{name: value.astype(complex)})
            moved[name][where] += 1j * step
            grads[name][where] = paper_loss(effective(moved), idx, targets, n_layer, n_head)[0].imag / step
    return grads


def paper_adamw_step(w, g, m, v, t, lr, beta1, beta2, eps):
    """Adam with decoupled decay 0 (arXiv:1711.05101, Algorithm 2), t counted from 1; returns w, m, v."""
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return w - lr * m_hat / (np.sqrt(v_hat) + eps), m, v


def paper_soap(w, gradients, lr, beta1, beta2, eps, frequency, bases=None, sort=False):
    """SOAP (arXiv:2409.11321, Algorithms 3 and 4) on one matrix; returns w after every gradient.

    The momentum M lives in the original space and is rotated where it is used; V lives in the rotated space. The
    paper leaves two boundary effects open, here as in its authors' code: the first gradient only makes the first
    bases, and Adam's bias corrections count from the second. `sort` orders the eigenvectors by falling eigenvalue
    estimate before each power iteration, moving V along, as that code does. Without `bases` the first are numpy's,
    largest eigenvalue first.
    """
    w, track = w.copy(), []
    first = gradients[0]
    left, right = (1 - beta2) * first @ first.T, (1 - beta2) * first.T @ first
    q_left, q_right = bases or (np.linalg.eigh(left)[1][:, ::-1], np.linalg.eigh(right)[1][:, ::-1])
    m, v = np.zeros_like(w), np.zeros_like(w)
    track.append(w.copy())
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
            if sort:
                by_rows = np.argsort(-np.diag(q_left.T @ left @ q_left), kind="stable")
                by_cols = np.argsort(-np.diag(q_right.T @ right @ q_right), kind="stable")
                q_left, q_right, v = q_left[:, by_rows], q_right[:, by_cols], v[by_rows][:, by_cols]
            q_left, q_right = np.linalg.qr(left @ q_left)[0], np.linalg.qr(right @ q_right)[0]
        track.append(w.copy())
    return track


# ------------------------------------------------------------------------------------------------------------------
# Wiring: the model's names and the paper's.
# ------------------------------------------------------------------------------------------------------------------
CPU = torch.device("cpu")
READS = {"q_proj": "W_q", "k_proj": "W_k", "v_proj": "W_v", "up_proj": "W_u", "gate_proj": "W_nu"}
WRITES = {"out_proj": "W_o", "down_proj": "W_omlp"}  # their columns lie in the n_embd dimension
D_MODEL_AXIS = {name: 0 if name in WRITES.values() else 1 for name in (*READS.values(), *WRITES.values())}
D_MODEL_AXIS |= {"E_input": 1, "E_output": 1}
VOCAB = 11


def small_config(**changes):
    """Sizes that are all distinct, so that a mixed-up axis cannot go unnoticed."""
    sizes = dict(n_layer=3, n_head=4, n_kv_head=2, n_embd=24, d_ff=20, block_size=7, batch_size=5)
    return v5.Config(**(sizes | dict(dtype="float32", device="cpu", max_steps=40) | changes))


def paper_config(**changes):
    """As small as can be, with as many key/value heads as heads: what the paper describes."""
    sizes = dict(n_layer=2, n_head=2, n_kv_head=2, n_embd=8, d_ff=6, block_size=5, batch_size=2)
    return small_config(**(sizes | dict(optimizer="adamw") | changes))


def build(cfg, seed=0):
    torch.manual_seed(seed)
    return v5.LanguageModel(cfg, VOCAB)


def corpus_of(seed=0, length=300):
    return SimpleNamespace(train=np.random.default_rng(seed).integers(0, VOCAB, size=length).astype(np.uint16))


def to_paper(model):
    """The model's numbers as they are stored, under the paper's names; float64 copies."""
    stored = {"E_input": model.token_embedding.weight, "E_output": model.head.weight, "s_z": model.s_z.weight}
    for i, block in enumerate(model.blocks):
        for half in (block.attn, block.mlp):
            for name, module in half.named_children():
                if name in READS | WRITES:
                    stored[f"{i}.{(READS | WRITES)[name]}"] = module.weight
        stored[f"{i}.s_qk"] = block.attn.s_qk.weight.flatten()
        stored[f"{i}.s_u"], stored[f"{i}.s_nu"] = block.mlp.s_uv.weight
        stored[f"{i}.alpha_attn"], stored[f"{i}.alpha_mlp"] = block.alpha_attn.weight, block.alpha_mlp.weight
    return {name: p.detach().numpy().astype(np.float64) for name, p in stored.items()}


def effective(stored, cfg):
    """A scale is stored as `scale` and used times init / scale: Section 2.5, and the values of Section 2.6."""
    d_model, used = cfg.n_embd, {}
    for name, value in stored.items():
        init, scale = {
            "s_qk": (1.0, 1 / math.sqrt(d_model)),
            "s_z": (math.sqrt(d_model), 1 / math.sqrt(d_model)),  # starts higher than the paper's 1
            "s_u": (1.0, 1.0),
            "s_nu": (1.0, 1.0),
            "alpha_attn": (0.05, 1 / math.sqrt(d_model)),
            "alpha_mlp": (0.05, 1 / math.sqrt(d_model)),
        }.get(name.split(".")[-1], (1.0, 1.0))
        used[name] = value * (init / scale)
    return used


def scales_of(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, v5.Scale)}


@torch.no_grad()
def perturb(model, seed=1):
    """New unit-norm matrices, and every scale away from where it starts, some alphas below zero."""
    rng = np.random.default_rng(seed)
    for name, p in model.named_parameters():
        if "alpha" in name or ".s_" in f".{name}":
            p.mul_(torch.from_numpy(rng.uniform(0.4, 1.9, size=p.shape)).to(p.dtype))
            if "alpha" in name:
                p.mul_(torch.from_numpy(np.where(rng.random(p.shape) < 0.3, -1.0, 1.0)).to(p.dtype))
        else:
            axis = 0 if name.split(".")[-2] in WRITES else 1
            p.copy_(torch.from_numpy(paper_norm(rng.standard_normal(p.shape), axis=axis)).to(p.dtype))


def widest_miss_from_unit_norm(model):
    """The largest | |w| - 1 | over all weight vectors along n_embd; every matrix must be named here."""
    misses = {}
    for name, p in model.named_parameters():
        module = name.split(".")[-2]
        if module in WRITES:
            misses[name] = (p.detach().double().norm(dim=0) - 1).abs().max().item()
        elif module in READS or module in ("token_embedding", "head"):
            misses[name] = (p.detach().double().norm(dim=1) - 1).abs().max().item()
    assert len(misses) == 2 + 7 * len(model.blocks)
    return max(misses.values())


@pytest.fixture
def float64(monkeypatch):
    """v5 makes angles and the loss with .float(), so at float32; under this fixture the same lines give float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# ------------------------------------------------------------------------------------------------------------------
# The model
# ------------------------------------------------------------------------------------------------------------------
def batch(cfg, seed=3):
    rng = np.random.default_rng(seed)
    return rng.integers(0, VOCAB, size=(2, cfg.batch_size, cfg.block_size))


@pytest.mark.parametrize("sizes", [{}, dict(n_layer=3, n_head=3, n_kv_head=3, n_embd=18, d_ff=10, block_size=9)])
def test_forward_is_the_papers_equations(float64, sizes):
    cfg = paper_config(**sizes)
    model = build(cfg)
    perturb(model)
    idx, targets = batch(cfg)
    logits, loss = model(torch.from_numpy(idx), torch.from_numpy(targets))
    assert logits.dtype == loss.dtype == torch.float64
    paper, nats = paper_loss_logits(model, cfg, idx, targets)
    np.testing.assert_allclose(logits.detach().numpy(), paper, rtol=0, atol=1e-9)
    assert abs(loss.item() - nats) < 1e-9
    assert paper.std() > 0.1 and abs(nats - math.log(VOCAB)) > 1e-3  # the comparison is not between zeros


def paper_loss_logits(model, cfg, idx, targets):
    nats, logits = paper_loss(effective(to_paper(model), cfg), idx, targets, cfg.n_layer, cfg.n_head)
    return logits, nats


def test_forward_in_float32_as_shipped():
    cfg = paper_config()
    model = build(cfg)
    perturb(model)
    idx, targets = batch(cfg)
    logits, loss = model(torch.from_numpy(idx), torch.from_numpy(targets))
    paper, nats = paper_loss_logits(model, cfg, idx, targets)
    np.testing.assert_allclose(logits.detach().numpy(), paper, rtol=0, atol=1e-5)
    assert abs(loss.item() - nats) < 1e-5


def test_head_is_its_own_matrix():
    model = build(small_config())
    assert model.head.weight is not model.token_embedding.weight
    assert model.head.weight.data_ptr() != model.token_embedding.weight.data_ptr()


def test_one_step_of_training_is_the_papers_step(float64):
    """Gradients of the equations by complex steps, Adam by hand, each matrix back to the sphere; then once more."""
    cfg = paper_config(grad_clip=1e9, max_steps=3, n_embd=8, d_ff=5)
    model = build(cfg)
    perturb(model)
    optimizer, corpus, progress = v5.make_optimizer(model, cfg), corpus_of(), v5.Progress()
    weights, m, v = to_paper(model), {}, {}
    for t in (1, 2):
        idx, targets = (x.numpy() for x in v5.get_batch(corpus.train, cfg, t - 1, CPU))
        figures = v5.train_step(model, optimizer, corpus, cfg, progress, CPU)
        progress.step += 1
        nats, _ = paper_loss(effective(weights, cfg), idx, targets, cfg.n_layer, cfg.n_head)
        assert abs(figures["loss"] - nats) < 1e-9
        grads = paper_gradients(weights, lambda w: effective(w, cfg), idx, targets, cfg.n_layer, cfg.n_head)
        norm = math.sqrt(sum((g * g).sum() for g in grads.values()))
        assert abs(figures["grad_norm"] - norm) < 1e-9
        if t == 1:
            for name, grad in to_paper_gradients(model).items():
                np.testing.assert_allclose(grad, grads[name], rtol=0, atol=1e-10, err_msg=name)
        lr = cfg.learning_rate * (cfg.lr_floor + (1 - cfg.lr_floor) * (1 + math.cos(math.pi * (t - 1) / 3)) / 2)
        for name, g in grads.items():
            w, m[name], v[name] = paper_adamw_step(
                weights[name], g, m.get(name, 0), v.get(name, 0), t, lr, cfg.beta1, cfg.beta2, 1e-8
            )
            axis = D_MODEL_AXIS.get(name.split(".")[-1])
            weights[name] = w if axis is None else paper_norm(w, axis=axis)
        after = to_paper(model)
        assert after.keys() == weights.keys()
        for name, w in weights.items():
            np.testing.assert_allclose(after[name], w, rtol=0, atol=1e-9, err_msg=f"{name} after step {t}")


def to_paper_gradients(model):
    """As to_paper, of the gradients. The matrices' are those before the step, which the normalization leaves alone."""
    other = SimpleNamespace(token_embedding=grad_of(model.token_embedding), head=grad_of(model.head))
    other.s_z, other.blocks = grad_of(model.s_z), []
    for block in model.blocks:
        halves = []
        for half in (block.attn, block.mlp):
            children = {n: grad_of(c) for n, c in half.named_children() if hasattr(c, "weight")}
            halves.append(SimpleNamespace(named_children=children.items, **children))
        alphas = dict(alpha_attn=grad_of(block.alpha_attn), alpha_mlp=grad_of(block.alpha_mlp))
        other.blocks.append(SimpleNamespace(attn=halves[0], mlp=halves[1], **alphas))
    return to_paper(other)


def grad_of(module):
    return SimpleNamespace(weight=module.weight.grad)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_everything_stays_on_the_sphere(optimizer):
    cfg = small_config(optimizer=optimizer)
    model = build(cfg)
    assert widest_miss_from_unit_norm(model) < 1e-6  # from the start
    states = []

    def watch(module, args, output):
        states.append(args[0])
        states.append(output)

    for block in model.blocks:
        block.register_forward_hook(watch)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    opt, corpus, progress = v5.make_optimizer(model, cfg), corpus_of(), v5.Progress()
    for _ in range(20):
        states.clear()
        v5.train_step(model, opt, corpus, cfg, progress, CPU)
        progress.step += 1
        assert widest_miss_from_unit_norm(model) < 1e-6
        assert len(states) == 2 * cfg.n_layer
        for x in states:
            assert x.shape == (cfg.batch_size, cfg.block_size, cfg.n_embd)
            assert (x.detach().double().norm(dim=-1) - 1).abs().max() < 1e-6
    for name, p in model.named_parameters():
        assert (p - before[name]).abs().max() > 1e-4, f"{name} never moved"


def test_no_normalization_layer():
    model = build(small_config())
    assert not [name for name, m in model.named_modules() if "norm" in type(m).__name__.lower()]
    assert not [name for name, _ in model.named_parameters() if "bias" in name]


def test_queries_and_keys_have_the_length_that_s_qk_gives(monkeypatch):
    cfg = small_config(n_layer=1)
    model = build(cfg)
    seen, attend = [], v5.CausalSelfAttention.attend

    def watch(self, q, k, *more, **named):
        seen.append((q.detach(), k.detach()))
        return attend(self, q, k, *more, **named)

    monkeypatch.setattr(v5.CausalSelfAttention, "attend", watch)
    idx = torch.from_numpy(batch(cfg)[0])
    B, T, H, K, D = cfg.batch_size, cfg.block_size, cfg.n_head, cfg.n_kv_head, cfg.n_embd // cfg.n_head
    model(idx)
    lengths = torch.tensor([0.5, 3.0])
    with torch.no_grad():
        model.blocks[0].attn.s_qk.weight.copy_(lengths[:, None].expand(K, D) / math.sqrt(cfg.n_embd))
    model(idx)
    for (q, k), length in zip(seen, (torch.ones(K), lengths), strict=True):
        assert q.shape == (B, H, T, D) and k.shape == (B, K, T, D)
        assert (q.norm(dim=-1) - length.repeat_interleave(H // K)[:, None]).abs().max() < 1e-5
        assert (k.norm(dim=-1) - length[:, None]).abs().max() < 1e-5


def test_grouped_queries_are_full_attention_with_repeated_heads(float64):
    cfg = paper_config(n_head=4, n_kv_head=2, n_embd=24)
    grouped, D = build(cfg), 6
    perturb(grouped)
    for block in grouped.blocks:
        assert block.attn.s_qk.weight.shape == (2, D)
    full_cfg = paper_config(n_head=4, n_kv_head=4, n_embd=24)
    full = build(full_cfg, seed=9)
    state = grouped.state_dict()
    for name, value in state.items():
        if "k_proj" in name or "v_proj" in name:
            heads = value.view(2, D, cfg.n_embd)
            state[name] = heads[[0, 0, 1, 1]].reshape(4 * D, cfg.n_embd)  # query heads 0, 1 read the first of the two
        if "s_qk" in name:
            state[name] = value[[0, 0, 1, 1]]
    full.load_state_dict(state)
    idx, targets = batch(cfg)
    logits, _ = grouped(torch.from_numpy(idx))
    same, _ = full(torch.from_numpy(idx))
    np.testing.assert_allclose(logits.detach().numpy(), same.detach().numpy(), rtol=0, atol=1e-12)
    paper, _ = paper_loss_logits(full, full_cfg, idx, targets)
    np.testing.assert_allclose(logits.detach().numpy(), paper, rtol=0, atol=1e-9)


def test_scales_start_at_their_initial_values():
    cfg = small_config(n_layer=5)
    model = build(cfg)
    scales = scales_of(model)
    assert len(scales) == 1 + 4 * cfg.n_layer
    kinds = {"s_qk": (2, 6), "s_uv": (2, cfg.d_ff), "s_z": (VOCAB,), "alpha_attn": (24,), "alpha_mlp": (24,)}
    for name, scale in scales.items():
        kind = name.split(".")[-1]
        init = {"alpha_attn": 0.05, "alpha_mlp": 0.05, "s_z": cfg.n_embd**0.5}.get(kind, 1.0)
        stored = 1.0 if kind == "s_uv" else 1 / math.sqrt(cfg.n_embd)
        value = scale().detach()
        assert value.shape == kinds[kind], name
        assert (value / init - 1).abs().max() < 2.5e-7, name  # two roundings of float32
        assert (scale.weight / stored - 1).abs().max() < 2.5e-7, name


def test_scale_is_exact_where_the_numbers_are():
    scale = v5.Scale((3,), 0.25, 0.0625)
    assert torch.equal(scale(), torch.full((3,), 0.25)) and torch.equal(scale.weight, torch.full((3,), 0.0625))
    with torch.no_grad():
        scale.weight += 0.125
    assert torch.equal(scale(), torch.full((3,), 0.75))  # moves init / stored = 4 times as fast as what is stored


# ------------------------------------------------------------------------------------------------------------------
# The optimizer
# ------------------------------------------------------------------------------------------------------------------
def parts_of(optimizer):
    return list(getattr(optimizer, "optimizers", [optimizer]))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nothing_decays(optimizer):
    cfg = small_config(optimizer=optimizer)
    model = build(cfg)
    perturb(model)
    opt = v5.make_optimizer(model, cfg)
    for part in parts_of(opt):
        for group in part.param_groups:
            assert group.get("weight_decay", 0.0) == 0.0, type(part).__name__
    model.normalize_matrices = lambda: None  # it would hide a matrix that shrinks
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for _ in range(3):
        opt.step()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), f"{name} moved without a gradient"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_warm_up(optimizer):
    cfg = small_config(optimizer=optimizer, lr_floor=0.07)
    fractions = [v5.schedule(spent, cfg) for spent in np.linspace(0, 1, 101)]
    assert fractions[0] == 1.0
    assert all(late < early for early, late in zip(fractions, fractions[1:], strict=False))
    assert abs(fractions[-1] - 0.07) < 1e-12
    assert not [f for f in cfg.__dataclass_fields__ if "warm" in f]
    model = build(cfg)
    opt = v5.make_optimizer(model, cfg)
    v5.train_step(model, opt, corpus_of(), cfg, v5.Progress(), CPU)
    rates = [group["lr"] for part in parts_of(opt) for group in part.param_groups]
    peaks = {"adamw": [], "muon": [cfg.matrix_learning_rate], "soap": [cfg.soap_learning_rate]}
    assert rates == [cfg.learning_rate, *peaks[optimizer]]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_parameter_has_one_optimizer(optimizer):
    cfg = small_config(optimizer=optimizer)
    model = build(cfg)
    names = {id(p): name for name, p in model.named_parameters()}
    owned = {
        type(part).__name__: [names[id(p)] for group in part.param_groups for p in group["params"]]
        for part in parts_of(v5.make_optimizer(model, cfg))
    }
    everything = [name for part in owned.values() for name in part]
    assert sorted(everything) == sorted(names.values())
    matrices = {name for name in names.values() if name.split(".")[-2] in READS | WRITES}
    assert len(matrices) == 7 * cfg.n_layer
    expected = {"adamw": {"AdamW"}, "muon": {"AdamW", "Muon"}, "soap": {"AdamW", "SOAP"}}[optimizer]
    assert set(owned) == expected
    for kind in expected - {"AdamW"}:
        assert set(owned[kind]) == matrices  # not the scales, though two of them are two-dimensional


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_from_saved_state(optimizer):
    cfg = small_config(optimizer=optimizer, soap_frequency=2, max_steps=12)
    corpus, progress = corpus_of(), v5.Progress()
    model = build(cfg)
    opt = v5.make_optimizer(model, cfg)
    for progress.step in range(5):
        v5.train_step(model, opt, corpus, cfg, progress, CPU)
    saved = through_a_file({"model": model.state_dict(), "optimizer": v5.moments(opt)})
    again = build(cfg, seed=7)
    opt_again = v5.make_optimizer(again, cfg)
    again.load_state_dict(saved["model"])
    for empty, state in zip(v5.moments(opt_again), saved["optimizer"], strict=True):
        empty.update(state)
    for progress.step in range(5, 12):
        v5.train_step(model, opt, corpus, cfg, progress, CPU)
        v5.train_step(again, opt_again, corpus, cfg, progress, CPU)
    for (name, p), q in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q), name


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# ------------------------------------------------------------------------------------------------------------------
# SOAP
# ------------------------------------------------------------------------------------------------------------------
def gradient_problem(shape, steps, seed, spread=1.0):
    """A weight matrix and gradients A S N S' B^T with fixed orthogonal A, B, falling scales S, S', and new noise N."""
    rng = np.random.default_rng(seed)
    a, b = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in shape)
    rows, cols = (10.0 ** -np.linspace(0, spread, n) for n in shape)
    noise = rng.standard_normal((steps, *shape))
    return rng.standard_normal(shape), a @ (rows[:, None] * noise * cols) @ b.T


def run_soap(w, gradients, after_first=None, **options):
    """v5's SOAP on one matrix; returns w after every gradient, the optimizer, and its bases after the first."""
    p = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimizer, track, bases = v5.SOAP([p], **options), [], None
    for g in gradients:
        p.grad = torch.from_numpy(g.copy())
        optimizer.step()
        if bases is None:
            if after_first:
                after_first(optimizer.state[p])
            bases = [optimizer.state[p][name].numpy().copy() for name in ("Q_L", "Q_R")]
        track.append(p.detach().numpy().copy())
    return track, optimizer, bases


SOAP_OPTIONS = dict(lr=0.03, betas=(0.9, 0.8), eps=1e-6)


@pytest.mark.parametrize("frequency", [1, 3, 10])
@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 6)])
def test_soap_is_algorithm_3(shape, frequency):
    w, gradients = gradient_problem(shape, 31, seed=sum(shape) + frequency)
    track, _, bases = run_soap(w, gradients, **SOAP_OPTIONS, frequency=frequency)
    assert np.array_equal(track[0], w)  # the first gradient only makes the bases
    for q, covariance in zip(bases, (gradients[0] @ gradients[0].T, gradients[0].T @ gradients[0]), strict=True):
        np.testing.assert_allclose(q.T @ q, np.eye(len(q)), atol=1e-12)
        rotated = q.T @ covariance @ q
        np.testing.assert_allclose(rotated, np.diag(np.diag(rotated)), atol=1e-12)
    # An eigenbasis is free in order, sign and null space, and the power iteration depends on the order: share it.
    paper = paper_soap(w, gradients, 0.03, 0.9, 0.8, 1e-6, frequency, bases=bases)
    np.testing.assert_allclose(track, paper, rtol=0, atol=1e-8)
    assert np.abs(track[-1] - w).max() > 0.1


@pytest.mark.parametrize("seed", range(3))
def test_soap_keeps_its_bases_in_falling_order(seed):
    """Power iteration sorts the eigenvectors by falling eigenvalue, and V cannot follow: so they must start that way.

    With well separated scales that order never changes, and the authors' code, which sorts, does the same thing.
    """
    w, gradients = gradient_problem((4, 4), 31, seed, spread=3.0)
    track, _, bases = run_soap(w, gradients, **SOAP_OPTIONS, frequency=4)
    for q, covariance in zip(bases, (gradients[0] @ gradients[0].T, gradients[0].T @ gradients[0]), strict=True):
        eigenvalues = np.diag(q.T @ covariance @ q)
        assert (np.diff(eigenvalues) < 0).all(), "Q must hold the largest eigenvalue's vector first"
    for sort in (False, True):
        paper = paper_soap(w, gradients, 0.03, 0.9, 0.8, 1e-6, 4, sort=sort)
        np.testing.assert_allclose(track, paper, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3)])
def test_soap_in_the_identity_basis_is_adam(shape):
    w, gradients = gradient_problem(shape, 31, seed=5)

    def forget_bases(state):
        state["Q_L"], state["Q_R"] = (torch.eye(n, dtype=torch.float64) for n in shape)

    track, _, _ = run_soap(w, gradients, forget_bases, **SOAP_OPTIONS, frequency=10**9)
    p = torch.nn.Parameter(torch.from_numpy(w.copy()))
    adam = torch.optim.Adam([p], lr=0.03, betas=(0.9, 0.8), eps=1e-6)
    for g, soap in zip(gradients[1:], track[1:], strict=True):
        p.grad = torch.from_numpy(g.copy())
        adam.step()
        np.testing.assert_allclose(soap, p.detach().numpy(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("done", [1, 7])
def test_soap_state_survives_a_file(done):
    w, gradients = gradient_problem((5, 3), 20, seed=6)
    track, _, _ = run_soap(w, gradients, **SOAP_OPTIONS, frequency=3)
    half, optimizer, _ = run_soap(w, gradients[:done], **SOAP_OPTIONS, frequency=3)
    p = torch.nn.Parameter(torch.from_numpy(half[-1].copy()))
    fresh = v5.SOAP([p], lr=1.0)  # its options, too, come out of the file
    fresh.load_state_dict(through_a_file(optimizer.state_dict()))
    for g, whole in zip(gradients[done:], track[done:], strict=True):
        p.grad = torch.from_numpy(g.copy())
        fresh.step()
        assert np.array_equal(p.detach().numpy(), whole)
