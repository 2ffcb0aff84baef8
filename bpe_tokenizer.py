"""Byte-pair encoding (BPE) from scratch: how a language model's text becomes numbers, and back.

A model reads numbers. Giving every byte its own number works but makes long sequences; giving every
word its own number makes an endless vocabulary. BPE sits between: start from the 256 bytes, find the
two neighbours that occur together most often in a training text, give that pair a new number, and
repeat until the vocabulary has the size you asked for.

    text "low low lower"  ->  chunks "low", " low", " lower"          (1. split, PATTERNS)
    bytes l o w ...       ->  lo w ... -> low ... -> " low" ...       (2. learn merges, learn_merges)
    "lowest"              ->  low e s t -> [256 + 1, 68, 82, 83]      (3. replay them, BPETokenizer.encode)

Merges never cross a chunk, so the work is done once for every distinct chunk however often it occurs.
Nothing is ever unknown: a character that was not in the training text falls back to its bytes.

    tok = BPETokenizer.train(open("input.txt").read(), 4096, special_tokens=["<|endoftext|>"])
    ids = tok.encode("Hello world")
    assert tok.decode(ids) == "Hello world"
    tok.save("tok.json"); tok = BPETokenizer.load("tok.json")

or, from a shell: python bpe_tokenizer.py train input.txt --vocab-size 4096 --out tok.json
"""

import argparse
import errno
import heapq
import json
import os
import re
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from itertools import chain, repeat
from pathlib import Path

import regex
from tqdm import tqdm

# 1. Splitting: text -> chunks -------------------------------------------------------------------------

