"""benchmarks/surprise.py: the bits of grammar and model, piece by piece, are those of the whole story."""

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import load_version
from small_models import make_model

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import surprise  # noqa: E402

TEXT = (ROOT / "input.txt").read_text("utf-8")
TOKENIZER = load_version(4).BPETokenizer.train(TEXT[:20_000], 300, progress=False)
MODEL = make_model(load_version(4), std=0.1, vocab_size=TOKENIZER.vocab_size)


def test_pieces_hold_the_whole_story_and_all_bits():
    found = surprise.validation_stories(TEXT, 3)
    assert len(found) == 3
    for story in found:
        assert TEXT.index(story) >= len(TEXT) * 9 // 10
        pieces = surprise.compare(MODEL, TOKENIZER, story, 32)
        assert "".join(piece["text"] for piece in pieces) == story
        grammar = sum(step.bits for step in surprise.maker.parse(story + "\n"))
        assert sum(piece["grammar"] for piece in pieces) == pytest.approx(grammar)
        tokens, stop = surprise.token_bits(MODEL, TOKENIZER, story, 32), 0
        for piece in pieces:
            start, stop = stop, stop + len(piece["text"].encode())
            paid = sum(bits for end, bits in tokens if start < end <= stop)
            assert piece["model"] == pytest.approx(paid)


def test_each_token_is_scored_once_with_enough_before_it():
    (story,) = surprise.validation_stories(TEXT, 1)
    before = len(TOKENIZER.encode(surprise.maker.SEPARATOR))
    ids = torch.tensor(TOKENIZER.encode(surprise.maker.SEPARATOR + story))
    logits, _ = MODEL(ids[None, :-1])
    bits = F.cross_entropy(logits[0], ids[1:], reduction="none") / math.log(2)
    found = surprise.token_bits(MODEL, TOKENIZER, story, len(ids))  # one window holds the story
    assert [bits for _, bits in found] == pytest.approx(bits[before - 1 :].tolist(), abs=1e-4)
    assert found[-1][0] == len(story.encode())
    short = surprise.token_bits(MODEL, TOKENIZER, story, 8)  # after 9 tokens a window begins at 5
    bits = F.cross_entropy(MODEL(ids[None, 5:9])[0][0, -1:], ids[9:10]).item() / math.log(2)
    assert len(short) == len(found) and short[9 - before][1] == pytest.approx(bits, abs=1e-4)
