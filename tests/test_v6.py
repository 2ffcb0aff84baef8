"""v6: what is hidden and how often, padding, the exam, fill, and starting from v5.

The oracles are transformers' collator for masked language modelling, v5's causal model at its last
position, and slow loops over single texts.
"""

import math
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TEXT
from small_models import VOCAB, make_config, make_model
from small_runs import call, load, results, small, train
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

import v5_ngpt as v5
import v6_mlm as v6

MASK, PAD = VOCAB, VOCAB + 1
PARAGRAPHS = (
    "The old fox ran to the river.\n\nWho knows?\n\n"
    "A red key, and a map: the owl's!\n\nÉté et Zoë 12 fois.\n\n"
)


class Letters:
    """A tokenizer of single characters, as v1's."""

    def __init__(self, text):
        self.chars = sorted(set(text))
        self.vocab_size = len(self.chars)

    def encode(self, text):
        return [self.chars.index(char) for char in text]

    def decode_bytes(self, ids):
        return "".join(self.chars[i] for i in ids).encode()


def encode(tokenizer, text):
    return np.array(tokenizer.encode(text), dtype=np.uint16)


def bpe(text, n=300):
    return v6.BPETokenizer.train(text * 9, n, progress=False)


def text_of(ids):
    """A text as `find_texts` gives it, each token a word; the first is only context."""
    return torch.stack((ids, torch.arange(len(ids)) + 1), dim=1)


# --- what is hidden


def test_masking_has_the_probabilities_of_transformers():
    """100,000 tokens: the share of targets, and of these what is hidden, replaced and kept."""
    vocabulary = {str(i): i for i in range(1000)} | {"<mask>": 1000, "<pad>": 1001}
    words = Tokenizer(WordLevel(vocabulary, "<pad>"))
    theirs = PreTrainedTokenizerFast(tokenizer_object=words, mask_token="<mask>", pad_token="<pad>")
    ids = torch.randint(1000, (1000, 101))
    rows = [{"input_ids": row.tolist()} for row in ids[:, 1:]]
    batch = DataCollatorForLanguageModeling(theirs, seed=1)(rows)
    expected = masking(ids[:, 1:], batch["input_ids"], batch["labels"])
    texts = [text_of(row) + torch.tensor([0, 101 * i]) for i, row in enumerate(ids)]
    idx, targets = v6.hide(texts, 1000, seed=5)
    assert expected == pytest.approx((0.15, 0.8, 0.1, 0.1), abs=0.01)
    assert masking(ids[:, 1:], idx[:, 1:], targets[:, 1:]) == pytest.approx(expected, abs=0.01)


def masking(ids, idx, targets, mask=1000):
    """Shares: targets of all; of the targets those hidden, replaced and kept."""
    chosen = targets >= 0
    assert (targets[chosen] == ids[chosen]).all() and (idx[~chosen] == ids[~chosen]).all()
    hidden, kept = idx[chosen] == mask, idx[chosen] == ids[chosen]
    shares = chosen, hidden, ~hidden & ~kept, kept
    return tuple(share.float().mean().item() for share in shares)


def test_in_an_exam_the_same_words_are_hidden_whole_whatever_the_tokens():
    """Against a regular expression over the text: 15 % of its words, and nothing else."""
    text, found = PARAGRAPHS * 40, []
    words = [match.span() for match in re.finditer(rb"[\w\x80-\xff]+", text.encode())]
    for tokenizer in (bpe(text), Letters(text)):
        tokens, mask = encode(tokenizer, text), tokenizer.vocab_size
        of_word, hidden = place_words(tokens, tokenizer, words), set()
        for part in v6.find_texts(tokens, tokenizer, 256):
            idx, targets = v6.hide([part], mask, seed=0, exam=True)
            assert ((idx == mask) == (targets >= 0)).all() and targets[0, 0] == -100
            numbers = part[targets[0] >= 0, 1]
            hidden |= set(numbers.tolist())
            alike = torch.isin(part[1:, 1], numbers)  # all tokens of a word
            assert (alike == (targets[0, 1:] >= 0)).all()
        assert hidden <= set(of_word.tolist())
        parts = torch.cat([part[1:] for part in v6.find_texts(tokens, tokenizer, 256)])
        ours = Counter(parts[parts[:, 1] > 0, 1].tolist())  # word: tokens
        assert ours == Counter(of_word[1:][of_word[1:] > 0].tolist())
        found.append(hidden)
    assert found[0] == found[1] and 0 not in found[0]
    assert len(found[0]) / len(words) == pytest.approx(0.15, abs=0.03)


