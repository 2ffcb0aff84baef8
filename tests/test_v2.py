"""v2 against transformers' rotary embeddings and its GPT-NeoX (the same block with RoPE), and against closed forms."""

import pytest
import torch
import torch.nn.functional as F
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

import v2_bpe_rope as v2

VOCAB = 29


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_config(**changes):
    return v2.Config(**(dict(n_layer=2, n_head=2, n_embd=16, block_size=8) | changes))


def make_model(cfg, seed=0, std=0.2):
    """A model whose weights, norms included, are far from where they start."""
    torch.manual_seed(seed)
    model = v2.LanguageModel(cfg, VOCAB)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * std)
    return model.eval()


def neox_holding(model, cfg, n_positions):
    """transformers' GPT-NeoX with the weights of a v2 model: LayerNorm, GELU, RoPE over the whole head."""
    theirs = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCAB,
            hidden_size=cfg.n_embd,
            num_hidden_layers=cfg.n_layer,
            num_attention_heads=cfg.n_head,
            intermediate_size=4 * cfg.n_embd,
            hidden_act="gelu",
            layer_norm_eps=model.norm.eps,
            max_position_embeddings=n_positions,
            use_parallel_residual=False,
            attention_bias=False,
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": cfg.rope_base,
                "partial_rotary_factor": 1.0,
            },
            attn_implementation="eager",
        )
    )
    D = cfg.n_embd // cfg.n_head
    with torch.no_grad():
        for p in theirs.parameters():
            p.zero_()
        theirs.gpt_neox.embed_in.weight.copy_(model.token_embedding.weight)
        theirs.tie_weights()
        for layer, block in zip(theirs.gpt_neox.layers, model.blocks, strict=True):
            attn = block.attn
            qkv = attn.qkv_proj.weight.view(3, cfg.n_head, D, cfg.n_embd).transpose(0, 1)
            layer.attention.query_key_value.weight.copy_(qkv.flatten(0, 2))  # NeoX keeps the three of a head together
            layer.attention.dense.weight.copy_(attn.out_proj.weight)
            layer.mlp.dense_h_to_4h.weight.copy_(block.mlp.up_proj.weight)
            layer.mlp.dense_4h_to_h.weight.copy_(block.mlp.down_proj.weight)
            layer.input_layernorm.load_state_dict(block.attn_norm.state_dict())
            layer.post_attention_layernorm.load_state_dict(block.mlp_norm.state_dict())
        theirs.gpt_neox.final_layer_norm.load_state_dict(model.norm.state_dict())
    return theirs.eval()


# --- rotation


