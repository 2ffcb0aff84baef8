"""v3 against published slopes, transformers' Bloom and MPT (the same block with ALiBi), and windows scored by hand."""

import math

import numpy as np
import pytest
import torch
from transformers import MptConfig, MptForCausalLM
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

import v3_alibi as v3
from bpe_tokenizer import BPETokenizer

VOCAB = 29


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_config(**changes):
    return v3.Config(**(dict(n_layer=2, n_head=2, n_embd=16, block_size=8) | changes))


def make_model(cfg, seed=0, std=0.2, vocab_size=VOCAB):
    """A model whose weights, norms included, are far from where they start."""
    torch.manual_seed(seed)
    model = v3.LanguageModel(cfg, vocab_size)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * std)
    return model.eval()


# --- slopes and bias

R = math.sqrt(0.5)
PUBLISHED = {
    1: [2**-8],
    2: [2**-4, 2**-8],
    4: [2**-2, 2**-4, 2**-6, 2**-8],
    8: [2**-1, 2**-2, 2**-3, 2**-4, 2**-5, 2**-6, 2**-7, 2**-8],
    16: [2 ** -(h / 2) for h in range(1, 17)],
    # the authors' rule for 12: the slopes of 8 heads, then the 1st, 3rd, 5th and 7th of 16
    12: [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256, R, R / 2, R / 4, R / 8],
    6: [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8],  # those of 4, then the 1st and 3rd of 8
    3: [1 / 16, 1 / 256, 1 / 4],
}


@pytest.mark.parametrize("n_head", sorted(PUBLISHED))
def test_slopes_are_the_published_ones(n_head):
    assert v3.alibi_slopes(n_head) == pytest.approx(PUBLISHED[n_head], rel=1e-12)


@pytest.mark.parametrize("n_head", [*range(1, 21), 32, 48])
def test_slopes_equal_blooms(n_head):
    T = 5
    bloom = build_alibi_tensor(torch.ones(1, T), n_head, torch.float32)[:, 0]  # (H, T): slope * position
    assert v3.alibi_slopes(n_head) == pytest.approx((bloom[:, 1]).tolist(), rel=1e-5)


@pytest.mark.parametrize("n_head", [1, 4, 12])
def test_bias_is_minus_slope_times_distance(n_head):
    bias = v3.attention_bias(6, n_head, "cpu")
    assert bias.shape == (n_head, 6, 6)
    for h, slope in enumerate(PUBLISHED[n_head]):
        for i in range(6):
            for j in range(6):
                expected = -slope * (i - j) if j <= i else -math.inf
                assert bias[h, i, j].item() == pytest.approx(expected, rel=1e-6), (h, i, j)


# --- the model


def mpt_holding(model, cfg, longest):
    """transformers' MPT with the weights of a v3 model: LayerNorm (without bias), GELU, ALiBi, a tied head."""
    theirs = MptForCausalLM(
        MptConfig(
            d_model=cfg.n_embd,
            n_heads=cfg.n_head,
            n_layers=cfg.n_layer,
            max_seq_len=longest,
            vocab_size=VOCAB,
            layer_norm_epsilon=model.norm.eps,
        )
    )
    with torch.no_grad():
        theirs.transformer.wte.weight.copy_(model.token_embedding.weight)
        theirs.tie_weights()
        for theirs_block, block in zip(theirs.transformer.blocks, model.blocks, strict=True):
            attn = block.attn
            theirs_block.attn.Wqkv.weight.copy_(attn.qkv_proj.weight)
            theirs_block.attn.out_proj.weight.copy_(attn.out_proj.weight)
            theirs_block.ffn.up_proj.weight.copy_(block.mlp.up_proj.weight)
            theirs_block.ffn.down_proj.weight.copy_(block.mlp.down_proj.weight)
            theirs_block.norm_1.weight.copy_(block.attn_norm.weight)
            theirs_block.norm_2.weight.copy_(block.mlp_norm.weight)
        theirs.transformer.norm_f.weight.copy_(model.norm.weight)
    return theirs.eval()


