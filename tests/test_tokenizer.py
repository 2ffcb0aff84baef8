"""bpe_tokenizer.py against its own plain form, tiktoken, tokenizers and the paper of Scaffold-BPE."""

import doctest
import json
import pickle
import random
import subprocess
import sys
import unicodedata
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path

import pytest
import regex
import tiktoken
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bpe_tokenizer as bpe
from bpe_tokenizer import PATTERNS, BPETokenizer, ScaffoldTokenizer, Splitter, TokenizerError

FEW = settings(max_examples=60, deadline=None, derandomize=True, database=None)
each_pattern = pytest.mark.parametrize("pattern", PATTERNS)


def characters(*ranges):
    points = chain.from_iterable(range(first, last + 1) for first, last in ranges)
    return [chr(c) for c in points if unicodedata.category(chr(c)) not in ("Cn", "Cs")]


ALPHABETS = {
    "ascii": [chr(c) for c in range(128)],
    "letters": list("aabbcdeAB é"),
    "planes": characters((0, 0x1FFFF), (0x20000, 0x200FF), (0xE0000, 0xE01EF)),
    "marks": characters((0x61, 0x61), (0x300, 0x330), (0x915, 0x94F), (0x64B, 0x65F)),
    "emoji": list("👩👨👧❤🏽🏳🌈1#*\u200d\ufe0f\u20e3\U0001f1e9\U0001f1ea\U000e0067"),
    "control": characters((0, 0x1F), (0x61, 0x61), (0x7F, 0xAE), (0x200B, 0x200F)),
    "space": list("  \n\r\t\x0b\x0c\x1c\x85\xa0\u2003\u2028\u3000a1;"),
    "mixed": list("ab'sStTlLvVeErRdDmM ' 12 ;.-\n\n\r  \t_éñßжя中文日本ひカ한글ไทยکتايم́ſK٣④"),
    "words": " the|low|er| don't| I'll|\n|\n\n    |x = 10|();\r\n| हिन्दी| 東京".split("|"),
}


def random_text(rng, name=None, most=40):
    return "".join(rng.choices(ALPHABETS[name or rng.choice([*ALPHABETS])], k=rng.randrange(most)))


