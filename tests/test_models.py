"""What every version must keep to: causality, learning, exact evaluation, generation, streaming.

The oracles are slow loops over single tokens, closed forms, and stand-ins for the model whose logits are known.
"""

import importlib
import math
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from bpe_tokenizer import BPETokenizer

NAMES = ["v0_bigram", "v1_transformer", "v2_bpe_rope", "v3_alibi", "v4_gqa_swiglu", "v5_ngpt"]
ALL = [pytest.param(importlib.import_module(name), id=name[:2]) for name in NAMES]
every_version = pytest.mark.parametrize("version", ALL)
from_v1 = pytest.mark.parametrize("version", ALL[1:])
from_v2 = pytest.mark.parametrize("version", ALL[2:])
with_cache = pytest.mark.parametrize("version", ALL[4:])

VOCAB = 13
TINY = dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=32, d_ff=48, block_size=8, batch_size=4)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_config(version, **changes):
    """A small Config; of `changes` only what this version knows."""
    known = {f.name for f in fields(version.Config)}
    wanted = TINY | {"device": "cpu", "dtype": "float32", "max_steps": 10} | changes
    return version.Config(**{name: value for name, value in wanted.items() if name in known})


def make_model(version, std=0.0, **changes):
    """A fresh model; with `std` its weights are far from where they start (v5 puts the matrices back on the sphere)."""
    torch.manual_seed(0)
    model = version.LanguageModel(make_config(version, **changes), VOCAB)
    if std:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p) * std)
            if hasattr(model, "normalize_matrices"):
                model.normalize_matrices()
    return model.eval()


class StandIn(nn.Module):
    """Takes the model's place: the logits after a window (B, T) are rule(window) (B, V). Keeps all windows it saw."""

    def __init__(self, rule):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))  # tells on which device the model is
        self.blocks, self.rule, self.windows = [None], rule, []

    def forward(self, idx, targets=None, cache=None):
        window = idx
        if cache is not None:  # keep the tokens where a block would keep its keys and values
            tokens = idx[:, None, :, None]
            window = cache[0].extend(tokens, tokens)[0][:, 0, :, 0]
        self.windows.append(window.clone())
        return self.rule(window)[:, None].expand(-1, idx.size(1), -1), None


def script(ids, vocab_size):
    """A StandIn that says these ids, one after the other."""
    spoken = iter(ids)
    return StandIn(lambda window: F.one_hot(torch.tensor([next(spoken)]), vocab_size).float())


def all_tokens(version, model, prompt, n, block_size, **how):
    return torch.stack(list(version.generate(model, prompt, n, block_size, **how)), dim=1)


# --- the configuration


@from_v1
def test_one_block_per_15_seconds(version):
    expected = {0.001: 1, 29.9: 1, 30: 2, 59: 3, 60: 4, 1e300: 4, 0: 4}  # 0: the budget is in steps
    assert {seconds: version.Config(max_seconds=seconds).n_layer for seconds in expected} == expected
    assert version.Config(max_seconds=1, n_layer=7).n_layer == 7
    assert version.replace(version.Config(max_seconds=1), max_seconds=600).n_layer == 1  # a run keeps what it has


@from_v1
def test_the_header_shows_what_was_derived(version, capsys):
    corpus = SimpleNamespace(
        train=np.zeros(90), val=np.zeros(11), val_bytes=10, tokenizer=SimpleNamespace(vocab_size=VOCAB)
    )
    cfg = make_config(version, n_layer=0, max_seconds=30)
    version.print_header(cfg, version.LanguageModel(cfg, VOCAB), corpus, "runs/1", torch.device("cpu"))
    shown = capsys.readouterr().out
    assert "depth 2 |" in shown and f"vocabulary {VOCAB} |" in shown


# --- the data


@every_version
def test_targets_are_the_next_tokens(version):
    tokens, cfg = np.arange(1000), make_config(version)
    for step in (0, 1, 977):
        idx, targets = version.get_batch(tokens, cfg, step, "cpu")
        assert idx.shape == targets.shape == (4, 8)
        assert (targets == idx + 1).all() and (idx == idx[:, :1] + torch.arange(8)).all()