@pytest.mark.parametrize(
    "sizes",
    [
        dict(n_layer=1, n_head=1, n_embd=8),
        dict(n_layer=2, n_head=4, n_embd=24),
        dict(n_layer=2, n_head=12, n_embd=36),
        dict(n_layer=3, n_head=6, n_embd=30),
    ],
)
def test_logits_equal_those_of_mpt(sizes):
    cfg = make_config(**sizes)
    model = make_model(cfg)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(".bias"):
                p.zero_()  # MPT's norms have none
    theirs = mpt_holding(model, cfg, 64)
    for T in (1, 8, 37):  # the last is far longer than block_size
        idx = torch.randint(VOCAB, (3, T))
        with torch.no_grad():
            ours, expected = model(idx)[0], theirs(idx).logits
        assert expected.std() > 0.3
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


def test_attention_equals_the_papers_formula():
    cfg = make_config(n_head=4, n_embd=24)
    attn, T, D = make_model(cfg).blocks[0].attn, 10, 6
    x = torch.randn(1, T, cfg.n_embd)
    ours = attn(x, v3.attention_bias(T, 4, "cpu"))[0]
    q, k, v = (x[0].double() @ attn.qkv_proj.weight.double().T).chunk(3, dim=-1)
    heads = torch.zeros(T, cfg.n_embd, dtype=torch.double)
    for h, slope in enumerate(PUBLISHED[4]):
        part = slice(h * D, (h + 1) * D)
        for i in range(T):
            scores = [(q[i, part] @ k[j, part]).item() / math.sqrt(D) + slope * (j - i) for j in range(i + 1)]
            weights = torch.tensor(scores, dtype=torch.double).softmax(0)
            heads[i, part] = weights @ v[: i + 1, part]
    torch.testing.assert_close(ours.double(), heads @ attn.out_proj.weight.double().T, rtol=0, atol=1e-5)


# --- evaluation with longer contexts


def byte_tokenizer():
    return BPETokenizer.train("abc", 256, progress=False)  # a token is a byte


def score_by_hand(model, tokens, firsts, context, block_size):
    """Nats over the block_size targets that end each segment, each predicted from `context` tokens at most."""
    nats = 0.0
    for end in firsts:
        window = torch.from_numpy(tokens[end - context : end].astype(np.int64))[None]
        with torch.no_grad():
            log_probs = model(window)[0][0].double().log_softmax(-1)  # (context, V)
        for i in range(end - block_size + 1, end + 1):  # the targets
            nats -= log_probs[i - 1 - (end - context), tokens[i]].item()
    return nats


@pytest.mark.parametrize("context", [5, 7, 10, 20])
def test_evaluate_context_scores_just_these_windows(context):
    cfg = make_config(block_size=5)
    model = make_model(cfg, vocab_size=256)
    tokens = np.random.default_rng(0).integers(0, 256, 20 * 3 + 9).astype(np.uint16)
    score = v3.evaluate_context(model, tokens, byte_tokenizer(), 5, context)
    assert score["tokens"] == 15  # three segments of 4 x 5, of each the last 5
    nats = score_by_hand(model, tokens, (20, 40, 60), context, 5)
    assert score["nats_per_token"] == pytest.approx(nats / 15, rel=1e-5)
    assert score["bits_per_byte"] == pytest.approx(nats / math.log(2) / 15, rel=1e-5)
    assert score["perplexity"] == pytest.approx(math.exp(nats / 15), rel=1e-4)


def test_context_of_block_size_is_plain_evaluation_of_these_windows():
    model = make_model(make_config(block_size=5), vocab_size=256)
    tokens = np.random.default_rng(1).integers(0, 256, 20 * 4 + 1).astype(np.uint16)
    score = v3.evaluate_context(model, tokens, byte_tokenizer(), 5, 5)
    each = [v3.evaluate(model, tokens[end - 5 : end + 1], 5, 5)["nats_per_token"] for end in (20, 40, 60, 80)]
    assert score["nats_per_token"] == pytest.approx(np.mean(each), rel=1e-5)