def place_words(tokens, tokenizer, words):
    """The number of the word, from 1, in which each token's last byte lies; 0 if in none."""
    ends = np.cumsum([len(tokenizer.decode_bytes([i])) for i in tokens.tolist()])
    found = [[i for i, (a, b) in enumerate(words, start=1) if a < end <= b] for end in ends]
    return np.array([numbers[0] if numbers else 0 for numbers in found])


def test_context_and_padding_are_never_targets():
    tokenizer = Letters(PARAGRAPHS)
    batch = v6.find_texts(encode(tokenizer, PARAGRAPHS), tokenizer, 256)
    behind = torch.arange(len(batch[-1])) >= torch.tensor([len(part) for part in batch])[:, None]
    for seed in range(20):
        idx, targets = v6.hide(batch, tokenizer.vocab_size, seed)
        assert (targets[behind] == -100).all() and (targets[:, 0] == -100).all()
        assert ((idx == tokenizer.vocab_size + 1) == behind).all() and (targets >= 0).any()


def test_texts_are_the_paragraphs():
    """Each token but the first is in one text; those longer than block_size are cut."""
    text = "Before.\n\n" + PARAGRAPHS + "no end, " * 30
    for tokenizer in (bpe(text), Letters(text)):
        tokens = encode(tokenizer, text)
        parts = v6.find_texts(tokens, tokenizer, 64)
        assert [len(part) for part in parts] == sorted(len(part) for part in parts)
        decoded = [tokenizer.decode_bytes(part[1:, 0].tolist()).decode() for part in parts]
        for paragraph in PARAGRAPHS.split("\n\n")[:-1]:
            assert f"{paragraph}\n\n" in decoded
        ids = torch.cat([part[1:, 0] for part in parts]).numpy()
        assert sorted(ids) == sorted(tokens[1:]) and max(map(len, parts)) == 65
        contexts = {tokenizer.decode_bytes(part[:1, 0].tolist())[-1:] for part in parts}
        assert b"\n" in contexts