@every_version
def test_windows_are_spread_evenly_over_the_text(version):
    """After any number of steps the widest gap between neighbours is at most phi^2 times the narrowest.

    For steps of the golden ratio that follows from the three-gap theorem (Sos 1958); random places may touch.
    """
    n, tokens = 10**6, np.arange(10**6 + 8)
    for seed in range(3):
        cfg = make_config(version, seed=seed)
        starts = [version.get_batch(tokens, cfg, step, "cpu")[0][:, 0].numpy() for step in range(500)]
        for steps in (*range(1, 100), 500):
            gaps = np.diff(np.sort(np.concatenate(starts[:steps])), append=0)
            gaps[-1] = n - gaps[:-1].sum()  # round the end
            assert gaps.min() > 0 and gaps.max() <= ((1 + 5**0.5) / 2) ** 2 * (gaps.min() + 1) + 1


@every_version
def test_one_pass_misses_a_seventh_of_the_text_and_two_nothing(version):
    for steps in (100, 250, 333):  # a pass, each step reading 4 windows of 8 tokens
        tokens, cfg = np.arange(steps * 32), make_config(version)
        batches = [version.get_batch(tokens, cfg, step, "cpu")[0] for step in range(2 * steps)]
        seen = [len(torch.stack(part).unique()) / len(tokens) for part in (batches[:steps], batches)]
        assert 0.85 < seen[0] < 0.9 and seen[1] > 0.998  # the first and the last tokens are in fewer windows


@every_version
def test_every_token_can_be_learned_from(version):
    for n in (9, 10, 11, 50):  # from block_size + 1 on
        batches = [version.get_batch(np.arange(n), make_config(version), step, "cpu") for step in range(n)]
        assert set(torch.cat([targets.flatten() for _, targets in batches]).tolist()) == set(range(1, n))


@every_version
def test_a_batch_depends_on_seed_and_step_alone(version):
    tokens, cfg = np.arange(10**6), make_config(version)
    idx, _ = version.get_batch(tokens, cfg, 5, "cpu")
    np.random.seed(1)
    assert (version.get_batch(tokens, cfg, 5, "cpu")[0] == idx).all()
    others = [version.get_batch(tokens, make_config(version, seed=s), t, "cpu")[0] for s, t in ((0, 6), (1, 5))]
    assert not any((other == idx).all() for other in others)


@from_v1
def test_what_is_dropped_depends_on_seed_and_step_alone(version):
    def dropped(seed, step, before=0):
        cfg, seen = make_config(version, seed=seed, dropout=0.5), []
        model = make_model(version, dropout=0.5).train()
        model.dropout.register_forward_hook(lambda module, args, out: seen.append(out == 0))
        corpus, optimizer = SimpleNamespace(train=np.arange(1000) % VOCAB), version.make_optimizer(model, cfg)
        torch.manual_seed(before)  # whatever was drawn before
        version.train_step(model, optimizer, corpus, cfg, version.Progress(step=step), torch.device("cpu"))
        return seen[0]

    assert torch.equal(dropped(1, 3), dropped(1, 3, before=5))
    assert not torch.equal(dropped(1, 3), dropped(1, 4)) and not torch.equal(dropped(1, 3), dropped(2, 3))


# --- the model


@every_version
def test_no_logit_sees_what_comes_after_it(version):
    model, T = make_model(version, std=0.2), 8
    idx = torch.randint(VOCAB, (2, T))
    with torch.no_grad():
        before = model(idx)[0]
        for t in range(T):
            changed = idx.clone()
            changed[:, t] = (changed[:, t] + 1) % VOCAB
            difference = (model(changed)[0] - before).abs().amax(dim=(0, 2))  # (T,)
            assert difference[:t].eq(0).all() or difference[:t].max() < 1e-6
            assert difference[t] > 1e-2
            if version.VERSION != "v0_bigram":  # v0 sees one token only
                assert (difference[t:] > 1e-4).all()


