"""v4 against transformers' Llama holding the same weights, the fused attention operator, and its own uncached self."""

import copy
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import v4_gqa_swiglu as v4

VOCAB = 31


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_config(**changes):
    small = dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=32, d_ff=24, block_size=8, batch_size=4, device="cpu")
    return v4.Config(**(small | {"dtype": "float32"} | changes))


def make_model(cfg, seed=0, std=0.2):
    """A model whose weights, norms included, are far from where they start."""
    torch.manual_seed(seed)
    model = v4.LanguageModel(cfg, VOCAB)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * std)
    return model.eval()


def make_talkative_model():
    """A model whose likeliest next token is not always the current one, so that greedy texts vary."""
    model = make_model(make_config(), std=0.6)
    with torch.no_grad():
        model.token_embedding.weight.mul_(0.2)
    return model


def new_cache(model):
    return [v4.KVCache() for _ in model.blocks]


def llama_holding(model, cfg):
    """transformers' Llama with the weights of a v4 model; every name of theirs is used once."""
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=cfg.n_embd,
            intermediate_size=cfg.d_ff,
            num_hidden_layers=cfg.n_layer,
            num_attention_heads=cfg.n_head,
            num_key_value_heads=cfg.n_kv_head,
            rms_norm_eps=model.norm.eps,
            rope_parameters={"rope_type": "default", "rope_theta": cfg.rope_base},
            tie_word_embeddings=True,
            max_position_embeddings=64,
            attn_implementation="eager",
        )
    )
    names = {
        "self_attn.q_proj": "attn.q_proj",
        "self_attn.k_proj": "attn.k_proj",
        "self_attn.v_proj": "attn.v_proj",
        "self_attn.o_proj": "attn.out_proj",
        "mlp.gate_proj": "mlp.gate_proj",
        "mlp.up_proj": "mlp.up_proj",
        "mlp.down_proj": "mlp.down_proj",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "mlp_norm",
    }
    ours = model.state_dict()
    state = {"model.embed_tokens.weight": ours["token_embedding.weight"], "model.norm.weight": ours["norm.weight"]}
    state["lm_head.weight"] = ours["token_embedding.weight"]
    for i in range(cfg.n_layer):
        for their_name, our_name in names.items():
            state[f"model.layers.{i}.{their_name}.weight"] = ours[f"blocks.{i}.{our_name}.weight"]
    theirs.load_state_dict(state)
    return theirs.eval()


# --- the model


@pytest.mark.parametrize(
    "sizes",
    [
        dict(n_layer=1, n_head=2, n_kv_head=1, n_embd=8, d_ff=12),
        dict(),
        dict(n_head=6, n_kv_head=2, n_embd=36, d_ff=40, n_layer=3),
        dict(n_head=4, n_kv_head=1, rope_base=300.0),
        dict(n_head=4, n_kv_head=4),  # as many key/value heads as heads: multi-head attention
    ],
)
def test_logits_equal_those_of_llama(sizes):
    cfg = make_config(**sizes)
    model = make_model(cfg)
    theirs = llama_holding(model, cfg)
    for T in (1, 8, 29):  # the last is far longer than block_size
        idx = torch.randint(VOCAB, (3, T))
        with torch.no_grad():
            ours, expected = model(idx)[0], theirs(idx).logits
        assert expected.std() > 0.3
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


