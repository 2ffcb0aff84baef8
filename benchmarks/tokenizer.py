"""How fast is bpe_tokenizer.py, next to compiled tokenizers on the same text, in one run?

    python benchmarks/tokenizer.py [--prose FILE] [--code-mb 50] [--runs 5]

Prose is 3.6 MB made of --prose (default: input.txt, whose words are varied so that a longer text also has
more distinct words); source code is gathered from this Python's own library and packages. Every trainer
gets the same blocks, the same pattern and vocabulary size. The blocks end between a word and a space, where
every pattern starts a new chunk, so all trainers see the same chunks and should find the same merges. Runs
alternate between the libraries, and the medians are compared: read the ratios, not the seconds. A library
that is not installed is left out.
"""

import argparse
import os
import random
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bpe_tokenizer import PATTERNS, BPETokenizer  # noqa: E402

PATTERN = "default"
# Peak memory is read from /proc where possible: ru_maxrss may be that of the process that started this one.
CHILD = """
import os, re, resource, sys
sys.path.insert(0, sys.argv[1])
from bpe_tokenizer import BPETokenizer
repeats, options = range(int(sys.argv[3])), dict(encoding="utf-8", newline="")
blocks = (line for _ in repeats for line in open(sys.argv[2], **options))
BPETokenizer.train(blocks, 4096, progress=False)
if os.path.exists("/proc/self/status"):
    print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


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


def row(what, value, must, aim, better=min):
    ok = (lambda goal: value <= goal) if better is min else (lambda goal: value >= goal)
    grade = "aim" if ok(aim) else "must" if ok(must) else "MISSED"
    print(f"{what:66} {value:7.2f} {must:6} {aim:6}  {grade}", flush=True)


def training(name, text, vocab_size, runs):
    blocks, peers = cut(text), peer_trainers()
    trained = {}

    def ours():
        trained["tok"] = BPETokenizer.train(blocks, vocab_size, pattern=PATTERN, progress=False)

    jobs = {"ours": ours} | {peer: lambda f=f: f(blocks, vocab_size) for peer, f in peers.items()}
    times = medians(jobs, runs)
    print(f"  {name}: " + ", ".join(f"{peer} {t:.2f} s" for peer, t in times.items()))
    for peer, (must, aim) in {"tokenizers": (1.0, 0.6), "rustbpe": (2.5, 1.5)}.items():
        if peer in times and (peer == "tokenizers" or name != "prose"):
            what = f"training, {len(text) / 1e6:.1f} MB {name}, {vocab_size:,} tokens: seconds / those of {peer}"
            row(what, times["ours"] / times[peer], must, aim)
    return trained["tok"]


def encoding(name, tok, text, runs):
    peers = peer_encoders(tok)
    ids = tok.encode(text)
    for peer, encode in peers.items():
        assert encode(text) == ids, f"{peer} gives other ids"

    def cold():
        tok._cache.clear()
        tok.encode(text)

    jobs = {
        "ours, empty cache": cold,
        "ours": lambda: tok.encode(text),
    }  # in this order: the first fills the cache
    times = medians(jobs | {peer: lambda f=f: f(text) for peer, f in peers.items()}, runs)
    speed = {who: len(text.encode()) / 1e6 / t for who, t in times.items()}
    print(f"  {name}: " + ", ".join(f"{who} {s:.1f} MB/s" for who, s in speed.items()))
    for peer, (must, aim) in {"tokenizers": (4, 8), "tiktoken": (0.5, 1.0)}.items():
        if peer in speed:
            row(
                f"encoding {name}, plain Python: MB/s / that of {peer}",
                speed["ours"] / speed[peer],
                must,
                aim,
                max,
            )
            if peer == "tiktoken":
                ratio = speed["ours, empty cache"] / speed[peer]
                row(
                    f"encoding {name}, plain Python, empty cache: MB/s / that of {peer}",
                    ratio,
                    must,
                    aim,
                    max,
                )


def long_chunk(tok, runs):
    rng = random.Random(0)
    letters = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=1_000_000))
    jobs = {1: lambda: tok.encode(letters[:100_000]), 10: lambda: tok.encode(letters)}
    times = medians(jobs, runs)
    print(f"  one chunk: 100,000 letters {times[1]:.2f} s, 1,000,000 letters {times[10]:.2f} s")
    row(
        "one chunk of 1,000,000 letters: seconds / seconds for 100,000",
        times[10] / times[1],
        15,
        11,
    )


def memory(text, runs):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        path.write_text(text, encoding="utf-8", newline="")

        def peak(repeats):
            command = [sys.executable, "-c", CHILD, str(ROOT), str(path), str(repeats)]
            return int(
                subprocess.run(command, capture_output=True, check=True, env=os.environ).stdout
            )

        sizes = {
            repeats: statistics.median(peak(repeats) for _ in range(runs)) for repeats in (1, 10)
        }
    print(f"  peak memory of the process: {sizes[1]:,.0f} and {sizes[10]:,.0f} (kB on Linux)")
    row(
        "peak memory, training on 10 times the text from a streamed file",
        sizes[10] / sizes[1],
        1.2,
        1.05,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prose", default=ROOT / "input.txt", help="a UTF-8 text file")
    parser.add_argument("--code-mb", type=float, default=50)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    prose, code = make_prose(args.prose, 3_600_000), gather_code(int(args.code_mb * 1e6))
    print(f"{len(prose) / 1e6:.1f} MB prose, {len(code) / 1e6:.1f} MB code, {os.cpu_count()} CPUs")
    print(f"{'':66} {'here':>7} {'must':>6} {'aim':>6}")
    prose_tok = training("prose", prose, 4096, args.runs)
    code_tok = training("code", code, 8192, args.runs)
    encoding("prose", prose_tok, prose, args.runs)
    encoding("code", code_tok, code[: len(code) // 10], args.runs)
    long_chunk(prose_tok, args.runs)
    memory(prose, args.runs)


if __name__ == "__main__":
    main()