@every_version
def test_logits_of_a_row_do_not_depend_on_its_batch(version):
    model = make_model(version, std=0.2)
    idx = torch.randint(VOCAB, (3, 8))
    with torch.no_grad():
        torch.testing.assert_close(model(idx)[0][1:2], model(idx[1:2])[0], rtol=0, atol=1e-5)


@every_version
def test_loss_is_the_mean_over_all_targets(version):
    model = make_model(version, std=0.2)
    tokens = torch.randint(VOCAB, (3, 9))
    logits, loss = model(tokens[:, :-1], tokens[:, 1:])
    assert logits.shape == (3, 8, VOCAB)
    log_probs = logits.detach().double().log_softmax(-1)
    each = [-log_probs[b, t, tokens[b, t + 1]].item() for b in range(3) for t in range(8)]
    assert loss.item() == pytest.approx(np.mean(each), rel=1e-5)
    assert model(tokens[:, :-1])[1] is None


@from_v1
def test_a_model_learns_one_batch_by_heart(version):
    model = make_model(version, learning_rate=0.01).train()
    optimizer = version.make_optimizer(model, make_config(version, learning_rate=0.01))
    tokens = torch.randint(VOCAB, (4, 9))
    tokens[:, 0] = torch.arange(4)  # rows that start alike could not be told apart
    for step in range(300):
        _, loss = model(tokens[:, :-1], tokens[:, 1:])
        if step == 0:
            assert loss.item() > 2
        if loss.item() < 0.1:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError(f"after 300 steps the loss is still {loss.item():.3f}")


# --- evaluation


@every_version
def test_a_uniform_model_pays_log2_of_the_vocabulary(version):
    model = make_model(version)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    tokens = np.random.default_rng(0).integers(0, VOCAB, 38).astype(np.uint16)
    score = version.evaluate(model, tokens, 101, 8)
    assert score["tokens"] == 37
    assert score["bits_per_byte"] == pytest.approx(math.log2(VOCAB) * 37 / 101, rel=1e-6)
    assert score["nats_per_token"] == pytest.approx(math.log(VOCAB), rel=1e-6)
    assert score["perplexity"] == pytest.approx(VOCAB, rel=1e-5)


def score_one_by_one(model, tokens, block_size):
    """Nats over tokens[1:]: each target from what its window has before it, one forward pass per target."""
    nats, n = 0.0, len(tokens) - 1
    for target in range(1, n + 1):
        first = 1 + (target - 1) // block_size * block_size  # the window's first target
        seen = torch.from_numpy(tokens[first - 1 : target].astype(np.int64))[None]
        with torch.no_grad():
            nats -= model(seen)[0][0, -1].double().log_softmax(-1)[tokens[target]].item()
    return nats


@every_version
@pytest.mark.parametrize("n", [3, 8, 24, 29])  # targets: a part of a window, one, three, and three and a part
def test_evaluation_equals_a_slow_loop(version, n, monkeypatch):
    model = make_model(version, std=0.2)
    tokens = np.random.default_rng(n).integers(0, VOCAB, n + 1).astype(np.uint16)
    nats = score_one_by_one(model, tokens, 8)
    assert abs(nats - n * math.log(VOCAB)) > 1e-3 * n  # not just what a uniform model pays
    for per_pass in (version.EVAL_TOKENS, 20, 1):  # how many windows go into one forward pass is no matter
        monkeypatch.setattr(version, "EVAL_TOKENS", per_pass)
        score = version.evaluate(model, tokens, 2 * n, 8)
        assert score["tokens"] == n
        assert score["nats_per_token"] == pytest.approx(nats / n, rel=1e-5)
        assert score["bits_per_byte"] == pytest.approx(nats / math.log(2) / (2 * n), rel=1e-5)
        assert score["perplexity"] == pytest.approx(math.exp(nats / n), rel=1e-4)


@every_version
def test_evaluation_scores_every_token_once_and_in_order(version):
    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.read, self.scored = nn.Parameter(torch.zeros(1)), [], []

        def forward(self, idx, targets=None):
            assert idx.shape == targets.shape and idx.size(1) <= 8
            self.read += idx.flatten().tolist()
            self.scored += targets.flatten().tolist()
            return None, torch.tensor(1.5)

    model, tokens = Recorder(), np.arange(100, dtype=np.uint16)
    score = version.evaluate(model, tokens, 99, 8)
    assert model.scored == list(range(1, 100))
    assert model.read == list(range(99))  # each from the one before it, the first too
    assert score["nats_per_token"] == pytest.approx(1.5)