def random_corpus(seed, size):
    """Words drawn unevenly, so that some pairs are frequent, some rare, and some tie."""
    rng, names = random.Random(seed), ("letters", "mixed", "words", "marks")
    words = [random_text(rng, rng.choice(names), 7) for _ in range(120)]
    picked = (rng.choice(words[: rng.randrange(1, 121)]) for _ in range(size // 5))
    return "".join(word + rng.choice(["", " ", " ", " ", "\n"]) for word in picked)


# A morning, told in as many scripts: the grandmother, the cat, three apples and twelve pears.
SCRIPTS = """Früh öffnete Großmutter das Fenster, und der Kater sprang. „Guten Tag“, sagte sie; im Korb lagen 3 Äpfel und 12 Birnen. Un garçon naïf mangea là-bas, l'œil fermé. Żółw zjadł gęś. Bà tôi mở cửa sổ: mèo đã nhảy mất!
בבוקר פתחה סבתא את החלון, והחתולה קפצה לגינה. "בוקר טוב!" אמרה. בַּסַּל הָיוּ 3 תפוחים ו־12 אגסים.
في الصباح فتحت الجدة النافذة، وقفزت القطة إلى الحديقة. قالت: «صباح الخير!» كان في السلة ٣ تفاحات و12 إجاصة. يَكْتُبُ مُحَمَّدٌ رِسَالَةً. گربه می‌خواهد برود؛ پرنده‌ها خواندند.
सुबह दादी ने खिड़की खोली और बिल्ली बगीचे में कूद गई। “शुभ प्रभात!” उन्होंने कहा। टोकरी में ३ सेब और 12 नाशपाती थीं। क्षमा, विज्ञान, श्रीमान् और क्‍ष की कहानी॥
ตอนเช้าคุณยายเปิดหน้าต่าง แมวก็กระโดดเข้าสวน "สวัสดี!" ยายพูด ในตะกร้ามีแอปเปิล ๓ ผล และลูกแพร์ 12 ผล น้ำใสไหลเย็น ต้นไม้ร่มรื่น
朝、おばあさんが窓を開けると、猫が庭へ飛び出した。「おはよう!」かごにはリンゴが3個、ナシが12個。ガラスの家でパーティー、ﾊﾝｶｸのネコゞ々。"""
SCRIPTS = [unicodedata.normalize(form, SCRIPTS) for form in ("NFC", "NFD")]
CORPUS = random_corpus(0, 30_000)
BYTE = {b: i for i, b in enumerate(bpe.BYTES)}


def cut(text, size):
    return [text[i : i + size] for i in range(0, len(text), size)]


def learn(text, vocab_size, kind=BPETokenizer, **options):
    return kind.train(text, vocab_size, progress=False, **options)


@pytest.fixture(scope="module", params=PATTERNS)
def tok(request):
    return learn(CORPUS, 800, pattern=request.param, special_tokens=["<|end|>"])


def to_peers(tok, folder):
    """tiktoken and tokenizers with the merges of tok."""
    tok.to_huggingface(folder / "tokenizer.json")
    return tok.to_tiktoken(), tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


TOKENIZERS = {
    "bytes": BPETokenizer(),
    "plain": learn(CORPUS, 900, special_tokens=["<|end|>", "<|"]),
    "scaffold": learn(CORPUS, 500, ScaffoldTokenizer, pattern="gpt2", special_tokens=["<s>"]),
    "allowed": learn(CORPUS, 310, pattern="gpt4", allowed_chars="abcdeé "),
    "order": BPETokenizer([(1, 0)], byte_order=range(255, -1, -1)),
}


def test_the_first_section_runs_by_itself_and_its_examples_hold():
    source = Path(bpe.__file__).read_text(encoding="utf-8")
    names = {"Counter": Counter, "pairwise": pairwise}
    exec(source[source.index("# BYTES[i]") : source.index(" 2 SPLIT")], names)
    words = ["low", " low", " lower", " lowest"]
    merges = names["train"](words, 262)
    assert [names["decode"](names["encode"](w, merges), merges) for w in words] == words
    assert len(merges) == 6 and names["decode"]([BYTE[0xC3]], []) == "\ufffd"
    assert doctest.testmod(bpe) == (0, 4)
    assert learn("low low lower", 259).encode(" lowest") == [258, 68, 82, 83]


@each_pattern
def test_merges_and_ids_equal_the_plain_form(pattern):
    text, split = random_corpus(1, 2_000), Splitter(pattern).split
    tok = learn(text, 256 + 80, pattern=pattern)
    assert tok.merges == bpe.train(split(text), 256 + 80)
    ids = [i for chunk in split(text) for i in bpe.encode(chunk, tok.merges)]
    assert tok.encode(text) == ids and bpe.decode(ids, tok.merges) == tok.decode(ids) == text


@FEW
@given(st.lists(st.text("ab", max_size=9), max_size=8), st.text("ab", max_size=40))
def test_runs_and_overlaps(chunks, text):
    trainer = bpe.Trainer(Counter(bytes(BYTE[ord(c)] for c in chunk) for chunk in chunks))
    trainer.learn(20)
    assert trainer.merges == bpe.train(chunks, 276)
    ranks = {pair: i for i, pair in enumerate(trainer.merges, 256)}
    assert bpe.apply_merges(bpe.encode(text, []), ranks) == bpe.encode(text, trainer.merges)


@each_pattern
def test_training_equals_tokenizers(pattern, tmp_path):
    text, theirs = random_corpus(100, 20_000), to_peers(BPETokenizer(pattern=pattern), tmp_path)[1]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    options = {"initial_alphabet": alphabet, "show_progress": False, "vocab_size": 700}
    theirs.train_from_iterator([text], tokenizers.trainers.BpeTrainer(**options))
    letters = {i: word for word, i in theirs.get_vocab().items()}
    merges = json.loads(theirs.to_str())["model"]["merges"]
    assert [[letters[a], letters[b]] for a, b in learn(text, 700, pattern=pattern).merges] == merges


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_ids_equal_tiktoken_and_tokenizers(tok, tmp_path, alphabet):
    rng, peers = random.Random(alphabet), to_peers(tok, tmp_path)
    texts = [random_text(rng, alphabet) for _ in range(200)]
    texts += [*SCRIPTS, "".join(rng.choices("abcde", k=20_000))]
    ids = [tok.encode(text) for text in texts]
    assert ids == peers[0].encode_ordinary_batch(texts)
    assert ids == [each.ids for each in peers[1].encode_batch(texts)]
    assert texts == [tok.decode(i) for i in ids]


def test_special_tokens_agree_and_from_tiktoken_recovers_the_merges(tok, tmp_path):
    peers, text = to_peers(tok, tmp_path), "one<|end|> two <|end|><|end|>\n é"
    ids = tok.encode(text, "all")
    assert ids == peers[0].encode(text, allowed_special="all") == peers[1].encode(text).ids
    assert tok.encode(text) == peers[0].encode(text, disallowed_special=())
    assert peers[1].decode(ids, skip_special_tokens=False) == text == tok.decode(ids)
    assert peers[1].decode(ids) == text.replace("<|end|>", "")
    assert peers[1].get_vocab_size() == tok.vocab_size == 800
    assert BPETokenizer.from_tiktoken(peers[0]).to_json() == tok.to_json()


def to_encoding(tokens, pattern, **special_tokens):
    """tiktoken with bytes numbered by value, as rustbpe does, and special tokens with gaps."""
    ranks = {bytes([b]): b for b in range(256)} | tokens
    options = {"mergeable_ranks": ranks, "special_tokens": special_tokens}
    return tiktoken.Encoding("x", pat_str=pattern, **options)


def test_from_tiktoken_with_another_byte_order_and_gaps(tok, tmp_path):
    tokens = {tok.token_bytes(i): i for i in range(256, 799)}
    theirs = to_encoding(tokens, tok.pattern, END=805, end=1000)
    ours, text = BPETokenizer.from_tiktoken(theirs), CORPUS[:3_000] + "END \n end"
    ids = theirs.encode(text, allowed_special="all")
    assert ours.encode(text) == theirs.encode_ordinary(text) and ours.vocab_size == 1001
    assert ours.encode(text, "all") == ids and ours.decode(ids) == text
    assert to_peers(ours, tmp_path)[1].encode(text).ids == ids
    with pytest.raises(TokenizerError, match="900"):
        ours.decode([900])


@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "o200k_base"])
def test_the_patterns_of_openai(name, monkeypatch):
    """Their package's own, with a few tokens, since the real ones would need the network."""
    public, rng = pytest.importorskip("tiktoken_ext.openai_public"), random.Random(name)
    monkeypatch.setattr(public, "load_tiktoken_bpe", lambda *_, **__: {})
    monkeypatch.setattr(public, "data_gym_to_mergeable_bpe_ranks", lambda *_, **__: range(50256))
    pattern = getattr(public, name)()["pat_str"]
    tokens = {b"th": 256, b" th": 257, b"  ": 258, b"in": 259, b"ing": 260}
    theirs, ours = to_encoding(tokens, pattern), {"gpt2": "gpt2", "cl100k_base": "gpt4"}.get(name)
    tok = BPETokenizer.from_tiktoken(theirs)
    for text in [random_text(rng, alphabet) for alphabet in list(ALPHABETS) * 60]:
        # "." because newer packages keep white space at the very end of a text together
        assert not ours or Splitter(ours).split(text + ".") == regex.findall(pattern, text + ".")
        monkeypatch.setattr(bpe, "BLOCK", rng.choice([3, 9, 8192]))
        assert tok.encode(text) == theirs.encode_ordinary(text), repr(text)