def test_a_batch_is_a_function_of_seed_and_step_and_covers_the_text(folder):
    Path("text.txt").write_text(PARAGRAPHS * 300)
    cfg = make_config(v6, data="text.txt", vocab_size=270, batch_size=4, block_size=32)
    corpus = v6.load_corpus(cfg)
    first, again, later = (v6.get_batch(corpus, cfg, step, "cpu") for step in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape != later[0].shape or not torch.equal(first[0], later[0])
    steps = round(len(corpus.train) / 4 / 32)
    read = sum((v6.get_batch(corpus, cfg, i, "cpu")[0][:, 1:] <= 270).sum() for i in range(steps))
    assert read.item() == pytest.approx(len(corpus.train), rel=0.05)


# --- the model


def test_attention_looks_both_ways_and_is_v5s_at_the_last_position():
    """v5's weights: at the last position a causal model sees all, so that the first block agrees."""
    ours, theirs = make_model(v6, std=0.2, n_layer=1), make_model(v5, std=0.2, n_layer=1)
    state = theirs.state_dict()
    extra = torch.randn(2, 32)
    state["token_embedding.weight"] = torch.cat((state["token_embedding.weight"], extra))
    ours.load_state_dict(state)
    idx = torch.randint(VOCAB, (3, 8))
    torch.testing.assert_close(ours(idx)[0][:, -1], theirs(idx)[0][:, -1], rtol=0, atol=1e-5)
    for t in range(8):
        changed = idx.clone()
        changed[:, t] = (changed[:, t] + 1) % VOCAB
        assert ((ours(changed)[0] - ours(idx)[0]).abs().amax(dim=(0, 2)) > 1e-5).all()


@pytest.mark.parametrize("objective", ["mlm", "mntp"])
def test_a_text_has_the_same_logits_alone_and_in_any_batch(objective):
    """Whatever stands in the padding: here the vector of `<pad>` is changed, too."""
    model, lengths = make_model(v6, std=0.3, objective=objective), (1, 5, 2, 7, 3)
    texts = [torch.randint(VOCAB, (n,)) for n in lengths]
    alone = [model(text[None])[0][0] for text in texts]
    for extra in (0, 4):
        batch = torch.full((5, 7 + extra), PAD)
        for row, text in zip(batch, texts, strict=True):
            row[: len(text)] = text
        for scale in (1, -50):
            model.token_embedding.weight.data[PAD] *= scale
            for out, row, n in zip(alone, model(batch)[0], lengths, strict=True):
                torch.testing.assert_close(row[:n], out, rtol=0, atol=1e-5)


def test_padding_has_no_gradient_and_a_row_of_it_gives_no_nan():
    model, seen = make_model(v6, std=0.3), []
    model.token_embedding.register_forward_hook(lambda *args: seen.append(args[2]))
    idx = torch.randint(VOCAB, (3, 6))
    idx[0, 4:], idx[1] = PAD, PAD
    targets = torch.where(idx == PAD, -100, idx)
    seen[:] = []
    logits, loss = model(idx, targets)
    (gradient,) = torch.autograd.grad(loss, seen[0], retain_graph=True)
    loss.backward()
    assert model(idx)[0].isfinite().all() and loss.isfinite() and logits.shape == (10, VOCAB)
    assert gradient[idx == PAD].eq(0).all() and gradient[idx != PAD].ne(0).any(dim=-1).all()
    assert model.token_embedding.weight.grad[PAD].eq(0).all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_mntp_predicts_from_the_state_before():
    """The same weights: the logits of mlm, one position later; the first token has none."""
    idx, targets = torch.randint(VOCAB, (2, 6)), torch.full((2, 6), -100)
    targets[0, 3], targets[1, 5] = 4, 2
    mlm, mntp = (make_model(v6, std=0.2, objective=kind) for kind in ("mlm", "mntp"))
    torch.testing.assert_close(mntp(idx)[0][:, 1:], mlm(idx)[0][:, :-1])
    logits = mlm(idx)[0].log_softmax(-1)
    expected = -logits[0, 2, 4] - logits[1, 4, 2]
    torch.testing.assert_close(mntp(idx, targets)[1], expected)


def test_parts_of_a_batch_add_up_however_many_targets_they_have():
    model = make_model(v6, std=0.1).train()
    idx, targets = torch.randint(VOCAB, (2, 4, 8))
    targets[0, :7], targets[1], targets[3, 2:] = -100, -100, -100
    found = []
    for size in (0, 2, 1):
        loss = v6.backward(model, idx, targets, make_config(v6, micro_batch_size=size))
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for part in found[1:]:
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found[0], part, strict=True))


# --- evaluation


def test_evaluation_equals_a_slow_loop_and_never_changes():
    """Every text alone, every hidden token alone; twice the same, also after other draws."""
    text = PARAGRAPHS * 3
    tokenizer = bpe(text)
    tokens, mask = encode(tokenizer, text), tokenizer.vocab_size
    model = make_model(v6, std=0.3, vocab_size=mask, block_size=32)
    nats, n, right, n_bytes = 0.0, 0, 0, 0
    for part in v6.find_texts(tokens, tokenizer, 32):
        idx, targets = v6.hide([part], mask, 0, exam=True)
        logits = model(idx)[0][0].double().log_softmax(-1)
        for place in (targets[0] >= 0).nonzero()[:, 0].tolist():
            token = targets[0, place].item()
            nats, n = nats - logits[place, token].item(), n + 1
            right += logits[place].argmax().item() == token
            letters = tokenizer.decode_bytes([token]).decode("latin-1")
            n_bytes += sum(char.isalnum() or char > "\x7f" for char in letters)
    score = v6.evaluate(model.train(), tokens, tokenizer, 32)
    expected = nats / n, nats / math.log(2) / n_bytes, right / n
    assert score == pytest.approx(expected, rel=1e-5) and n > 8 and not model.training
    torch.manual_seed(7), np.random.seed(7)
    assert v6.evaluate(model, tokens, tokenizer, 32) == score
    assert v6.evaluate(model, tokens[:1], tokenizer, 32) == (0.0, 0.0, 0.0)