@every_version
def test_evaluation_drops_nothing_and_restores_the_mode(version):
    model = make_model(version, std=0.2, dropout=0.8)
    tokens = np.random.default_rng(0).integers(0, VOCAB, 30).astype(np.uint16)
    scores = []
    for mode in (True, True, False):
        model.train(mode)
        scores.append(version.evaluate(model, tokens, 29, 8))
        assert all(module.training == mode for module in model.modules())
    assert scores[0] == scores[1] == scores[2]
    assert scores[0]["nats_per_token"] == pytest.approx(score_one_by_one(model, tokens, 8) / 29, rel=1e-5)
    if version.VERSION != "v0_bigram":
        model.train()
        idx = torch.from_numpy(tokens[:8].astype(np.int64))[None]
        assert not torch.equal(model(idx)[0], model(idx)[0])  # in training it does drop


# --- generation


@every_version
def test_temperature_zero_takes_the_likeliest(version):
    model = make_model(version, std=0.6)
    text = torch.randint(VOCAB, (2, 5))
    generated = all_tokens(version, model, text, 20, 8, temperature=0)
    assert torch.equal(generated, all_tokens(version, model, text, 20, 8, temperature=0, seed=5, top_p=0.5))
    assert torch.equal(generated, all_tokens(version, model, text, 20, 8, temperature=1.7, top_k=1, seed=6))
    assert torch.equal(generated, all_tokens(version, model, text, 20, 8, top_p=1e-3, seed=7))
    length = 5
    for _ in range(20):
        with torch.no_grad():
            text = torch.cat((text, model(text[:, -length:])[0][:, -1:].argmax(-1)), dim=1)
        length = length + 1 if length < 8 else 4
    assert torch.equal(generated, text[:, 5:])


@every_version
def test_a_full_window_drops_its_older_half(version):
    def wanders(window):  # the next token is the window's last plus 5, so a text is known in advance
        return F.one_hot((window[:, -1] + 5) % VOCAB, VOCAB).float()

    for prompt_length, block_size, lengths in (
        (5, 8, [5, 6, 7, 8, 4, 5, 6, 7, 8, 4, 5]),
        (13, 8, [8, 4, 5, 6, 7, 8, 4]),  # of a prompt that is too long, the end
        (8, 8, [8, 4, 5]),
        (2, 5, [2, 3, 4, 5, 2, 3, 4, 5, 2]),
        (3, 1, [1, 1, 1, 1]),
        (1, 2, [1, 2, 1, 2, 1]),
    ):
        model = StandIn(wanders)
        prompt = torch.arange(prompt_length)[None] * 5 % VOCAB
        text = torch.arange(prompt_length + len(lengths)) * 5 % VOCAB
        generated = all_tokens(version, model, prompt, len(lengths), block_size, temperature=0)
        assert generated[0].tolist() == text[prompt_length:].tolist()
        assert [window.size(1) for window in model.windows] == lengths
        for i, window in enumerate(model.windows):
            assert window[0].tolist() == text[: prompt_length + i][-window.size(1) :].tolist()


PROBS = [0.02, 0.3, 0.08, 0.25, 0.05, 0.2, 0.1]  # by size: 0.30 0.25 0.20 0.10 0.08 0.05 0.02
N_DRAWS = 40000


