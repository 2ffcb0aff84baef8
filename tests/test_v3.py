"""v3 against transformers' MPT, the same block with ALiBi; and what longer windows do to it."""

import random

import numpy as np
import pytest
import torch
from conftest import WORDS
from small_models import VOCAB, assert_equal_logits, make_config, make_model, take_step
from transformers import MptConfig, MptForCausalLM

import v2_bpe_rope as v2
import v3_alibi as v3
from bpe_tokenizer import BPETokenizer


def mpt_holding(model, cfg):
    """MPT with the weights of a v3 model: LayerNorm (without bias), GELU, ALiBi, a tied head."""
    sizes = dict(d_model=cfg.n_embd, n_heads=cfg.n_head, n_layers=cfg.n_layer, vocab_size=VOCAB)
    theirs = MptForCausalLM(MptConfig(**sizes, max_seq_len=64))
    with torch.no_grad():
        theirs.transformer.wte.weight.copy_(model.token_embedding.weight)
        theirs.tie_weights()
        for layer, block in zip(theirs.transformer.blocks, model.blocks, strict=True):
            layer.attn.Wqkv.weight.copy_(block.attn.qkv_proj.weight)
            layer.attn.out_proj.weight.copy_(block.attn.out_proj.weight)
            layer.ffn.up_proj.weight.copy_(block.mlp.up_proj.weight)
            layer.ffn.down_proj.weight.copy_(block.mlp.down_proj.weight)
            layer.norm_1.weight.copy_(block.attn_norm.weight)
            layer.norm_2.weight.copy_(block.mlp_norm.weight)
        theirs.transformer.norm_f.weight.copy_(model.norm.weight)
    return theirs.eval()


@pytest.mark.parametrize(
    "sizes",
    [
        dict(n_layer=1, n_head=8, n_embd=16),
        dict(n_layer=3, n_head=4, n_embd=24),
    ],
    ids=str,
)
def test_logits_equal_those_of_mpt(sizes):
    model = make_model(v3, std=0.2, **sizes)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(".bias"):
                p.zero_()  # MPT's norms have none
    theirs = mpt_holding(model, make_config(v3, **sizes))
    assert_equal_logits(model, theirs, (1, 8, 37))  # the last is far longer than block_size


def test_long_windows_do_no_harm():
    """After windows of 16 tokens, 128 cost RoPE much, and ALiBi next to nothing."""
    tokenizer, text = BPETokenizer(), " ".join(random.Random(1).choices(WORDS, k=5000))
    ids, lost = np.array(tokenizer.encode(text)[:20_000]), []
    for version in (v2, v3):
        sizes = dict(block_size=16, batch_size=16, max_steps=150, weight_decay=0.1)
        cfg, model = make_config(version, **sizes), make_model(version, vocab_size=256, **sizes)
        optimizers = version.make_optimizers(model, cfg)
        for step in range(150):
            batch = version.get_batch(ids[:16_000], cfg, step, "cpu")
            take_step(version, model.train(), cfg, optimizers, step, *batch)
        scores = [version.evaluate(model, ids[16_000:], tokenizer, T)[0] for T in (16, 128)]
        assert scores[0] < 2
        lost.append(scores[1] - scores[0])
    assert lost[0] > 0.2 and lost[1] < 0.08