def test_what_cannot_be_taken_over_is_refused(tmp_path):
    for tokens in ({b"abc": 256}, {b"": 256}, {b"ab": 257}, {b"ab": 256, b"xyz": 257}):
        with pytest.raises(TokenizerError, match="not a merge"):
            BPETokenizer.from_tiktoken(to_encoding(tokens, "."))
    for special in ("the", "Ġ"):
        tok = learn("the the the", 260, special_tokens=[special])
        with pytest.raises(TokenizerError, match="special"):
            tok.to_huggingface(tmp_path / "tokenizer.json")
    with pytest.raises(TokenizerError, match="misreads"):
        BPETokenizer(pattern=r"\p{N}{1,3}+|[\s\S]").to_huggingface(tmp_path / "tokenizer.json")
    with pytest.raises(TokenizerError, match="ASCII"):
        TOKENIZERS["allowed"].to_tiktoken()
    with pytest.raises(TokenizerError, match="scaffold"):
        TOKENIZERS["scaffold"].to_huggingface(tmp_path / "tokenizer.json")


@each_pattern
def test_split_is_the_pattern(pattern):
    """Also for ASCII text, which Python's own re splits."""
    rng, splitter, compiled = random.Random(5), Splitter(pattern), regex.compile(PATTERNS[pattern])
    texts = [random_text(rng, name) for name in list(ALPHABETS) * 100]
    texts += [random_text(rng, "ascii", 9) for _ in range(3_000)]
    places = ("{}", " {}x", "a{}{}b ", "'{}", "1{}2", " \n{} \n", ".{}.\r\n", "\u200d{}\u0301")
    for place in places:
        texts += [place.replace("{}", c) for c in ALPHABETS["ascii"] + ALPHABETS["mixed"]]
    for text in texts:
        chunks = splitter.split(text)
        assert chunks == compiled.findall(text) and "".join(chunks) == text, ascii(text)