@every_version
@pytest.mark.parametrize(
    "how, kept",
    [
        (dict(), range(7)),
        (dict(top_k=3), (1, 3, 5)),
        (dict(top_k=50), range(7)),
        (dict(top_p=0.5), (1, 3)),  # 0.30 is too little, 0.55 enough
        (dict(top_p=0.8), (1, 3, 5, 6)),  # 0.75 is too little
        (dict(top_p=0.29), (1,)),
        (dict(top_k=4, top_p=0.6), (1, 3)),  # 0.55 of the 0.85 that four tokens hold is 0.65
        (dict(temperature=0.5), range(7)),
        (dict(temperature=2.0), range(7)),
        (dict(temperature=0.5, top_p=0.9), (1, 3, 5)),  # squared and normalized: 0.42 0.29 0.19 0.05 ...
    ],
)
def test_draws_follow_the_filtered_distribution(version, how, kept):
    model = StandIn(lambda window: torch.tensor(PROBS).log().expand(window.size(0), -1))
    draws = all_tokens(version, model, torch.zeros(N_DRAWS, 1, dtype=torch.long), 1, 8, seed=1, **how)
    weights = np.array([p ** (1 / how.get("temperature", 1.0)) * (i in kept) for i, p in enumerate(PROBS)])
    expected = weights / weights.sum()
    drawn = np.bincount(draws.flatten().numpy(), minlength=7) / N_DRAWS
    assert drawn[expected == 0].sum() == 0  # what is filtered out never comes
    assert (np.abs(drawn - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / N_DRAWS) + 1e-12).all()


