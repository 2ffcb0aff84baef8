"""Texts of any length in bounded memory: read, learned from, encoded and evaluated a part at a time, exactly."""

import importlib
import os
import platform
import random
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from test_runs import NAMES, TEXT, cached, call, every_version, flags, metrics, quiet, small, token_versions

from bpe_tokenizer import BPETokenizer

ROOT = Path(__file__).resolve().parents[1]
rng = random.Random(5)
TEXTS = {
    "words": TEXT,
    "one line": TEXT.replace("\n", " "),
    "one word": "".join(rng.choices("abcdé", k=9000)),
    "white space": "a" + " " * 900 + "\n" * 700 + " \t\r\n" * 200 + "b  c\r",
    "many scripts": "Слово 言葉 كلمة λόγος 🦊 \u0301e\u200d 12345 it's\r\n" * 60,
    "marks inside": "\ufeff" + "a \ufeffb \ufeff" * 300,
    "nothing known": "".join(rng.choices("aé言🦊\u0301\u200d 1'.\r\n\t", k=4000)),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder with a text to learn from, as the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    write(TEXT)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of texts that hold no more pairs
        yield tmp_path
    torch.set_num_threads(threads)


def write(text):
    Path("text.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("block", [7, 1000])
@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("name", NAMES[2:4])  # the others' section is v3's, byte for byte
def test_blocks_change_nothing(name, kind, block, monkeypatch):
    """Wherever a text is cut for reading, its merges and its ids are those of the text as a whole."""
    module, text = importlib.import_module(name), TEXTS[kind].removeprefix("\ufeff")
    monkeypatch.setattr(module, "BLOCK", block)
    write(TEXTS[kind])
    cut = len(text) * 9 // 10
    tokenizer = BPETokenizer.train(text[:cut], 300, progress=False)
    for given in (None, tokenizer):  # encoded, and then from the cache
        corpus = module.load_corpus(module.Config(data="text.txt", vocab_size=300, block_size=1), given)
        assert corpus.tokenizer.merges == tokenizer.merges
        assert corpus.train.tolist() == tokenizer.encode(text[:cut])
        assert corpus.val.tolist() == tokenizer.encode(text[:cut])[-1:] + tokenizer.encode(text[cut:])
        assert (corpus.train_bytes, corpus.val_bytes) == (len(text[:cut].encode()), len(text[cut:].encode()))


@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\xa6"])
def test_place_of_a_bad_byte(head, bad, monkeypatch):
    """The message names the byte that Python's own decoder names, also where a block ends inside a character."""
    module = importlib.import_module("v2_bpe_rope")
    monkeypatch.setattr(module, "BLOCK", 1000)
    for before, after in [(n, m) for n in (0, 1, 997, 998, 999, 1000, 8191, 8192, 30_000) for m in (0, 1, 30_000)]:
        raw = head + b"x" * before + bad + b"y" * after
        with pytest.raises(UnicodeDecodeError) as expected:
            raw.decode()
        write(raw)
        with pytest.raises(module.Halt, match=rf"not UTF-8 \(byte {expected.value.start}\);"):
            module.load_corpus(module.Config(data="text.txt"))


@token_versions
def test_tokenizer_learns_from_the_beginning(name, monkeypatch):
    """From whole blocks that hold no more than LEARN_BYTES, and from nothing of the validation split."""
    module = importlib.import_module(name)
    monkeypatch.setattr(module, "BLOCK", 100)
    cut = len(TEXT) * 9 // 10
    for limit in (1000, len(TEXT.encode()) - 200, 10**9):
        monkeypatch.setattr(module, "LEARN_BYTES", limit)
        n = min(cut, max(n for n in [*range(0, len(TEXT), 100), len(TEXT)] if len(TEXT[:n].encode()) <= limit))
        corpus = module.load_corpus(module.Config(data="text.txt", vocab_size=300, block_size=8))
        assert corpus.tokenizer.merges == BPETokenizer.train(TEXT[:n], 300, progress=False).merges


@token_versions
@pytest.mark.parametrize("n_bytes, learned", [(4_000, 512), (256 * 700 + 255, 700), (256 * 4_200, 4096)])
def test_vocabulary_follows_the_text(name, n_bytes, learned, monkeypatch):
    """Where none is asked for, one token per 256 bytes of the whole file, 512 to 4096; what is asked for stays."""
    module, asked = importlib.import_module(name), []
    write("äö ".encode().ljust(5) * (n_bytes // 5) + b"a" * (n_bytes % 5))
    known = BPETokenizer.train("äö äö äö", 259, progress=False)
    monkeypatch.setattr(BPETokenizer, "train", lambda text, vocab_size, **_: asked.append(vocab_size) or known)
    module.load_corpus(module.Config(data="text.txt"))
    module.load_corpus(module.Config(data="text.txt", vocab_size=300))
    assert asked == [learned, 300]


# ----------------------------------------------------------------------------------------------------------- the cache


@token_versions
def test_changed_tokenizer_is_noticed(name):
    """Tokenizers that differ in one part each have files of their own, with the ids that each gives."""
    module = importlib.import_module(name)
    write("一丁一丁 ab ab abc cab " * 90)
    learned = BPETokenizer.train("一一一 ab ab abc abc", 264, progress=False)
    parts = {"merges": learned.merges, "pattern": "default", "special_tokens": (), "allowed_chars": None}
    parts |= {"scaffolds": (), "byte_order": bytes(learned.byte_order)}
    changes = [{}, {"merges": learned.merges[:-1]}, {"pattern": "gpt2"}, {"allowed_chars": "一ab"}]
    changes += [{"scaffolds": [256]}, {"special_tokens": {"<end>": 70_000}}, {"allowed_chars": ""}]
    changes += [{"byte_order": bytes(range(256))}]
    text = Path("text.txt").read_text(encoding="utf-8")
    for number, change in enumerate(changes, 1):
        tokenizer = BPETokenizer(**parts | change)
        corpus = module.load_corpus(module.Config(data="text.txt", block_size=8), tokenizer)
        assert corpus.train.tolist() == tokenizer.encode(text[: len(text) * 9 // 10]), change
        assert len(cached()) == 2 * number, change


@token_versions
def test_caching_that_is_cut_off_leaves_nothing(name, monkeypatch, capsys):
    """In the middle of the text, by Ctrl-C or by a text that changes meanwhile."""
    module = importlib.import_module(name)
    monkeypatch.setattr(module, "BLOCK", 500)
    whole = module.BPETokenizer.encode_blocks

    def encode_blocks(self, blocks):
        for number, ids in enumerate(whole(self, blocks)):
            yield ids
            if number == stop:
                raise KeyboardInterrupt

    write(TEXT * 30)
    stop = 1
    with monkeypatch.context() as patch:
        patch.setattr(module.BPETokenizer, "encode_blocks", encode_blocks)
        assert call(module, flags(small(name)), capsys)[0] == 130
        assert Path("runs/cache").exists() and not cached()
        stop = -1
        assert call(module, flags(small(name)), capsys)[0] == 0
    assert len(cached()) == 2


def test_two_that_cache_the_same_at_once(monkeypatch):
    """One process begins and finishes a file while another one is at it."""
    module = importlib.import_module("v2_bpe_rope")
    cfg, texts = module.Config(data="text.txt", vocab_size=300, block_size=8), []
    expected = module.load_corpus(cfg)
    for path in Path("runs/cache").iterdir():
        path.unlink()
    whole = module.BPETokenizer.encode_blocks

    def encode_blocks(self, blocks):
        texts.append(1)
        for ids in whole(self, blocks):
            if len(texts) == 1:
                with monkeypatch.context() as patch:
                    patch.setattr(os, "getpid", lambda: 1)
                    texts.append(1)
                    assert module.load_corpus(cfg).train.tolist() == expected.train.tolist()
            yield ids

    monkeypatch.setattr(module.BPETokenizer, "encode_blocks", encode_blocks)
    assert module.load_corpus(cfg).train.tolist() == expected.train.tolist()
    assert len(texts) == 4 and len(cached()) == 2


# ---------------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("limit", [2, 50, 51, 52, 10**6])
@every_version
def test_first_megabyte(name, limit, monkeypatch):
    """As many whole tokens as fit, and exactly their bytes."""
    module = importlib.import_module(name)
    write(TEXT + "é言🦊" * 100)
    wanted = {"data": "text.txt", "block_size": 8} | ({"vocab_size": 300} if name[1] >= "2" else {})
    corpus = module.load_corpus(module.Config(**wanted))
    monkeypatch.setattr(module, "EVAL_BYTES", limit)
    tokens, n_bytes = module.first_megabyte(corpus)
    sizes = [len(corpus.tokenizer.token_bytes(i)) for i in corpus.val.tolist()]
    n = len(tokens) - 1
    assert np.array_equal(tokens, corpus.val[: n + 1]) and n_bytes == sum(sizes[1 : n + 1]) <= limit
    assert n_bytes == corpus.val_bytes if limit == 10**6 else n_bytes + sizes[n + 1] > limit
    assert sum(sizes[1:]) == corpus.val_bytes


@every_version
def test_training_looks_at_a_part_and_ends_with_the_whole(name, monkeypatch, capsys):
    module = importlib.import_module(name)
    monkeypatch.setattr(module, "EVAL_BYTES", 60)
    status, out, err = call(module, flags(small(name, out="run")), capsys)
    assert (status, err) == (0, [])
    run = module.load_run("run")
    corpus = module.load_corpus(run.cfg, run.tokenizer)
    part = module.evaluate(run.model, *module.first_megabyte(corpus), 8)
    whole = module.evaluate(run.model, corpus.val, corpus.val_bytes, 8)
    assert part["tokens"] < whole["tokens"] / 3
    best = min(metrics("run"), key=lambda row: float(row["val_loss"]))  # best.pt is the best on that part
    assert float(best["val_loss"]) == pytest.approx(part["nats_per_token"], rel=1e-5)
    assert float(best["val_bits_per_byte"]) == pytest.approx(part["bits_per_byte"], rel=1e-5)
    said = f"{whole['bits_per_byte']:.4f} bits/byte over {whole['tokens']:,} tokens"
    assert said in out and said in call(module, ["eval", "--out", "run"], capsys)[1]


# -------------------------------------------------------------------------------------------------------------- memory


@token_versions
def test_memory_does_not_grow_with_the_text(name, monkeypatch):
    """Reading, learning and encoding hold less than the text itself, of which no more than LEARN_BYTES are learned."""
    module = importlib.import_module(name)
    monkeypatch.setattr(module, "LEARN_BYTES", 10**6)
    write(TEXT * (4 * 10**6 // len(TEXT)))
    tracemalloc.start()
    try:
        corpus = module.load_corpus(module.Config(data="text.txt", vocab_size=300, block_size=8))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(corpus.train) > 10**6 and peak < 3 * 10**6  # ids lie in the cache file


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="no figure for a process of its own")
def test_memory_benchmark(tmp_path):
    """A short form runs, and its figure can be written down."""
    argv = [sys.executable, str(ROOT / "benchmarks" / "memory.py"), "--megabytes", "2", "--record", "figures.md"]
    result = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, env=quiet(), timeout=1200)
    assert result.returncode == 0, result.stderr
    name, megabytes, model, first, again = map(str.strip, result.stdout.splitlines()[2].strip("|").split("|"))
    assert (name, megabytes) == ("v2_bpe_rope", "2") and int(model) > 50 and max(int(first), int(again)) < 150
    worst = max(0, int(first), int(again))
    row = f"text of 2 MB, v2_bpe_rope | {worst} MB | `python benchmarks/memory.py --megabytes 2"
    assert row in Path("figures.md").read_text()


# --------------------------------------------------------------------------------------------------- what a step frees

FAULTS = """
import importlib, resource, sys, torch
settings, kept = eval(sys.argv[2]), sys.argv[3] == "kept"
module = importlib.import_module(sys.argv[1])
if not kept:
    module.keep_memory = lambda: None
module.train(module.Config(**settings))
for n in range(20):
    if n == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(9 * 2**20) for _ in range(2)]  # 36 MiB each, more than glibc ever keeps by itself
print("faults", resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is kept is glibc's to say")
@pytest.mark.parametrize(("name", "kept"), [*((name, "kept") for name in NAMES), (NAMES[-1], "given back")])
def test_a_training_keeps_the_memory_that_its_steps_free(name, kept):
    """Twenty tensors of 36 MiB: without keep_memory each faults in its pages anew, 18 huge ones or 9,216 small ones."""
    command = [sys.executable, "-c", FAULTS, name, repr(small(name)), kept]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    faults = int(done.stdout.split("faults")[-1])
    assert faults < 200 if kept == "kept" else faults > 300
