"""How fast is bpe_tokenizer.py, next to compiled tokenizers on the same text, in one run?

    python benchmarks/tokenizer.py [--prose FILE] [--code-mb 20] [--runs 5]

Prose is 3.6 MB made of --prose (default: input.txt, whose words are varied so that a longer text also has
more distinct words); source code is gathered from this Python's own library and packages. Every trainer
gets the same blocks, the same pattern and vocabulary size. The blocks end between a word and a space, where
every pattern starts a new chunk, so all trainers see the same chunks and should find the same merges. Runs
alternate between the libraries, and the medians are compared: read the ratios, not the seconds. A library
that is not installed is left out.
"""

import argparse
import random
import re
import statistics
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from report import RESULTS, ROOT, save

sys.path.insert(0, str(ROOT))

from bpe_tokenizer import PATTERNS, BPETokenizer

PATTERN = "default"


def make_prose(path, size):
    """`size` characters from the file's text, repeated; later on, one word in fifty is changed."""
    rng, text = random.Random(0), Path(path).read_text("utf-8")
    out = text[:size]
    while len(out) < size:
        out += re.sub(
            r"\w+", lambda m: m[0] + rng.choice("aeinrst") if rng.random() < 0.02 else m[0], text
        )
    return out[:size]


def gather_code(size):
    """`size` characters of Python source from the standard library, then from the installed packages."""
    parts, total = [], 0
    for root in (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]):
        for path in sorted(Path(root).rglob("*.py")):
            if "site-packages" in path.parts and root == sysconfig.get_paths()["stdlib"]:
                continue
            try:
                parts.append(path.read_text("utf-8"))
            except (OSError, UnicodeDecodeError):
                continue
            total += len(parts[-1])
            if total >= size:
                return "".join(parts)[:size]
    return "".join(parts)


def cut(text, size=100_000):
    """Blocks of about `size` characters that end after a letter, before a space and another letter."""
    blocks, start = [], 0
    boundary = re.compile(r"(?<=[a-z]) (?=[a-z])")
    while start < len(text):
        found = boundary.search(text, start + size)
        end = found.start() if found else len(text)
        blocks.append(text[start:end])
        start = end
    return blocks


def peer_trainers():
    """name -> a function of (blocks, vocab_size), for each peer that is installed."""
    trainers = {}
    try:
        import tokenizers

        def huggingface(blocks, vocab_size):
            pre = tokenizers.pre_tokenizers
            tok = tokenizers.Tokenizer(tokenizers.models.BPE())
            split = pre.Split(tokenizers.Regex(PATTERNS[PATTERN]), "isolated")
            tok.pre_tokenizer = pre.Sequence(
                [split, pre.ByteLevel(add_prefix_space=False, use_regex=False)]
            )
            trainer = tokenizers.trainers.BpeTrainer(
                vocab_size=vocab_size,
                initial_alphabet=pre.ByteLevel.alphabet(),
                show_progress=False,
            )
            tok.train_from_iterator(blocks, trainer)
            return tok

        trainers["tokenizers"] = huggingface
    except ImportError:
        print("tokenizers is not installed: left out")
    try:
        import rustbpe

        def rust(blocks, vocab_size):
            tok = rustbpe.Tokenizer()
            tok.train_from_iterator(iter(blocks), vocab_size, pattern=PATTERNS[PATTERN])
            return tok

        trainers["rustbpe"] = rust
    except ImportError:
        print("rustbpe is not installed: left out")
    return trainers


def peer_encoders(tok):
    """name -> a function of text giving ids, with the merges of `tok`."""
    encoders = {}
    try:
        import tokenizers

        with tempfile.TemporaryDirectory() as folder:
            tok.to_huggingface(Path(folder) / "tokenizer.json")
            theirs = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        encoders["tokenizers"] = lambda text: theirs.encode(text).ids
    except ImportError:
        pass
    try:
        encoders["tiktoken"] = tok.to_tiktoken().encode_ordinary
    except ImportError:
        print("tiktoken is not installed: left out")
    return encoders


def medians(jobs, runs):
    """{name: function} -> {name: median seconds}; the jobs take turns, a slow moment hits them all."""
    seconds = {name: [] for name in jobs}
    for _ in range(runs):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def training(text, vocab_size, runs):
    """A tokenizer, and {name: seconds} to learn it."""
    blocks, trained = cut(text), {}

    def ours():
        trained["tok"] = BPETokenizer.train(blocks, vocab_size, pattern=PATTERN, progress=False)

    peers = {peer: lambda f=f: f(blocks, vocab_size) for peer, f in peer_trainers().items()}
    return trained, medians({"ours": ours} | peers, runs)


def encoding(tok, text, runs):
    """{name: MB/s} of encoding a text. Raises AssertionError if a peer gives other ids."""
    peers, ids = peer_encoders(tok), tok.encode(text)
    for peer, encode in peers.items():
        assert encode(text) == ids, f"{peer} gives other ids"

    def cold():
        tok._cache.clear()
        tok.encode(text)

    jobs = {"ours, empty cache": cold, "ours": lambda: tok.encode(text)}  # the first fills it
    times = medians(jobs | {peer: lambda f=f: f(text) for peer, f in peers.items()}, runs)
    return {who: len(text.encode()) / 1e6 / t for who, t in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prose", default=ROOT / "input.txt", help="a UTF-8 text file")
    parser.add_argument("--code-mb", type=float, default=20)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "tokenizer.json", help="the result")
    args = parser.parse_args()
    texts = {"prose": (make_prose(args.prose, 3_600_000), 4096)}
    texts["source code"] = gather_code(int(args.code_mb * 1e6)), 8192
    learning = [["learning", "library", "seconds", "ours / theirs"]]
    speeds = [["encoding", "library", "MB/s", "ours / theirs"]]
    for name, (text, vocab_size) in texts.items():
        trained, seconds = training(text, vocab_size, args.runs)
        what = f"{len(text) / 1e6:.1f} MB of {name}, {vocab_size:,} tokens"
        for who, t in seconds.items():
            learning.append([what, who, f"{t:.2f}", f"{seconds['ours'] / t:.2f}"])
        speed = encoding(trained["tok"], text[:3_600_000], args.runs)
        for who, x in speed.items():
            speeds.append([name, who, f"{x:.1f}", f"{speed['ours'] / x:.1f}"])
    note = "Medians of runs in turns, one process. `tokenizers` and `tiktoken` are compiled, ours is Python."
    question = "How fast is bpe_tokenizer.py beside compiled tokenizers?"
    save(args.out, question, [learning, speeds], note)


if __name__ == "__main__":
    main()