@every_version
def test_a_seed_fixes_the_draws(version):
    model = make_model(version, std=0.2)
    prompt = torch.randint(VOCAB, (2, 3))
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = all_tokens(version, model, prompt, 30, 8, seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's random numbers are used up
    torch.manual_seed(12)
    assert torch.equal(first, all_tokens(version, model, prompt, 30, 8, seed=1))
    assert not torch.equal(first, all_tokens(version, model, prompt, 30, 8, seed=2))


@with_cache
def test_cached_and_uncached_generation_agree(version):
    model = make_model(version, std=0.4)
    for length in (3, 8, 19):
        prompt = torch.randint(VOCAB, (2, length))
        texts = [all_tokens(version, model, prompt, 30, 8, seed=4, cached=cached) for cached in (True, False)]
        assert torch.equal(*texts)


@every_version
def test_generation_drops_nothing(version):
    model = make_model(version, std=0.2, dropout=0.8)
    prompt = torch.randint(VOCAB, (1, 4))
    expected = all_tokens(version, make_model(version, std=0.2, dropout=0.0), prompt, 20, 8, seed=1)
    assert torch.equal(all_tokens(version, model.train(), prompt, 20, 8, seed=1), expected)


# --- streaming


def make_tokenizer(version, text):
    """Characters for v0 and v1; after that bytes, each a token, so that characters can be torn."""
    return version.CharTokenizer(text) if hasattr(version, "CharTokenizer") else BPETokenizer()


def stream(version, tokenizer, ids, **changes):
    """The pieces that stream_text yields when the model says these ids."""
    wanted = dict(temperature=0.0, max_new_tokens=len(ids)) | changes
    model = script([int(i) for i in ids], tokenizer.vocab_size)
    return list(version.stream_text(model, tokenizer, make_config(version, **wanted)))


TEXT = "Anna saw a naïve cat;\nthe café — 日本 — sold \U0001f40c 12 times.\n"


@every_version
def test_pieces_add_up_to_the_text(version):
    tokenizer = make_tokenizer(version, TEXT)
    pieces = stream(version, tokenizer, tokenizer.encode(TEXT))
    assert "".join(pieces) == TEXT
    assert len([piece for piece in pieces if piece]) == len(TEXT)  # character by character, as they come


@every_version
def test_max_new_tokens(version):
    tokenizer = make_tokenizer(version, TEXT)
    assert "".join(stream(version, tokenizer, tokenizer.encode(TEXT), max_new_tokens=9)) == TEXT[:9]
    assert "".join(stream(version, tokenizer, tokenizer.encode(TEXT), max_new_tokens=0)) == ""


@every_version
def test_the_prompt_is_read_and_not_repeated(version):
    tokenizer = make_tokenizer(version, TEXT)
    for prompt, read in (("cat", "cat"), ("", "\n\n")):  # without one, the start of a paragraph
        model = script(tokenizer.encode("the"), tokenizer.vocab_size)
        cfg = make_config(version, prompt=prompt, max_new_tokens=3, temperature=0.0)
        assert "".join(version.stream_text(model, tokenizer, cfg)) == "the"
        assert tokenizer.decode(model.windows[0][0].tolist()) == read


@every_version
@pytest.mark.parametrize(
    "said, shown",
    [
        ("a cat; END the rest", "a cat; "),
        ("ENENDEND", "EN"),
        ("END", ""),
        ("the EN", "the EN"),  # only the beginning of the stop string: it is text after all
        ("E E N EEN END.END", "E E N EEN "),
        ("no such thing", "no such thing"),
    ],
)
def test_the_stop_string_is_never_shown(version, said, shown):
    tokenizer = make_tokenizer(version, said)
    pieces = stream(version, tokenizer, tokenizer.encode(said), stop="END")
    assert "".join(pieces) == shown
    for i in range(len(pieces)):  # nothing that had to be taken back
        assert shown.startswith("".join(pieces[:i]))


@every_version
def test_stopping_ends_the_generation(version):
    tokenizer = make_tokenizer(version, "abc.")
    model = script(tokenizer.encode("ab.cab"), tokenizer.vocab_size)
    cfg = make_config(version, temperature=0.0, max_new_tokens=6, stop=".")
    assert "".join(version.stream_text(model, tokenizer, cfg)) == "ab"
    assert len(model.windows) == 3


@from_v2
def test_characters_are_never_torn(version):
    tokenizer = make_tokenizer(version, TEXT)
    for piece in stream(version, tokenizer, tokenizer.encode(TEXT)):
        assert "\ufffd" not in piece
    assert len(tokenizer.encode("日本")) == 6
    assert "".join(stream(version, tokenizer, tokenizer.encode("a日本END本"), stop="END")) == "a日本"
    assert "".join(stream(version, tokenizer, tokenizer.encode("a日本"), stop="本")) == "a日"


def find_ids(tokenizer, *tokens):
    """The ids of tokens given as bytes."""
    ids = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    return [ids[token] for token in tokens]


@from_v2
def test_tokens_that_end_in_the_middle_of_a_character(version):
    plain = BPETokenizer()
    tokenizer = BPETokenizer([find_ids(plain, b"\xa9", b"\xc3")])  # the end of one letter with the start of the next
    ids = find_ids(tokenizer, b"\xc3", *[b"\xa9\xc3"] * 6, b"\xa9")
    assert tokenizer.decode(ids) == "é" * 7
    assert "".join(stream(version, tokenizer, ids)) == "é" * 7


@from_v2
def test_bytes_that_are_no_text_do_not_tear_what_follows(version):
    tokenizer = BPETokenizer()
    for data in (
        b"a\xff\xff\xff\xc3\xa9b",
        b"\xe6\x97\xff\xe6\x97\xa5",
        b"\xc3\xc3\xc3\xc3\xa9",
        b"\xa9\xa9\xe2\x82\xac",
    ):
        ids = find_ids(tokenizer, *(data[i : i + 1] for i in range(len(data))))
        assert "".join(stream(version, tokenizer, ids)) == data.decode(errors="replace")


@from_v2
def test_a_stop_string_before_an_unfinished_character(version):
    plain = BPETokenizer()
    tokenizer = BPETokenizer([find_ids(plain, b".", b"\xc3")])  # the stop string and the start of a letter in one token
    ids = find_ids(tokenizer, b"a", b".\xc3")
    assert "".join(stream(version, tokenizer, ids, stop=".")) == "a"


@every_version
def test_streaming_a_real_model(version):
    tokenizer = make_tokenizer(version, TEXT)
    cfg = make_config(version, prompt="the", max_new_tokens=25, temperature=1.0, top_k=5, seed=3)
    torch.manual_seed(0)
    model = version.LanguageModel(cfg, tokenizer.vocab_size)
    streamed = "".join(version.stream_text(model, tokenizer, cfg))
    prompt = torch.tensor([tokenizer.encode("the")])
    ids = all_tokens(version, model, prompt, 25, cfg.block_size, temperature=1.0, top_k=5, seed=3)
    assert streamed == tokenizer.decode(ids[0].tolist())