# Every character class below is written inside brackets, e.g. [\p{L}] rather than \p{L}: that makes the
# translation to plain ASCII in `ascii_twin` a matter of replacing text.
PATTERNS = {
    # GPT-2: contractions, words, numbers and symbols (each with the space before it), white space.
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    # GPT-4: any one symbol may lead a word, numbers in threes, line ends kept apart.
    "gpt4": r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?[\p{L}]+|[\p{N}]{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+""",
    # GPT-4's idea, and a word keeps its combining marks (\p{M}: the vowel signs of Hindi or Thai, Arabic
    # points, accents written apart) and joiners (U+200C, U+200D), which GPT-2 and GPT-4 cut it at.
    "default": r"""'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?[\p{L}][\p{L}\p{M}"""
    "\u200c\u200d"
    r"""]*|[\p{N}]{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
}
BLOCK = 1 << 13
HELD_BACK = 4  # chunks at a block's end that the next block may still change


class TokenizerError(ValueError):
    """Whatever is wrong with what the caller gave: a text, a file, an id, an option."""


def ascii_twin(pattern):
    """The same split for text that is pure ASCII, for Python's `re`, which is twice as fast as `regex`."""
    for unicode_class, ascii_class in ((r"\p{L}", "A-Za-z"), (r"\p{N}", "0-9"), (r"\p{M}", "")):
        pattern = pattern.replace(unicode_class, ascii_class)
    return re.compile(pattern.replace("\u200c\u200d", ""), re.ASCII)


class Splitter:
    """Cuts text into chunks: "Hello  world's" -> ["Hello", " ", " world", "'s"] (pattern gpt2)."""

    def __init__(self, pattern="default"):
        self.pattern = PATTERNS.get(pattern, pattern)
        try:
            self.findall = regex.compile(self.pattern).findall
        except (regex.error, TypeError) as e:
            raise TokenizerError(f"bad pattern {pattern!r}: {e}") from None
        if regex.compile(self.pattern).groups:
            raise TokenizerError(f"bad pattern {pattern!r}: write groups as (?:...)")
        self.findall_ascii = self.findall
        if self.pattern in PATTERNS.values():
            self.findall_ascii = ascii_twin(self.pattern).findall

    def split(self, text):
        chunks = self.findall_ascii(text) if text.isascii() else self.findall(text)
        if "".join(chunks) != text:  # findall steps over what nothing matches: the text would not come back
            raise TokenizerError(rf"the pattern skips characters of the text; end it with |[\s\S]: {self.pattern}")
        return chunks

    def split_blocks(self, blocks):
        """Yield lists of chunks of a text that comes in pieces, cut anywhere: ["He", "llo wor", "ld"] gives
        the chunks of "Hello world". Exact for patterns that do not look behind a chunk's first character."""
        waiting, size, enough = [], 0, BLOCK
        for block in blocks:
            if not isinstance(block, str):
                raise TokenizerError(f"expected text (str), got {type(block).__name__}")
            for start in range(0, len(block), BLOCK):
                waiting.append(block[start : start + BLOCK])
                size += len(waiting[-1])
                if size < enough:
                    continue
                chunks = self.split("".join(waiting))
                waiting = ["".join(chunks[-HELD_BACK:])]  # what comes next may lengthen or recut these
                size = len(waiting[0])
                enough = max(BLOCK, 2 * size)  # doubling: one endless chunk is not rescanned at every block
                yield chunks[:-HELD_BACK]
        yield self.split("".join(waiting))


def text_blocks(text):
    """One text, or an iterable of a text's pieces -> an iterable of pieces."""
    if isinstance(text, (bytes, bytearray)):
        raise TokenizerError("expected text (str), got bytes: decode them first")
    return [text] if isinstance(text, str) else text


# 2. Training: chunks -> merges ------------------------------------------------------------------------

# Bytes are numbered as GPT-2 numbers them: first the 188 that print in Latin-1 ("!" is 0), then the rest.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_ORDER = bytes(PRINTABLE + [b for b in range(256) if b not in PRINTABLE])
BYTE_ID = bytes(BYTE_ORDER.index(b) for b in range(256))  # byte -> id, a table for bytes.translate
SEPARATOR = BYTE_ID[0xFF]  # UTF-8 never uses byte 0xFF, so its id can stand between two chunks


def utf8(text):
    """Text -> bytes; half of a surrogate pair, which Python strings may hold, has no bytes."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise TokenizerError(f"the text holds a lone surrogate, {text[e.start]!r}: not valid Unicode") from None


def learn_merges(counts, n_merges, scaffold=False, progress=False):
    """Counter of chunks -> list of merged pairs of ids, and the set of scaffold ids (see below).

    {"aab": 2} and 2 merges -> [(64, 64), (256, 65)]: "aa" is token 256, "aab" is 257.

    Rule: the most frequent pair first; ties go to the smaller pair of ids. All chunks lie in one list
    `ids` with a separator between them. A token of several bytes keeps its id at its first and its last
    position, so both neighbours are found by index: the one before ends at start - 1, the next starts
    at start + length. A pair's count can only fall after the merge that created it, so the heap may
    hold counts that are too high but never too low: a stale entry is corrected when it comes up.
    """
    ids, weight = [SEPARATOR], [0]
    for chunk, count in counts.items():
        data = utf8(chunk).translate(BYTE_ID)
        ids.extend(data)
        ids.append(SEPARATOR)
        weight.extend(repeat(count, len(data) + 1))
    where = defaultdict(list)  # pair -> the positions where it starts (or once started)
    for i, pair in enumerate(zip(ids, ids[1:])):
        where[pair].append(i)
    where = {pair: spots for pair, spots in where.items() if SEPARATOR not in pair}
    count_of = {pair: sum(map(weight.__getitem__, spots)) for pair, spots in where.items()}
    heap = [(-count, pair) for pair, count in count_of.items()]
    heapq.heapify(heap)
    length, merges = [1] * 256, []
    bar = tqdm(total=n_merges, desc="merging", unit="merge", disable=not progress, leave=False)
    while heap and len(merges) < n_merges:
        count, pair = heapq.heappop(heap)
        if count_of[pair] != -count:
            if count_of[pair]:
                heapq.heappush(heap, (-count_of[pair], pair))
            continue
        new = 256 + len(merges)
        merges.append(pair)
        length.append(length[pair[0]] + length[pair[1]])
        for made, spots in apply_merge(ids, weight, length, where.pop(pair), pair, new, count_of):
            where[made] = spots
            heapq.heappush(heap, (-count_of[made], made))
        del count_of[pair]
        bar.update()
    bar.close()
    return merges, set()


def apply_merge(ids, weight, length, spots, pair, new, count_of):
    """Merge `pair` into `new` at every spot, keep count_of right; return the new pairs and their spots."""
    a, b = pair
    skip_a, skip_b, skip_new = length[a], length[b], length[new]
    left, right = defaultdict(list), defaultdict(list)  # neighbour -> where the new pair starts
    for i in spots:
        if ids[i] != a:
            continue  # an earlier merge took the first token
        j = i + skip_a
        if ids[j] != b:
            continue  # ... or the second
        k = j + skip_b
        before, after = ids[i - 1], ids[k]
        ids[j] = -1  # no token starts here any more
        ids[i] = ids[k - 1] = new
        left[before].append(i - length[before])
        right[after].append(i)
    made = []
    for before, starts in left.items():
        if before == SEPARATOR:
            continue
        total = sum(map(weight.__getitem__, starts))
        if before != new:  # else: "abab", where (b, a) is counted on the right side of the first "ab"
            count_of[before, a] -= total
        count_of[before, new] = total
        made.append(((before, new), starts))
    for after, starts in right.items():
        if after == SEPARATOR:
            continue
        count_of[b, after] -= sum(map(weight.__getitem__, starts))
        if after == a:  # some of these were merged a moment later, and were seen as (new, new) then
            starts = [i for i in starts if ids[i + skip_new] == a]
        if starts:
            count_of[new, after] = sum(map(weight.__getitem__, starts))
            made.append(((new, after), starts))
    return made


# 3. Encoding: text -> ids -----------------------------------------------------------------------------

NEVER = 1 << 60


def merge_short(ids, ranks):
    """Replay the merges on a short chunk: again and again, merge the pair that was learned first."""
    while len(ids) > 1:
        rank = NEVER
        for pair in zip(ids, ids[1:]):
            r = ranks.get(pair, NEVER)
            if r < rank:
                rank, (a, b) = r, pair
        if rank == NEVER:
            break
        out, i, last = [], 0, len(ids) - 1
        while i <= last:
            if ids[i] == a and i < last and ids[i + 1] == b:
                out.append(rank)
                i += 2
            else:
                out.append(ids[i])
                i += 1
        ids = out
    return ids


def merge_long(ids, ranks):
    """The same for a long chunk in O(n log n): a heap of candidate pairs over a linked list."""
    n = len(ids)
    following, previous = list(range(1, n + 1)), list(range(-1, n - 1))
    heap = [(ranks[pair], i) for i, pair in enumerate(zip(ids, ids[1:])) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        rank, i = heapq.heappop(heap)
        j = following[i]
        if ids[i] < 0 or j == n or ranks.get((ids[i], ids[j])) != rank:
            continue  # stale: one of the two was merged with something else
        ids[i], ids[j] = rank, -1
        k = following[i] = following[j]
        if k < n:
            previous[k] = i
            if (ids[i], ids[k]) in ranks:
                heapq.heappush(heap, (ranks[ids[i], ids[k]], i))
        h = previous[i]
        if h >= 0 and (ids[h], ids[i]) in ranks:
            heapq.heappush(heap, (ranks[ids[h], ids[i]], h))
    return [t for t in ids if t >= 0]


class ChunkCache(dict):
    """chunk -> ids, computed when first asked for; emptied when full, so memory stays bounded."""

    def __init__(self, compute, limit=1 << 18, longest=1 << 10):
        self.compute, self.limit, self.longest = compute, limit, longest

    def __missing__(self, chunk):
        ids = self.compute(chunk)
        if len(chunk) <= self.longest:
            if len(self) >= self.limit:
                self.clear()
            self[chunk] = ids
        return ids


class BPETokenizer:
    """Merges, a pattern and special tokens: everything needed to turn text into ids and back."""

    def __init__(self, merges=(), *, pattern="default", special_tokens=(), allowed_chars=None, scaffolds=()):
        self.splitter = Splitter(pattern)
        self.merges = [tuple(pair) for pair in merges]
        self._ranks = {pair: 256 + i for i, pair in enumerate(self.merges)}
        tokens = [bytes([b]) for b in BYTE_ORDER]
        for a, b in self.merges:
            tokens.append(tokens[a] + tokens[b])
        self._bytes = dict(enumerate(tokens))
        if not isinstance(special_tokens, dict):
            special_tokens = {text: len(tokens) + i for i, text in enumerate(special_tokens)}
        self.special_tokens = dict(special_tokens)
        self._bytes.update((i, text.encode("utf-8")) for text, i in self.special_tokens.items())
        self.vocab_size = max(self._bytes) + 1
        self._cache = ChunkCache(self._encode_chunk)

    @property
    def pattern(self):
        return self.splitter.pattern

    @classmethod
    def train(
        cls,
        text,
        vocab_size,
        *,
        pattern="default",
        special_tokens=(),
        allowed_chars=None,
        scaffold=False,
        progress=True,
    ):
        """Learn a vocabulary from a text or an iterable of its pieces (a file's blocks)."""
        special_tokens = list(special_tokens)
        n_merges = vocab_size - 256 - len(special_tokens)
        if n_merges < 0:
            raise TokenizerError(
                f"vocab_size {vocab_size} is too small: 256 bytes and {len(special_tokens)} special tokens "
                f"need at least {256 + len(special_tokens)}"
            )
        counts = Counter()
        for chunks in Splitter(pattern).split_blocks(text_blocks(text)):
            counts.update(chunks)
        merges, scaffolds = learn_merges(counts, n_merges, scaffold, progress)
        if len(merges) < n_merges:
            warnings.warn(
                f"the text has only {len(merges)} pairs to merge, not {n_merges}: "
                f"the vocabulary has {vocab_size - n_merges + len(merges)} tokens, not {vocab_size}",
                stacklevel=2,
            )
        return cls(merges, pattern=pattern, special_tokens=special_tokens)

    def _encode_chunk(self, chunk):
        ids = list(utf8(chunk).translate(BYTE_ID))
        return (merge_short if len(ids) <= 100 else merge_long)(ids, self._ranks)

    def encode(self, text, allowed_special=()):
        """Text -> ids. Special tokens in the text are plain text unless named in allowed_special."""
        if not isinstance(text, str):
            raise TokenizerError(f"expected text (str), got {type(text).__name__}")
        allowed = self._allowed(allowed_special)
        if not allowed:
            return list(chain.from_iterable(self.encode_blocks([text])))
        ids = []
        # A capturing group makes re.split keep the separators, at the odd places of its answer.
        cut = "|".join(re.escape(s) for s in sorted(allowed, key=len, reverse=True))
        for i, piece in enumerate(re.split(f"({cut})", text)):
            if i % 2:
                ids.append(self.special_tokens[piece])
            else:
                ids.extend(chain.from_iterable(self.encode_blocks([piece])))
        return ids

    def _allowed(self, allowed_special):
        allowed = self.special_tokens if allowed_special == "all" else allowed_special
        allowed = [allowed] if isinstance(allowed, str) else list(allowed)
        for name in allowed:
            if name not in self.special_tokens:
                raise TokenizerError(f"{name!r} is not a special token; there are {list(self.special_tokens)}")
        return allowed

    def encode_blocks(self, blocks):
        """Yield lists of ids for a text that comes in pieces; joined, they are encode(whole text)."""
        lookup = self._cache.__getitem__
        for chunks in self.splitter.split_blocks(text_blocks(blocks)):
            yield list(chain.from_iterable(map(lookup, chunks)))

    def encode_batch(self, texts, allowed_special=()):
        return [self.encode(text, allowed_special) for text in texts]

    def token_bytes(self, token_id):
        return self.decode_bytes([token_id])

    def decode_bytes(self, ids):
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        try:
            return b"".join([self._bytes[i] for i in ids])
        except (KeyError, TypeError):
            bad = next(i for i in ids if not isinstance(i, int) or i not in self._bytes)
            raise TokenizerError(f"unknown token id {bad!r}: ids are 0 to {self.vocab_size - 1}") from None

    def decode(self, ids, errors="replace"):
        return self.decode_bytes(ids).decode("utf-8", errors=errors)

    def save(self, path):
        """Write one JSON file, whole or not at all."""
        data = {
            "format": "bpe-tokenizer",
            "version": 1,
            "pattern": self.pattern,
            "special_tokens": self.special_tokens,
            "merges": self.merges,
        }
        write_atomically(path, json.dumps(data))

    @classmethod
    def load(cls, path):
        data = json.loads(Path(path).read_text("utf-8"))
        return cls(data["merges"], pattern=data["pattern"], special_tokens=data["special_tokens"])


def write_atomically(path, text):
    """Write beside the target, flush to the disk, then rename: a reader sees the old file or the new one."""
    path = Path(path)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with open(handle, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def read_blocks(path):
    with open(path, encoding="utf-8", newline="") as f:
        while block := f.read(1 << 20):
            yield block


def main(argv=None):
    parser = argparse.ArgumentParser(description="Train and use a byte-level BPE tokenizer.")
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("train")
    p.add_argument("file")
    p.add_argument("--vocab-size", type=int, default=4096)
    p.add_argument("--out", required=True)
    args = parser.parse_args(argv)
    tok = BPETokenizer.train(read_blocks(args.file), args.vocab_size)
    tok.save(args.out)
    print(f"{args.out}: {tok.vocab_size} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
