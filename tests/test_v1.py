"""v1 against transformers' GPT-2 with the same weights."""

import pytest
import torch
from small_models import VOCAB, assert_equal_logits, make_config, make_model
from transformers import GPT2Config, GPT2LMHeadModel

import v1_transformer as v1


def gpt2_holding(model, cfg):
    """GPT-2 with the weights of a v1 model; what v1 lacks (biases of linear maps) is zero."""
    sizes = dict(n_positions=cfg.block_size, n_embd=cfg.n_embd, n_layer=cfg.n_layer)
    kind = dict(activation_function="relu", tie_word_embeddings=False, attn_implementation="eager")
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_head=cfg.n_head, **sizes, **kind))
    state = {name: torch.zeros_like(p) for name, p in theirs.state_dict().items()}

    def put(name, weight):
        assert state[name].shape == weight.shape, name
        state[name] = weight.detach().clone()

    put("transformer.wte.weight", model.token_embedding.weight)
    put("transformer.wpe.weight", model.position_embedding.weight)
    norms = [("transformer.ln_f", model.norm)]
    for i, block in enumerate(model.blocks):
        at, attn, mlp = f"transformer.h.{i}.", block.attn, block.mlp
        put(at + "attn.c_attn.weight", attn.qkv_proj.weight.T)  # GPT-2 stores (in, out)
        put(at + "attn.c_proj.weight", attn.out_proj.weight.T)
        put(at + "mlp.c_fc.weight", mlp.up_proj.weight.T)
        put(at + "mlp.c_proj.weight", mlp.down_proj.weight.T)
        norms += [(at + "ln_1", block.attn_norm), (at + "ln_2", block.mlp_norm)]
    for name, norm in norms:
        put(name + ".weight", norm.weight)
        put(name + ".bias", norm.bias)
    put("lm_head.weight", model.head.weight)
    theirs.load_state_dict(state)
    return theirs.eval()


@pytest.mark.parametrize(
    "sizes",
    [
        dict(n_layer=1, n_head=1, n_embd=8, block_size=5),
        dict(n_layer=3, n_head=4, n_embd=24, block_size=9),
    ],
    ids=str,
)
def test_logits_equal_those_of_gpt2(sizes):
    cfg = make_config(v1, **sizes)
    model = make_model(v1, std=0.2, **sizes)
    theirs = gpt2_holding(model, cfg)
    assert_equal_logits(model, theirs, (1, cfg.block_size - 1, cfg.block_size))
