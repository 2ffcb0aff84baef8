"""What the grammar asks and what a model pays, piece by piece: nothing is lost, nothing is counted twice."""

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "data")]

import stories as maker  # noqa: E402
import surprise  # noqa: E402

import v4_gqa_swiglu as v4  # noqa: E402
from bpe_tokenizer import BPETokenizer  # noqa: E402

TEXT = (ROOT / "input.txt").read_text("utf-8")


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train(TEXT[:50_000], 400, progress=False)


def make_model(tokenizer):
    torch.manual_seed(1)
    cfg = v4.Config(n_layer=1, n_embd=16, n_head=2, n_kv_head=1, d_ff=16)
    return v4.LanguageModel(cfg, tokenizer.vocab_size).eval()


def test_pieces_hold_all_of_the_story_and_all_bits(tokenizer):
    model = make_model(tokenizer)
    for story in surprise.validation_stories(TEXT, 3):
        pieces = surprise.compare(model, tokenizer, story, 32)
        assert "".join(piece["text"] for piece in pieces) == story
        asked = sum(bits for _, _, bits, _ in maker.parse(story + "\n"))
        assert sum(piece["grammar"] for piece in pieces) == pytest.approx(asked)
        paid = sum(bits for _, bits in surprise.token_bits(model, tokenizer, story, 32))
        assert sum(piece["model"] for piece in pieces) == pytest.approx(paid)


def test_every_token_is_scored_once_with_enough_before_it(tokenizer):
    model, story = make_model(tokenizer), surprise.validation_stories(TEXT, 1)[0]
    ids = torch.tensor(tokenizer.encode(maker.SEPARATOR + story))
    before = len(tokenizer.encode(maker.SEPARATOR))
    logits, _ = model(ids[None, :-1])
    whole = F.cross_entropy(logits[0], ids[1:], reduction="none")[before - 1 :] / math.log(2)
    found = surprise.token_bits(
        model, tokenizer, story, len(ids)
    )  # one window: the whole story is seen
    assert [bits for _, bits in found] == pytest.approx(whole.tolist(), abs=1e-4)
    assert found[-1][0] == len(story.encode())
    assert len(surprise.token_bits(model, tokenizer, story, 8)) == len(found)


def test_stories_are_whole_and_of_the_validation_split():
    found = surprise.validation_stories(TEXT, 5)
    assert len(found) == 5
    assert all(TEXT.index(story) >= maker.train_characters(TEXT) for story in found)
