"""v2 against transformers' GPT-NeoX with the same weights; byte-pair tokens of v2 and later."""

from pathlib import Path

import pytest
import torch
from conftest import from_v2, versions
from small_models import VOCAB, assert_equal_logits, make_config, make_model
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import v2_bpe_rope as v2


def test_scores_depend_on_the_distance_only():
    T, D, offset = 9, 16, 30
    q, k = torch.randn(2, 1, 1, 1, D).expand(2, 1, 1, T + offset, D)  # the same vectors everywhere
    turns = v2.rotation_angles(T + offset, D, 10_000.0, "cpu")
    scores = (v2.rotate(q, *turns) @ v2.rotate(k, *turns).mT)[0, 0]
    torch.testing.assert_close(scores[offset:, offset:], scores[:T, :T], rtol=0, atol=1e-4)
    assert (scores[0] - scores[0, 0]).abs().max() > 0.5  # but on the distance they do depend


def neox_holding(model, cfg):
    """GPT-NeoX with the weights of a v2 model: LayerNorm, GELU, RoPE over the whole head."""
    sizes = dict(hidden_size=cfg.n_embd, num_hidden_layers=cfg.n_layer)
    sizes |= dict(num_attention_heads=cfg.n_head, intermediate_size=4 * cfg.n_embd)
    rope = dict(rope_type="default", rope_theta=cfg.rope_base, partial_rotary_factor=1.0)
    kind = dict(hidden_act="gelu", use_parallel_residual=False, attention_bias=False)
    kind |= dict(tie_word_embeddings=True, rope_parameters=rope, attn_implementation="eager")
    theirs = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=VOCAB, **sizes, **kind))
    with torch.no_grad():
        for p in theirs.parameters():
            p.zero_()
        theirs.gpt_neox.embed_in.weight.copy_(model.token_embedding.weight)
        theirs.tie_weights()
        for layer, block in zip(theirs.gpt_neox.layers, model.blocks, strict=True):
            qkv = block.attn.qkv_proj.weight.view(3, cfg.n_head, -1, cfg.n_embd).transpose(0, 1)
            layer.attention.query_key_value.weight.copy_(qkv.flatten(0, 2))  # by heads
            layer.attention.dense.weight.copy_(block.attn.out_proj.weight)
            layer.mlp.dense_h_to_4h.weight.copy_(block.mlp.up_proj.weight)
            layer.mlp.dense_4h_to_h.weight.copy_(block.mlp.down_proj.weight)
            layer.input_layernorm.load_state_dict(block.attn_norm.state_dict())
            layer.post_attention_layernorm.load_state_dict(block.mlp_norm.state_dict())
        theirs.gpt_neox.final_layer_norm.load_state_dict(model.norm.state_dict())
    return theirs.eval()


@pytest.mark.parametrize(
    "sizes",
    [
        dict(n_layer=1, n_head=1, n_embd=8),
        dict(n_layer=3, n_head=3, n_embd=24, rope_base=500.0),
    ],
    ids=str,
)
def test_logits_equal_those_of_gpt_neox(sizes):
    model = make_model(v2, std=0.2, **sizes)
    theirs = neox_holding(model, make_config(v2, **sizes))
    assert_equal_logits(model, theirs, (1, 8, 37))  # the last is far longer than block_size


@versions(2, 3, 4)
def test_embedding_and_head_are_one_tensor(version):
    model = make_model(version)
    assert model.head.weight is model.token_embedding.weight


# --- tokens


@from_v2
def test_tokens_are_learned_from_the_training_split(version, folder):
    text = "the naïve café serves the naïve crème; " * 20 + "xyz" * 26  # in the last tenth only
    Path("t.txt").write_text(text, encoding="utf-8", newline="")
    for allowed in ("", "abcdefghijklmnopqrstuvwxyz "):
        cfg = make_config(version, data="t.txt", vocab_size=270, allowed_chars=allowed)
        tokenizer = version.load_corpus(cfg).tokenizer
        merged = [tokenizer.token_bytes(i).decode("utf-8", "replace") for i in range(256, 270)]
        assert "x" not in "".join(merged)
        assert set("".join(merged)) <= set(allowed) if allowed else "ï" in "".join(merged)


@from_v2
def test_vocabulary_grows_with_the_text(version, tmp_path, monkeypatch):
    sizes, cfg = [], make_config(version, data=str(tmp_path / "text.txt"))
    monkeypatch.setattr(version.BPETokenizer, "train", lambda blocks, size, **_: size)
    for n_bytes in (1, 512 * 256 - 1, 1000 * 256, 10**9):
        with open(cfg.data, "wb") as file:
            file.truncate(n_bytes)  # sparse: it takes no space
        sizes.append(version.learn_tokenizer(cfg, 10))
    assert sizes == [512, 512, 1000, 4096]
