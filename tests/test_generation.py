"""Generation: which window the model reads, what is drawn from its logits, and what is printed."""

import io
import random
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import every_version, from_v2, number
from small_models import VOCAB, all_tokens, make_config, make_model


class StandIn(nn.Module):
    """In place of a model: the logits after a window (B, T) are rule(window) (B, V)."""

    def __init__(self, rule):
        super().__init__()
        self.blocks, self.rule, self.windows = [None], rule, []

    def forward(self, idx, caches=None):
        window = idx
        if caches is not None:  # which hold the tokens where a block would keep keys and values
            window = torch.cat((*caches[0], idx), dim=1)
            caches[0][:] = [window]
        self.windows.append(window.clone())
        return self.rule(window)[:, None].expand(-1, idx.size(1), -1), None


@every_version
def test_a_full_window_slides_or_drops_its_older_half(version):
    def wander(window):  # the next token is the window's last plus 5: a text that is known before
        return F.one_hot((window[:, -1] + 5) % VOCAB, VOCAB).float()

    for prompt_length, block_size, lengths in (
        (5, 8, [5, 6, 7, 8, 4, 5, 6, 7, 8, 4, 5]),
        (13, 8, [8, 4, 5, 6, 7, 8, 4]),  # of a prompt that is too long, the end
        (2, 5, [2, 3, 4, 5, 2, 3, 4, 5, 2]),
        (3, 1, [1, 1, 1, 1]),
    ):
        if number(version) < 4:  # without a cache
            lengths = [min(prompt_length + i, block_size) for i in range(len(lengths))]
        model = StandIn(wander)
        text = torch.arange(prompt_length + len(lengths)) * 5 % VOCAB
        prompt = text[None, :prompt_length]
        generated = all_tokens(version, model, prompt, len(lengths), block_size, temperature=0)
        assert generated[0].tolist() == text[prompt_length:].tolist()
        assert [window.size(1) for window in model.windows] == lengths
        for i, window in enumerate(model.windows):
            assert window[0].tolist() == text[: prompt_length + i][-window.size(1) :].tolist()


PROBS = [0.02, 0.3, 0.08, 0.25, 0.05, 0.2, 0.1]  # by size: 0.30 0.25 0.20 0.10 0.08 0.05 0.02
ALL = range(7)
FILTERS = [  # settings, and the tokens that they let through
    (dict(), ALL),
    (dict(top_k=3), (1, 3, 5)),
    (dict(top_k=50), ALL),
    (dict(top_p=0.5), (1, 3)),  # 0.30 is too little, 0.55 enough
    (dict(top_p=0.8), (1, 3, 5, 6)),  # 0.75 is too little
    (dict(top_p=0.0), (1,)),
    (dict(top_k=4, top_p=0.6), (1, 3)),  # 0.55 of the 0.85 that four tokens hold is 0.65
    (dict(temperature=0), (1,)),
    (dict(temperature=2.0), ALL),
    (dict(temperature=0.5, top_p=0.9), (1, 3, 5)),  # squared: 0.42 0.29 0.19 0.05 ...
]


@every_version
def test_draws_follow_the_filtered_distribution(version):
    model, n = StandIn(lambda window: torch.tensor(PROBS).log().expand(window.size(0), -1)), 20_000
    for how, kept in FILTERS:
        prompts = torch.zeros(n, 1, dtype=torch.long)
        draws = all_tokens(version, model, prompts, 1, seed=1, **how)
        sharpness = 1 / (how.get("temperature", 1.0) or 1.0)
        expected = np.array([p**sharpness * (i in kept) for i, p in enumerate(PROBS)])
        expected /= expected.sum()
        drawn = np.bincount(draws.flatten().numpy(), minlength=7) / n
        tolerance = 4.5 * np.sqrt(expected * (1 - expected) / n) + 1e-12
        assert (np.abs(drawn - expected) <= tolerance).all(), how


@every_version
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_seed_fixes_the_draws(version, top_p):
    model, prompt, texts = make_model(version, std=0.2), torch.randint(VOCAB, (2, 3)), []
    for seed in (1, 1, 2):
        torch.manual_seed(len(texts))
        state = torch.get_rng_state()
        texts.append(all_tokens(version, model, prompt, 30, seed=seed, top_p=top_p))
        assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    assert torch.equal(texts[0], texts[1]) and not torch.equal(texts[0], texts[2])