@pytest.mark.parametrize("H, D, T", [(1, 2, 5), (3, 8, 11), (4, 40, 16)])
def test_rotation_equals_llamas(H, D, T):
    config = LlamaConfig(
        hidden_size=H * D,
        num_attention_heads=H,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    q, k = (F.normalize(torch.randn(2, H, T, D), dim=-1) for _ in range(2))
    cos, sin = LlamaRotaryEmbedding(config)(q, torch.arange(T)[None])
    expected_q, expected_k = apply_rotary_pos_emb(q, k, cos, sin)
    angles = v2.rotation_angles(T, D, 10000.0, "cpu")
    torch.testing.assert_close(v2.rotate(q, *angles), expected_q, rtol=0, atol=1e-6)
    torch.testing.assert_close(v2.rotate(k, *angles), expected_k, rtol=0, atol=1e-6)


def test_rotation_in_closed_form():
    # width 4: planes (0, 2) and (1, 3), turned at position p by p and by p / 100
    x = torch.tensor([1.0, 0.0, 0.0, 2.0]).expand(1, 1, 4, 4)
    turned = v2.rotate(x, *v2.rotation_angles(4, 4, 10000.0, "cpu"))
    p = torch.arange(4).double()
    expected = torch.stack((p.cos(), -2 * (p / 100).sin(), p.sin(), 2 * (p / 100).cos()), dim=-1)
    torch.testing.assert_close(turned[0, 0].double(), expected, rtol=0, atol=1e-6)


def test_the_default_base_is_ten_thousand():
    assert v2.Config().rope_base == 10000.0


def test_rotation_keeps_lengths_and_dtype():
    x = torch.randn(2, 3, 7, 8)
    angles = v2.rotation_angles(7, 8, 10000.0, "cpu")
    torch.testing.assert_close(v2.rotate(x, *angles).norm(dim=-1), x.norm(dim=-1))
    half = v2.rotate(x.bfloat16(), *angles)
    assert half.dtype == torch.bfloat16 and angles[0].dtype == torch.float32
    # computed in float32: the only error is that of rounding the result
    assert torch.equal(half, v2.rotate(x.bfloat16().float(), *angles).bfloat16())


@pytest.mark.parametrize("offset", [1, 7, 30])
def test_scores_depend_on_the_distance_only(offset):
    T, D = 9, 16
    q, k = torch.randn(2, 1, 1, D)
    cos, sin = v2.rotation_angles(T + offset, D, 10000.0, "cpu")
    q, k = q.expand(1, 1, T + offset, D), k.expand(1, 1, T + offset, D)  # the same two vectors everywhere
    scores = (v2.rotate(q, cos, sin) @ v2.rotate(k, cos, sin).mT)[0, 0]
    torch.testing.assert_close(scores[offset:, offset:], scores[:T, :T], rtol=0, atol=1e-4)
    assert (scores[0] - scores[0, 0]).abs().max() > 0.5  # but on the distance they do depend


@pytest.mark.parametrize("zeroed", ["queries", "keys"])
def test_values_are_never_rotated(zeroed):
    cfg = make_config()
    attn = make_model(cfg).blocks[0].attn
    to_q, to_k, to_v = attn.qkv_proj.weight.detach().chunk(3)
    (to_q if zeroed == "queries" else to_k).zero_()  # all scores zero: each position averages what it sees
    T = 11
    x = torch.randn(2, T, cfg.n_embd)
    out = attn(x, v2.attention_bias(T, "cpu"), *v2.rotation_angles(T, 8, cfg.rope_base, "cpu"))
    values = x.double() @ to_v.double().T
    mean = values.cumsum(1) / torch.arange(1, T + 1)[:, None]
    torch.testing.assert_close(out.double(), mean @ attn.out_proj.weight.double().T, rtol=0, atol=1e-5)


def test_queries_and_keys_are_rotated_in_attention():
    cfg = make_config()
    attn, T = make_model(cfg).blocks[0].attn, 6
    x = torch.randn(1, 1, cfg.n_embd).expand(1, T, cfg.n_embd)  # one token, again and again
    bias, angles = v2.attention_bias(T, "cpu"), v2.rotation_angles(T, 8, cfg.rope_base, "cpu")
    weights = []
    attn.dropout.register_forward_pre_hook(lambda module, args: weights.append(args[0][0]))  # (H, T, T)
    attn(x, bias, *angles)
    last = weights[0][:, -1]
    assert (last.max(-1).values - last.min(-1).values > 1e-3).all()  # without positions they would all be 1 / T
    to_q, to_k, _ = attn.qkv_proj.weight.double().chunk(3)
    q = (x[0].double() @ to_q.T).view(T, 2, 2, 4)  # position, head, half, plane
    k = (x[0].double() @ to_k.T).view(T, 2, 2, 4)
    q, k = torch.complex(q[:, :, 0], q[:, :, 1]), torch.complex(k[:, :, 0], k[:, :, 1])
    distance = torch.arange(T - 1, -1, -1)[:, None, None] * 10000.0 ** (-torch.arange(4).double() / 4)
    scores = (q[-1] * k.conj() * torch.polar(torch.ones_like(distance), distance)).real.sum(-1) / 8**0.5  # (T, H)
    torch.testing.assert_close(last.double(), scores.softmax(0).T, rtol=0, atol=1e-5)


# --- the model


@pytest.mark.parametrize(
    "sizes",
    [
        dict(n_layer=1, n_head=1, n_embd=8),
        dict(n_layer=2, n_head=3, n_embd=24),
        dict(n_layer=3, n_head=2, n_embd=32, rope_base=500.0),
    ],
)
def test_logits_equal_those_of_gpt_neox(sizes):
    cfg = make_config(**sizes)
    model = make_model(cfg)
    theirs = neox_holding(model, cfg, 64)
    for T in (1, 8, 37):  # the last is far longer than block_size
        idx = torch.randint(VOCAB, (3, T))
        with torch.no_grad():
            ours, expected = model(idx)[0], theirs(idx).logits
        assert expected.std() > 0.3
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


def test_embedding_and_head_are_one_tensor():
    cfg = make_config()
    model = make_model(cfg)
    assert model.head.weight is model.token_embedding.weight
    assert [name for name, _ in model.named_parameters() if "embedding" in name or "head" in name] == [
        "token_embedding.weight"
    ]
    tokens = torch.randint(VOCAB, (2, 9))
    idx, targets = tokens[:, :-1], tokens[:, 1:]
    model(idx, targets)[1].backward()
    # the same computation with two tensors of the same values, each with a gradient of its own
    as_embedding = model.token_embedding.weight.detach().clone().requires_grad_()
    as_head = model.token_embedding.weight.detach().clone().requires_grad_()
    weights = {"token_embedding.weight": as_embedding, "head.weight": as_head}
    loss = torch.func.functional_call(model, weights, (idx, targets), tie_weights=False)[1]
    of_embedding, of_head = torch.autograd.grad(loss, (as_embedding, as_head))
    assert of_embedding.abs().max() > 1e-3 and of_head.abs().max() > 1e-3
    torch.testing.assert_close(model.token_embedding.weight.grad, of_embedding + of_head)


def test_a_context_longer_than_block_size_changes_no_prefix():
    cfg = make_config(block_size=4)
    model = make_model(cfg)
    idx = torch.randint(VOCAB, (1, 21))
    torch.testing.assert_close(model(idx)[0][:, :4], model(idx[:, :4])[0], rtol=0, atol=1e-5)