@each_pattern
def test_blocks_cut_anywhere_split_as_the_whole(pattern, monkeypatch):
    rng, splitter = random.Random(3), Splitter(pattern)
    for _ in range(1_000):
        text = random_text(rng, rng.choice(["mixed", "space", "words", "emoji", "marks"]), 30)
        monkeypatch.setattr(bpe, "BLOCK", rng.choice([1, 2, 3, 5, 8, 30]))
        blocks = cut(text, rng.randint(1, 12))
        assert [*chain(*splitter.split_blocks(blocks))] == splitter.split(text), repr(blocks)


def test_blocks_train_and_encode_as_the_whole_and_are_read_one_by_one(tok, monkeypatch):
    ids, merges = tok.encode(CORPUS), learn(CORPUS, 400, pattern=tok.pattern).merges
    monkeypatch.setattr(bpe, "BLOCK", 64)
    for size in (7, 5_000):
        blocks = cut(CORPUS, size)
        assert [*chain(*tok.encode_blocks(iter(blocks)))] == ids
        assert learn(iter(blocks), 400, pattern=tok.pattern).merges == merges

    blocks = iter(["some words " * 2_000] * 100)
    next(tok.encode_blocks(blocks))
    assert len([*blocks]) == 99


def test_a_chunk_longer_than_many_blocks_is_rescanned_a_few_times(monkeypatch):
    monkeypatch.setattr(bpe, "BLOCK", 100)
    splitter, scanned = Splitter(), []
    split = splitter.split
    splitter.split = lambda text: scanned.append(len(text)) or split(text)
    assert [*chain(*splitter.split_blocks("a" * 100_000))] == ["a" * 100_000]
    assert sum(scanned) < 500_000


def test_default_does_not_cut_a_word_at_its_marks():
    for text in SCRIPTS:
        words = regex.findall(r"\p{L}[\p{L}\p{M}\u200c\u200d]*", text)
        bare = [regex.sub(r"^[^\p{L}\p{N}]", "", chunk) for chunk in Splitter().split(text)]
        assert words == [chunk for chunk in bare if regex.match(r"\p{L}", chunk)]


@FEW
@given(st.text() | st.randoms().map(random_text), st.binary())
def test_every_text_and_all_bytes_have_ids(text, data):
    for tok in TOKENIZERS.values():
        ids = tok.encode(text)
        assert tok.decode(ids, errors="strict") == text
        assert all(0 <= i < tok.vocab_size for i in ids)
        ids = [tok.byte_order.index(b) for b in data]
        assert tok.decode_bytes(ids) == data and tok.decode(ids) == data.decode("utf-8", "replace")