# --- runs


@pytest.mark.usefixtures("folder")
def test_fill_and_eval_print_what_a_run_found():
    Path("text.txt").write_text(PARAGRAPHS * 60)
    out = train(v6, out="run", max_steps=60, n_layer=2, n_embd=32, batch_size=8)
    words = ["--out", "run", "--prompt", "The old ___ ran to the ___."]
    done = call(v6, "fill", *words)
    prompt, *lines = done.out.strip().splitlines()
    assert prompt == words[-1] and len(lines) == 2 and done.status == 0
    candidates = [line.split("  ") for line in lines]
    assert all(len(found) == 5 and found[0].endswith("%") for found in candidates)
    run = v6.load_run("run", prompt=words[-1])
    ids = torch.tensor(
        [
            run.tokenizer.encode("\n\nThe old")
            + [run.tokenizer.vocab_size]
            + run.tokenizer.encode(" ran to the")
            + [run.tokenizer.vocab_size]
            + run.tokenizer.encode(".")
        ]
    )
    gap = len(run.tokenizer.encode("\n\nThe old"))
    probs = run.model(ids)[0][0, gap].softmax(-1)
    best = probs.argmax().item()
    assert candidates[0][0] == f"{run.tokenizer.decode([best])!r} {probs[best].item():.0%}"
    scored = call(v6, "eval", "--out", "run").out
    assert scored.startswith("best: step ") and scored in out and "hidden tokens right" in scored
    assert Path("run/sample.txt").read_text() in out


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("objective", ["mlm", "mntp"])
def test_it_starts_from_a_run_of_v5_or_v6(objective):
    train(v5, out="first")
    still = dict(learning_rate=0.0, muon_learning_rate=0.0, objective=objective)
    train(v6, out="second", init_from="first", **still)
    train(v6, out="third", init_from="second", seed=7, **still)
    first, second, third = (
        load(f"{name}/best.pt")["model"] for name in ("first", "second", "third")
    )
    assert Path("first/tokenizer.json").read_bytes() == Path("third/tokenizer.json").read_bytes()
    n = len(first["token_embedding.weight"])
    for name, p in first.items():
        torch.testing.assert_close(second[name][:n] if "embed" in name else second[name], p)
    assert len(second["token_embedding.weight"]) == n + 2
    assert all(torch.allclose(p, third[name], atol=1e-6) for name, p in second.items())
    shutil.rmtree("first")
    assert call(v6, "--resume", "--out", "second", "--max-steps", 8).status == 0


@pytest.mark.usefixtures("folder")
def test_what_it_cannot_start_from_or_fill():
    train(v5, out="first")
    train(v6, out="run")
    shutil.copytree("first", "damaged")
    Path("damaged/best.pt").write_bytes(b"\0" * 99)
    flags = [*small(v6), "--out", "new", "--init-from"]
    for words, message in (
        ([*flags, "missing"], "missing"),
        ([*flags, "damaged"], "--init-from damaged: no v5 or v6 of this size"),
        ([*flags, "first", "--n-layer", "2"], "--init-from first: no v5 or v6 of this size"),
        (["fill", "--out", "run", "--prompt", "no gap"], "--prompt: has no gap"),
        (["fill", "--out", "first"], "first: holds a run of v5_ngpt"),
    ):
        done = call(v6, *words)
        assert done.status == 1 and message in done.err and done.err.count("\n") == 1, done
        assert not Path("new").exists()


@pytest.mark.usefixtures("folder")
def test_texts_without_paragraphs_or_words_are_trained_on():
    for text in (TEXT.replace("\n", " "), "\n" * 3000, "?! " * 900, "語" * 2000):
        Path("text.txt").write_text(text, encoding="utf-8")
        done = call(v6, *small(v6, vocab_size=256), "--out", "run", "--overwrite")
        assert done.status == 0, done
    assert results("run")