# --- what is printed


class Screen(io.StringIO):
    """A stdout that remembers what stood below the heading at each flush."""

    shown = ()

    def flush(self):
        self.shown += (self.getvalue().partition(":\n\n")[2],)


def say(version, monkeypatch, ids, tokenizer, **settings):
    """Let the model draw these ids; returns the sample, its screens, and how many were not drawn."""
    cfg, drawn = make_config(version, prompt="P", **settings), iter(ids)
    monkeypatch.setattr(version, "generate", lambda *_: (torch.tensor([i]) for i in drawn))
    with redirect_stdout(Screen()) as screen:
        text = version.print_sample(version.Run(None, cfg, tokenizer, None, 0))
    end = "" if cfg.stop and cfg.stop in tokenizer.decode(ids) else " [...]"
    assert screen.getvalue().endswith(f"{text}{end}\n")
    assert all(text.startswith(part) for part in screen.shown)
    return text, screen.shown, len(list(drawn))


def make_tokenizer(version, text):
    """One character a token, or one byte."""
    return version.CharTokenizer(text + "P") if number(version) < 2 else version.BPETokenizer()


@every_version
def test_a_sample_appears_as_it_is_drawn_in_whole_characters(version, monkeypatch):
    text = "aé語😀e\u0301 \ufffd!"
    tokenizer = make_tokenizer(version, text)
    sample, shown, _ = say(version, monkeypatch, tokenizer.encode(text), tokenizer)
    assert sample == "P" + text
    assert {"Pa", "Paé", "Paé語", "Paé語😀", "Paé語😀e"} <= set(shown)
    assert say(version, monkeypatch, [], tokenizer)[0] == "P"


@every_version
def test_the_stop_string_is_never_shown(version, monkeypatch):
    rng = random.Random(2)
    for _ in range(100):
        text, stop = ("".join(rng.choices("abé", k=rng.randint(1, n))) for n in (12, 3))
        tokenizer = make_tokenizer(version, "abé")
        ids = tokenizer.encode(text)
        sample, _, left = say(version, monkeypatch, ids, tokenizer, stop=stop)
        before, found, after = text.partition(stop)
        assert sample == "P" + before and left == len(tokenizer.encode(after))  # it ended there


@from_v2
def test_characters_are_never_torn(version, monkeypatch):
    plain = version.BPETokenizer()
    for data, stop, shown in (
        ("a日本END本".encode(), "END", "a日本"),
        (b"a\xff\xff\xff\xc3\xa9b", "", "a\ufffd\ufffd\ufffdéb"),  # bytes that are no text
        (b"\xe6\x97\xff\xe6\x97\xa5", "", "\ufffd\ufffd日"),
        (b"\xa9\xe2\x82\xac\xe2", "", "\ufffd€\ufffd"),
        (b"a.\xc3", ".", "a"),
    ):
        ids = [plain.byte_order.index(byte) for byte in data]
        assert say(version, monkeypatch, ids, plain, stop=stop)[0] == "P" + shown
    start, end = plain.byte_order.index(0xC3), plain.byte_order.index(0xA9)
    merged = version.BPETokenizer([[end, start]])  # the end of one é and the start of the next
    _, shown, _ = say(version, monkeypatch, [start, *[256] * 6, end], merged)
    assert shown == tuple("P" + "é" * n for n in range(8))


@every_version
def test_a_sample_continues_the_prompt_with_the_runs_settings(version):
    how = dict(temperature=1.0, top_k=5, top_p=0.9, seed=3)
    tokenizer = make_tokenizer(version, "the end")
    model = make_model(version, std=0.3, vocab_size=tokenizer.vocab_size)
    for prompt, read in (("the", "the"), ("", "\n\n")):  # without one, the start of a paragraph
        cfg = make_config(version, prompt=prompt, max_new_tokens=25, **how)
        ids = all_tokens(version, model, torch.tensor([tokenizer.encode(read)]), 25, **how)
        with redirect_stdout(io.StringIO()) as screen:
            sample = version.print_sample(version.Run(None, cfg, tokenizer, model, 0))
        assert sample == prompt + tokenizer.decode(ids[0].tolist())
        assert screen.getvalue() == f"\nsample at temperature 1:\n\n{sample} [...]\n"