def test_ids_in_any_container_known_or_not(tok):
    ids = tok.encode("low lower")
    for same in (tuple(ids), iter(ids), torch.tensor(ids), torch.tensor(ids).numpy()):
        assert tok.decode(same) == "low lower"
    ids.append(0)  # the caller's own list
    assert tok.encode("low lower") == ids[:-1]
    again = pickle.loads(pickle.dumps(tok))
    again._cache = dict.fromkeys(range(1 << 18 | 1), [0])  # full
    assert again.encode(CORPUS) == tok.encode(CORPUS) and len(again._cache) < 10_000
    for bad in (-1, 800, 10**30, "1", None, 1.5, [1]):
        with pytest.raises(TokenizerError, match="unknown id"):
            tok.decode([1, bad, 2])


def test_what_is_not_text_is_refused(tok):
    for text in ("abc\udfff", "é\ud83d "):
        with pytest.raises(TokenizerError, match="not Unicode"):
            tok.encode(text)
    with pytest.raises(TokenizerError, match="not Unicode"):
        learn(["a\ud83d", "\ude00b"], 300)
    with pytest.raises(TokenizerError, match="skips"):
        Splitter(r"\w+").split("some text")
    for text in (b"abc", None, 3):
        with pytest.raises(TypeError):
            tok.encode(text)


def test_special_tokens_in_a_text_are_plain_text_unless_allowed():
    tok = learn(CORPUS, 600, special_tokens=["<|end|>", "<|end|>!", ".*"])
    assert [*tok.special_tokens.values()] == [597, 598, 599]
    text = "a<|end|>!b.*<|end|>"
    plain, a, b = tok.encode(text), tok.encode("a"), tok.encode("b")
    assert max(plain) < 597 and tok.decode(plain) == text
    assert tok.encode(text, "all") == [*a, 598, *b, 599, 597]  # the longest one wins
    assert tok.encode(text, ["<|end|>"]) == [*a, 597, *tok.encode("!b.*"), 597]
    assert tok.encode("", "all") == [] and tok.decode(tok.encode(text, "all")) == text
    assert [*chain(*tok.encode_blocks([text]))] == plain


def test_only_allowed_chars_are_merged():
    text = CORPUS[:6_000]
    tok = learn(text, 290, allowed_chars="abcde é")
    runs = [r for c in Splitter().split(text) for r in regex.findall("[abcde é]+", c)]
    assert tok.merges == bpe.train(runs, 290)
    assert tok.encode("èb") == [BYTE[0xC3], BYTE[0xA8], BYTE[ord("b")]]  # shares a byte with é
    assert tok.encode("abxab") == [*tok.encode("ab"), BYTE[ord("x")], *tok.encode("ab")]
    with pytest.warns(UserWarning):
        assert learn(CORPUS, 400, allowed_chars="").vocab_size == 256
    exported, rng = learn(CORPUS, 290, allowed_chars="abcde "), random.Random(9)
    for text in [random_text(rng) for _ in range(200)]:
        assert exported.encode(text) == exported.to_tiktoken().encode_ordinary(text)


def test_a_text_with_too_few_pairs_gives_a_smaller_vocabulary_and_a_warning():
    for text, size in (("", 256), ("a", 256), ("aaaa", 258), (["", ""], 256)):
        with pytest.warns(UserWarning, match=f"{size + 1} tokens, not 1000"):
            tok = learn(text, 1000, special_tokens=["<e>"])
        assert tok.vocab_size == size + 1 and tok.special_tokens == {"<e>": size}


def test_bad_options_are_refused_before_the_text_is_read():
    unread = iter(lambda: pytest.fail("the text was read"), None)
    bad = [("vocab_size", value) for value in (255, -1, 300.0, True)]
    bad += [("special_tokens", value) for value in (["<a>"] * 2, [""], "<a>", [3], {"a": 1})]
    bad += [("pattern", value) for value in ("(", r"(\w+)|.", "", None)]
    for name, value in [*bad, ("byte_order", [0] * 256), ("special_tokens", [*"abcdef"])]:
        with pytest.raises(TokenizerError):
            learn(unread, **{"vocab_size": 260, name: value})