def test_every_context_scores_the_same_targets():
    class Recorder(torch.nn.Module):
        """Logits that make the loss of a target its id in hundredths: the sum tells which targets were scored."""

        def __init__(self):
            super().__init__()
            self.weight, self.windows = torch.nn.Parameter(torch.zeros(1)), []

        def forward(self, idx, targets=None):
            self.windows.append(idx[0].tolist())
            return (-torch.arange(256) / 100).expand(1, idx.size(1), 256), None

    tokens, scores = np.random.default_rng(2).permutation(256).astype(np.uint16)[:100], []
    for context in (5, 6, 10, 20):
        model = Recorder()
        scores.append(v3.evaluate_context(model, tokens, byte_tokenizer(), 5, context))
        expected = [tokens[end - context : end].tolist() for end in (20, 40, 60, 80)]
        assert model.windows == expected  # what it reads ends right before the last target
    targets = [int(tokens[i]) for end in (20, 40, 60, 80) for i in range(end - 4, end + 1)]
    log_z = math.log(sum(math.exp(-i / 100) for i in range(256)))
    assert scores[0]["nats_per_token"] == pytest.approx(np.mean(targets) / 100 + log_z, rel=1e-5)
    for score in scores[1:]:
        assert score == pytest.approx(scores[0])


def test_evaluate_context_counts_the_bytes_of_what_it_scores():
    tokenizer = BPETokenizer.train("sea shells see the sea " * 20, 262, progress=False)
    assert max(len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)) > 1
    model = make_model(make_config(block_size=3), vocab_size=tokenizer.vocab_size)
    tokens = np.array(tokenizer.encode("she sells sea shells; the shells she sees are the sea's"), dtype=np.uint16)
    ends = range(12, len(tokens), 12)
    n_bytes = sum(len(tokenizer.token_bytes(int(t))) for end in ends for t in tokens[end - 2 : end + 1])
    assert n_bytes > 3 * len(ends) > 0
    score = v3.evaluate_context(model, tokens, tokenizer, 3, 6)
    nats = score_by_hand(model, tokens, ends, 6, 3)
    assert score["bits_per_byte"] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-5)


def test_evaluate_context_drops_nothing():
    model = make_model(make_config(block_size=5, dropout=0.8), vocab_size=256).train()
    tokens = np.random.default_rng(3).integers(0, 256, 41).astype(np.uint16)
    scores = [v3.evaluate_context(model.train(), tokens, byte_tokenizer(), 5, 10) for _ in range(2)]
    assert scores[0] == scores[1]
    nats = score_by_hand(model.eval(), tokens, (20, 40), 10, 5)
    assert scores[0]["nats_per_token"] == pytest.approx(nats / 10, rel=1e-5)


@pytest.mark.parametrize("context", [7, 33])
def test_a_context_out_of_reach_is_refused(context):
    with pytest.raises(v3.Halt, match="must be 8 to 32"):
        make_config(block_size=8, context=context)


# --- the vocabulary


def test_allowed_chars_keep_merges_to_them():
    text = "the naïve café serves the naïve crème the whole day; café, café! 日本 日本 日本 " * 8
    text += "when shall we three meet again, in thunder, lightning, or in rain? " * 8
    allowed = "abcdefghijklmnopqrstuvwxyz "
    cfg = make_config(vocab_size=280, allowed_chars=allowed)
    tokenizer = v3.make_tokenizer(text, cfg)
    tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    merged = [token for token in tokens if len(token) > 1]
    assert len(merged) > 20
    assert set(b"".join(merged).decode("ascii")) <= set(allowed)
    assert any(len(token) == 1 and token[0] >= 128 for token in tokens)  # bytes of all else are still there
    for other in (text, "Ünïcode, 日本語 and \U0001f40c \x00 too", "the café", ""):
        assert tokenizer.decode(tokenizer.encode(other)) == other
    free = v3.make_tokenizer(text, make_config(vocab_size=280))
    assert any(max(token) >= 128 for token in map(free.token_bytes, range(280)) if len(token) > 1)  # without the flag