def test_gradients_equal_those_of_llama():
    cfg = make_config()
    model = make_model(cfg)
    theirs = llama_holding(model, cfg)
    tokens = torch.randint(VOCAB, (3, 9))
    idx, targets = tokens[:, :-1], tokens[:, 1:]
    model(idx, targets)[1].backward()
    F.cross_entropy(theirs(idx).logits.flatten(0, 1), targets.flatten()).backward()
    pairs = [(model.token_embedding, theirs.model.embed_tokens)]
    for block, layer in zip(model.blocks, theirs.model.layers, strict=True):
        pairs += [(block.attn.k_proj, layer.self_attn.k_proj), (block.attn.q_proj, layer.self_attn.q_proj)]
        pairs += [(block.attn_norm, layer.input_layernorm), (block.mlp.gate_proj, layer.mlp.gate_proj)]
    for ours, expected in pairs:
        assert expected.weight.grad.abs().max() > 1e-4
        torch.testing.assert_close(ours.weight.grad, expected.weight.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("n_kv_head", [1, 2])
def test_grouped_queries_equal_repeated_keys_and_values(n_kv_head):
    grouped = make_model(make_config(n_kv_head=n_kv_head))
    full = v4.LanguageModel(make_config(n_kv_head=4), VOCAB).eval()
    state, D = grouped.state_dict(), 8
    for name in state:
        if "k_proj" in name or "v_proj" in name:  # head h reads key/value head h // (4 / n_kv_head)
            heads = state[name].view(n_kv_head, D, -1)
            state[name] = torch.cat([heads[h * n_kv_head // 4] for h in range(4)])
    full.load_state_dict(state)
    idx = torch.randint(VOCAB, (2, 8))
    torch.testing.assert_close(grouped(idx)[0], full(idx)[0], rtol=0, atol=1e-5)


def random_heads(T, past=0, device="cpu"):
    torch.manual_seed(1)
    q, k, v = torch.randn(3, 4, T, 8), torch.randn(3, 2, past + T, 8), torch.randn(3, 2, past + T, 8)
    return q.to(device), k.to(device), v.to(device)


@pytest.mark.parametrize("past", [0, 5])
def test_attention_equals_the_fused_operator(past):
    """Written-out attention against torch's own, whose mask is given as booleans, with its own grouping of heads."""
    T = 6
    attn = make_model(make_config()).blocks[0].attn
    q, k, v = random_heads(T, past)
    ours = attn.attend(q, k, v, v4.attention_bias(past, T, "cpu"), is_causal=past == 0)
    sees = torch.arange(past + T) <= past + torch.arange(T)[:, None]  # (T, past + T)
    fused = F.scaled_dot_product_attention(q, k, v, attn_mask=sees, enable_gqa=True)
    torch.testing.assert_close(ours, fused, rtol=0, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("past", [0, 5])
def test_the_fused_path_on_a_gpu_equals_the_written_one(past):
    T = 6
    attn = make_model(make_config(dropout=0.5)).blocks[0].attn  # in evaluation: nothing is dropped
    q, k, v = random_heads(T, past)
    ours = attn.attend(q, k, v, v4.attention_bias(past, T, "cpu"), is_causal=past == 0)
    there = attn.cuda().attend(*random_heads(T, past, "cuda"), v4.attention_bias(past, T, "cuda"), is_causal=past == 0)
    torch.testing.assert_close(there.cpu(), ours, rtol=0, atol=1e-3)


def test_swiglu_and_rmsnorm_in_closed_form():
    cfg = make_config()
    block = make_model(cfg).blocks[0]
    x = torch.randn(2, 3, cfg.n_embd)
    gate, up, down = (getattr(block.mlp, f"{name}_proj").weight.double() for name in ("gate", "up", "down"))
    a = x.double() @ gate.T
    expected = (a / (1 + (-a).exp()) * (x.double() @ up.T)) @ down.T
    torch.testing.assert_close(block.mlp(x).double(), expected, rtol=0, atol=1e-5)
    norm, row = block.attn_norm, [3.0, -4.0] + [0.0] * (cfg.n_embd - 2)
    expected = torch.tensor(row) * norm.weight / math.sqrt(25 / cfg.n_embd + norm.eps)
    torch.testing.assert_close(norm(torch.tensor(row)), expected)


def test_preset_lil_has_its_published_size():
    cfg = v4.Config(**v4.PRESETS["lil"])
    sizes = (cfg.vocab_size, cfg.n_embd, cfg.n_layer, cfg.block_size, cfg.n_head, cfg.n_kv_head, cfg.d_ff)
    assert sizes == (8192, 512, 12, 512, 16, 8, 1408)
    with torch.device("meta"):
        model = v4.LanguageModel(cfg, cfg.vocab_size)
    attention = 2 * 512 * 512 + 2 * 256 * 512  # q and out, k and v
    block = attention + 3 * 512 * 1408 + 2 * 512  # and SwiGLU, and two gains
    expected = 8192 * 512 + 12 * block + 512
    assert expected == 39_596_544
    assert sum(p.numel() for p in model.parameters()) == expected


# --- the cache


def all_tokens(model, prompt, n, block_size, **how):
    return torch.stack(list(v4.generate(model, prompt, n, block_size, **how)), dim=1)


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("prompt_length", [1, 5, 8, 9, 21])  # block_size is 8
def test_cached_and_uncached_generation_agree(B, prompt_length):
    model = make_talkative_model()
    prompt = torch.randint(VOCAB, (B, prompt_length))
    cached = all_tokens(model, prompt, 40, 8, temperature=0, cached=True)
    uncached = all_tokens(model, prompt, 40, 8, temperature=0, cached=False)
    assert cached.shape == (B, 40)
    assert len(set(cached[0].tolist())) > 5  # a text that repeats one token would agree by accident
    assert torch.equal(cached, uncached)
    assert torch.equal(cached, all_tokens(model, prompt, 40, 8, temperature=0, cached=True))  # nothing is left over
    sampled = [all_tokens(model, prompt, 40, 8, temperature=1.0, seed=3, cached=cached) for cached in (True, False)]
    assert torch.equal(*sampled)


def test_generation_equals_windows_written_by_hand():
    model = make_talkative_model()
    text = torch.randint(VOCAB, (1, 6))
    generated = all_tokens(model, text, 9, 8, temperature=0)
    for length in (6, 7, 8, 4, 5, 6, 7, 8, 4):  # at 8 the window is full: its older half goes
        with torch.no_grad():
            text = torch.cat((text, model(text[:, -length:])[0][:, -1:].argmax(-1)), dim=1)
    assert torch.equal(generated, text[:, 6:])


@pytest.mark.parametrize("cuts", [(3,), (1, 2, 7), tuple(range(1, 10))])
def test_a_cached_forward_in_pieces_equals_one_forward(cuts):
    model = make_model(make_config())
    idx = torch.randint(VOCAB, (2, 10))
    with torch.no_grad():
        whole, cache, pieces = model(idx)[0], new_cache(model), []
        for start, end in zip((0, *cuts), (*cuts, 10), strict=True):
            pieces.append(model(idx[:, start:end], cache=cache)[0])
            assert all(c.length == end for c in cache)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_the_cache_holds_the_key_value_heads_only(n_kv_head):
    cfg = make_config(n_kv_head=n_kv_head)
    model = make_model(cfg)
    cache = new_cache(model)
    with torch.no_grad():
        model(torch.randint(VOCAB, (3, 7)), cache=cache)
        model(torch.randint(VOCAB, (3, 1)), cache=cache)
    held = sum(c.k.untyped_storage().nbytes() + c.v.untyped_storage().nbytes() for c in cache)
    full = 4 * 2 * cfg.n_layer * 3 * 8 * cfg.n_embd  # bytes, keys and values, layers, B, T, C
    assert held == full * n_kv_head / cfg.n_head


def test_generation_uses_the_cache():
    model, lengths = make_model(make_config()), []
    model.register_forward_pre_hook(lambda module, args: lengths.append(args[0].size(1)))
    prompt = torch.randint(VOCAB, (1, 6))
    all_tokens(model, prompt, 9, 8, temperature=0, cached=True)
    assert lengths == [6, 1, 1, 4, 1, 1, 1, 1, 4]
    lengths.clear()
    all_tokens(model, prompt, 9, 8, temperature=0, cached=False)
    assert lengths == [6, 7, 8, 4, 5, 6, 7, 8, 4]


# --- the optimizer


def test_muon_gets_the_blocks_matrices_and_adamw_the_rest():
    cfg = make_config(optimizer="muon", matrix_learning_rate=0.5, learning_rate=0.25, weight_decay=0.1)
    model = make_model(cfg)
    optimizer = v4.make_optimizer(model, cfg)
    held = {type(part): part for part in optimizer.optimizers}
    assert set(held) == {torch.optim.AdamW, torch.optim.Muon} and len(optimizer.optimizers) == 2
    owner = {id(p): kind for kind, part in held.items() for group in part.param_groups for p in group["params"]}
    times = Counter(id(p) for group in optimizer.param_groups for p in group["params"])
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    first = {id(p): group["first_decay"] for group in optimizer.param_groups for p in group["params"]}
    peak = {id(p): group["peak_lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, p in model.named_parameters():
        matrix = name.startswith("blocks.") and "_proj" in name
        assert owner[id(p)] is (torch.optim.Muon if matrix else torch.optim.AdamW), name
        assert times[id(p)] == 1, name
        assert decay[id(p)] == first[id(p)] == (0.1 if p.dim() >= 2 else 0.0), name
        assert peak[id(p)] == (0.5 if matrix else 0.25), name
    assert len(times) == len(list(model.parameters()))


def test_decay_grows_as_the_text_is_read_again():
    cfg = make_config(optimizer="muon", weight_decay=0.5, batch_size=2, block_size=8, max_steps=10**6)
    corpus = SimpleNamespace(train=np.arange(100) % VOCAB)
    for passes, growth in ((0, 1), (1.92, 1), (3, 1.5), (7.5, 3.75), (8.2, 4), (1000, 4)):
        model = make_model(cfg)
        optimizer, step = v4.make_optimizer(model, cfg), round(passes * 100 / 16)
        v4.train_step(model, optimizer, corpus, cfg, v4.Progress(step=step), torch.device("cpu"))
        decay = [group["weight_decay"] for group in optimizer.param_groups]
        assert decay == pytest.approx([0.5 * growth, 0.0, 0.5 * growth], rel=0.02)  # matrices, vectors, Muon's


def test_adamw_alone_has_every_parameter_once():
    cfg = make_config(optimizer="adamw", weight_decay=0.1)
    model = make_model(cfg)
    optimizer = v4.make_optimizer(model, cfg)
    assert isinstance(optimizer, torch.optim.AdamW)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    assert all(decay[id(p)] == (0.1 if p.dim() >= 2 else 0.0) for p in model.parameters())


def take_steps(model, optimizer, steps):
    for step in steps:
        torch.manual_seed(step)
        tokens = torch.randint(VOCAB, (4, 9))
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] / (1 + step)
        optimizer.zero_grad()
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())
        model(tokens[:, :-1], tokens[:, 1:])[1].backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_optimizer_state_survives_saving(kind, tmp_path):
    cfg = make_config(optimizer=kind)
    model = make_model(cfg)
    optimizer = v4.make_optimizer(model, cfg)
    take_steps(model, optimizer, range(3))
    torch.save(v4.moments(optimizer), tmp_path / "state.pt")
    resumed = copy.deepcopy(model)
    fresh = v4.make_optimizer(resumed, cfg)
    for empty, saved in zip(v4.moments(fresh), torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        empty.update(saved)
    before = copy.deepcopy(model.state_dict())
    take_steps(model, optimizer, range(3, 6))
    take_steps(resumed, fresh, range(3, 6))
    for name, p in model.state_dict().items():
        assert not torch.equal(p, before[name]), name  # every weight moves, so each has its optimizer
        assert torch.equal(p, resumed.state_dict()[name]), name


def test_muons_first_update_is_an_orthogonalized_gradient():
    """In the gradient's own directions: 3.4445 x - 4.775 x^3 + 2.0315 x^5 (Jordan et al. 2024), three times over."""
    cfg = make_config(optimizer="muon", weight_decay=0.0, matrix_learning_rate=0.1)
    model = make_model(cfg)
    p = model.blocks[0].attn.q_proj.weight
    before = p.detach().clone()
    take_steps(model, v4.make_optimizer(model, cfg), [0])
    update, gradient = (before - p.detach()) / 0.1, p.grad
    u, s, v = torch.linalg.svd(gradient, full_matrices=False)
    expected = s / s.norm()
    for _ in range(3):
        expected = 3.4445 * expected - 4.775 * expected**3 + 2.0315 * expected**5
    along = u.T @ update @ v.T  # the update seen in the gradient's directions
    assert torch.allclose(along, expected.diag(), atol=0.05)  # torch computes it in bfloat16
    large = s > s.norm() / 50
    assert large.sum() > len(s) / 2 and (along.diag()[large] > 0.6).all() and (along.diag() < 1.4).all()