def plain_scaffold_train(words, n_kept):
    """Algorithm 1 of arXiv:2404.17808 (comments: its lines), counting everything anew."""
    merges, scaffolds = [], set()

    def count(items_of):
        counts = Counter()
        for ids, n in words:
            counts.update({item: k * n for item, k in Counter(items_of(ids)).items()})
        return counts

    def queue():  # 3, 14, 20
        tokens = count(iter)
        return +(count(pairwise) + Counter({(t, 1 << 60): tokens[t] for t in scaffolds}))

    while len(merges) - len(scaffolds) < n_kept and (q := queue()):  # 4
        head = min(q, key=lambda item: (-q[item], item))  # 5
        if head[1] == 1 << 60:  # 7 to 11
            scaffolds.remove(head[0])
            continue
        new = 256 + len(merges)
        words = [(bpe.merge(ids, head, new), n) for ids, n in words]  # 6, 13
        merges.append(head)  # 12
        tokens, best = count(iter), max(queue().values(), default=0)
        scaffolds |= {t for t in {*head} - scaffolds if t >= 256 and tokens[t] < best}  # 16 to 22
    return merges, scaffolds


def scaffold_train(counts, n_kept):
    words = {bytes(map(BYTE.get, text.encode())): n for text, n in counts.items()}
    trainer = bpe.ScaffoldTrainer(words)
    trainer.learn(n_kept)
    expected = plain_scaffold_train([([*ids], n) for ids, n in words.items()], n_kept)
    assert (trainer.merges, trainer.scaffolds) == expected
    return expected


@FEW
@given(st.dictionaries(st.text("abc", max_size=8), st.integers(1, 30)), st.integers(0, 12))
def test_scaffolds_equal_the_algorithm(counts, n_kept):
    scaffold_train(counts, n_kept)


def test_the_example_of_the_paper():
    """Its figure of the iteration that makes "Arizona", with the frequencies given there."""
    counts = {"Arizona": 43599, "Ari": 29421, "zona": 5346, "Pa": 43598, "In": 43597, "lo": 43576}

    def shown(n, text):
        merges, scaffolds = scaffold_train(counts, n)
        tok = ScaffoldTokenizer(merges, scaffolds=scaffolds)
        return " ".join(tok.token_bytes(i).decode() for i in tok.encode(text)), len(scaffolds)

    assert shown(4, "Arizona") == ("Arizona", 5) and shown(4, "Pa") == ("Pa", 5)
    assert shown(4, "Ari") == ("A r i", 5)  # rarer on its own than "Pa"
    assert shown(5, "Ari") == ("Ari", 4) and shown(5, "zona") == ("z o n a", 4)  # again a token
    assert shown(6, "zona") == ("zona", 3) == shown(99, "zona")


def test_a_scaffold_is_taken_apart_into_the_longest_tokens():
    merges = [(64, 65), (256, 66), (66, 67), (257, 258)]  # ab, abc, cd, abccd
    tok = ScaffoldTokenizer(merges, pattern=r"[\s\S]+", scaffolds=[259, 257])
    assert [tok.token_bytes(i) for i in tok.encode("abccd")] == [b"ab", b"c", b"cd"]
    tok = TOKENIZERS["scaffold"]
    assert tok.vocab_size == 500 == 257 + len(tok.merges) - len(tok.scaffolds) and tok.scaffolds
    assert tok.merges == learn(CORPUS, 256 + len(tok.merges), pattern="gpt2").merges


@pytest.mark.parametrize("tok", TOKENIZERS.values(), ids=TOKENIZERS)
def test_save_and_load_keep_everything(tok, tmp_path):
    tok.save(tmp_path / "tok.json")
    again, text = BPETokenizer.load(tmp_path / "tok.json"), CORPUS + "".join(ALPHABETS["control"])
    assert type(again) is type(tok) and again.to_json() == tok.to_json()
    assert again.encode(text + "<|end|>", "all") == tok.encode(text + "<|end|>", "all")
    assert [p.name for p in tmp_path.iterdir()] == ["tok.json"]


