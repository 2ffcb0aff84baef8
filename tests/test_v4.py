"""v4 (and v5 where it has the same) against Llama, fused attention, torch.optim.Muon."""

import pytest
import torch
import torch.nn.functional as F
from conftest import versions
from small_models import VOCAB, all_tokens, assert_equal_logits, make_config, make_model
from transformers import LlamaConfig, LlamaForCausalLM

import v4_gqa_swiglu as v4

from_v4 = versions(4, 5)


def llama_holding(model, cfg):
    """Llama with the weights of a v4 model; every name of theirs is used once."""
    sizes = dict(hidden_size=cfg.n_embd, intermediate_size=cfg.d_ff, rms_norm_eps=1e-5)
    sizes |= dict(num_hidden_layers=cfg.n_layer, num_attention_heads=cfg.n_head)
    rope = {"rope_type": "default", "rope_theta": cfg.rope_base}
    kind = dict(rope_parameters=rope, tie_word_embeddings=True, attn_implementation="eager")
    heads = dict(num_key_value_heads=cfg.n_kv_head)
    theirs = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, **sizes, **heads, **kind))
    renamed = {
        "model.embed_tokens": "token_embedding",
        "lm_head": "token_embedding",
        "model.layers": "blocks",
        "self_attn.o_proj": "attn.out_proj",
        "self_attn": "attn",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "mlp_norm",
        "model.norm": "norm",
    }
    ours, state = model.state_dict(), {}
    for name in theirs.state_dict():
        our_name = name
        for old, new in renamed.items():
            our_name = our_name.replace(old, new)
        state[name] = ours[our_name]
    assert len(state) == len(ours)
    theirs.load_state_dict(state)
    return theirs.eval()


# --- the model


@pytest.mark.parametrize(
    "sizes",
    [
        dict(n_head=6, n_kv_head=2, n_embd=36, d_ff=40, n_layer=3, rope_base=300.0),
        dict(n_head=4, n_kv_head=4),  # as many key/value heads as heads: multi-head attention
    ],
    ids=str,
)
def test_logits_equal_those_of_llama(sizes):
    model = make_model(v4, std=0.2, **sizes)
    theirs = llama_holding(model, make_config(v4, **sizes))
    assert_equal_logits(model, theirs, (1, 8, 29))  # the last is far longer than block_size


class OnGPU(torch.Tensor):
    """A tensor that says it is on a GPU, so that the fused branch runs here."""

    is_cuda = property(lambda self: True)


@from_v4
@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
@pytest.mark.parametrize("past", [0, 5])
def test_attention_equals_the_fused_operator(version, n_kv_head, past):
    """Whose mask is given as booleans; both branches of `attend`."""
    T, D, S = 6, 8, past + 6
    q, k, v = torch.randn(3, 4, T, D), *torch.randn(2, 3, n_kv_head, S, D)
    bias = make_model(version).positions(past, T, "cpu")[0]
    sees = torch.arange(S) <= past + torch.arange(T)[:, None]  # (T, S)
    scale = D**-0.5 if version is v4 else D**0.5
    fused = F.scaled_dot_product_attention(q, k, v, sees, scale=scale, enable_gqa=True)
    on_gpu = (x.as_subclass(OnGPU) for x in (q, k, v))
    ours = version.attend(q, k, v, bias), version.attend(*on_gpu, bias).as_subclass(torch.Tensor)
    for y in ours:
        torch.testing.assert_close(y, fused, rtol=0, atol=1e-5)


def test_rmsnorm_in_closed_form():
    norm = v4.RMSNorm(2)
    x = torch.tensor([3.0, 4.0])  # the docstring's example, and one so small that eps counts
    torch.testing.assert_close(norm(x), x / 12.5**0.5, rtol=1e-5, atol=0)
    torch.testing.assert_close(norm(x / 1000), x / 1000 / (12.5e-6 + 1e-5) ** 0.5)


@from_v4
def test_width_of_the_mlp(version):
    for n_embd, d_ff in ((12, 32), (26, 96), (36, 96), (128, 352), (768, 2048)):
        mlp = version.MLP(make_config(version, n_embd=n_embd, d_ff=0, n_head=1, n_kv_head=1))
        assert mlp.gate_proj.out_features == d_ff >= n_embd * 8 / 3 > d_ff - 32
    assert version.MLP(make_config(version, d_ff=17)).up_proj.out_features == 17


# --- the cache


@from_v4
@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
@pytest.mark.parametrize("prompt_length", [1, 8, 21])  # block_size is 8
def test_cached_and_uncached_generation_agree(version, n_kv_head, prompt_length):
    model = make_model(version, std=0.3, n_kv_head=n_kv_head)
    prompt = torch.randint(VOCAB, (3, prompt_length))
    for how in (dict(temperature=0), dict(temperature=1.0, seed=3)):
        texts = [all_tokens(version, model, prompt, 20, cached=c, **how) for c in (True, False)]
        assert torch.equal(*texts)
    assert len(texts[0].unique()) > 5  # a text that repeats one token would agree by accident


@from_v4
def test_generation_uses_the_cache(version):
    model, lengths = make_model(version), []
    model.register_forward_pre_hook(lambda module, args: lengths.append(args[0].size(1)))
    all_tokens(version, model, torch.randint(VOCAB, (1, 6)), 9)
    assert lengths == [6, 1, 1, 4, 1, 1, 1, 1, 4]


# --- Muon


@from_v4
def test_muon_equals_that_of_torch(version, monkeypatch):
    """20 steps. Theirs orthogonalizes in bfloat16: made to use float32."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    shapes = [(6, 6), (5, 9), (9, 5), (6, 6), (8, 8)]
    scales = [1.0, 1.0, 1.0, 1.0, 2e-9]  # the last gradients are smaller than eps
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    settings = dict(lr=0.1, weight_decay=0.3, momentum=0.8)
    optimizers = [version.Muon(ours, steps=4, **settings)]
    optimizers.append(torch.optim.Muon(theirs, ns_steps=4, **settings))
    for step in range(20):
        for p, q, scale in zip(ours, theirs, scales, strict=True):
            p.grad = scale * torch.randn(p.shape)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
            optimizer.step()
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
    kept = version.make_optimizers(make_model(version), make_config(version))[1].param_groups[0]
    assert (kept["momentum"], kept["steps"]) == (0.9, 3)