OLD_FILE = {"format": "bpe-tokenizer", "version": 1, "pattern": PATTERNS["default"]}
OLD_FILE |= {"special_tokens": {"<e>": 258}, "allowed_chars": None, "byte_order": [*bpe.BYTES]}
OLD_FILE |= {"scaffolds": [], "merges": [[0, 1], [256, 2]]}
BAD_FIELDS = """format "other" | null | 1
version 2 | 0 | "1" | null
pattern "(" | "(a)" | "" | null | 5 | ["a"]
special_tokens {"<e>": 257} | {"<e>": 258, "<f>": 258} | {"<e>": "258"} | {"<e>": 1.5} | {"": 258} | 5 | null
special_tokens {"<e>": 1000000000000}
allowed_chars 5 | [[]]
byte_order [0, 1] | [1.5] | 1000000000000 | "abc"
scaffolds [255] | [258] | ["256"] | [[256]] | 5 | [256, 256]
merges [[0, 1], [257, 2]] | [[-1, 1]] | [[0, 1.0]] | [[0]] | [[0, 1, 2]] | ["01"] | [0, 1] | 5 | null"""


def test_foreign_and_damaged_files_are_refused(tmp_path):
    path, whole = tmp_path / "tok.json", json.dumps(OLD_FILE)
    path.write_text(whole)
    assert type(BPETokenizer.load(path)) is BPETokenizer
    bad = ["", "{", "[]", "null", "[" * 100_000, whole[:99], whole[:-1], "\x80\x04K"]
    for field, values in (line.split(" ", 1) for line in BAD_FIELDS.splitlines()):
        bad += [json.dumps(OLD_FILE | {field: json.loads(value)}) for value in values.split(" | ")]
        if field != "scaffolds":  # plain files have none
            bad.append(json.dumps({name: OLD_FILE[name] for name in OLD_FILE if name != field}))
    merges = [[0, 0], *([i, i] for i in range(256, 320))]  # 2 ** 65 bytes
    for data in (*bad, json.dumps(OLD_FILE | {"merges": merges})):
        path.write_text(data, "latin-1")
        with pytest.raises(TokenizerError, match=r"tok.json is not a tokenizer file.*") as error:
            BPETokenizer.load(path)
        assert "\n" not in str(error.value), data


@pytest.mark.parametrize("step", ["write_text", "replace"])
def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch, step):
    TOKENIZERS["plain"].save(tmp_path / "tok.json")
    monkeypatch.setattr(Path, step, lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        TOKENIZERS["bytes"].save(tmp_path / "tok.json")
    assert BPETokenizer.load(tmp_path / "tok.json").vocab_size == 900


def test_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_bytes((CORPUS + "\r\n\r").encode())
    args = ["text.txt", "--out", "tok.json", "--vocab-size", "500", "--special", "<e>", "<f>"]
    command = [sys.executable, "-X", "importtime", bpe.__file__, *args]
    done = subprocess.run(command, capture_output=True, text=True)
    imported = {line.split()[-1] for line in done.stderr.splitlines() if "import time:" in line}
    assert done.returncode == 0 and "500 tokens" in done.stdout and "regex" in imported
    assert not imported & {"tiktoken", "tokenizers", "torch"}
    expected = learn(CORPUS + "\r\n\r", 500, special_tokens=["<e>", "<f>"])
    assert Path("tok.json").read_text() == expected.to_json()
    Path("latin1.txt").write_bytes("caf\xe9 ".encode("latin-1") * 9)
    for case in "no.txt x 300|. x 300|latin1.txt x 300|text.txt no/x 257|text.txt x 100".split("|"):
        file, out, size = case.split()
        with pytest.raises(SystemExit) as ended:
            bpe.main(file, out, int(size))
        assert file in ended.value.code and "\n" not in ended.value.code and not Path("x").exists()
