"""Byte-pair encoding (BPE) from scratch: how text becomes the numbers a language model reads, and back.

Giving every byte its own number makes long sequences; giving every word its own number makes an endless vocabulary.
BPE sits between: start from the 256 bytes, find the two neighbours that stand together most often in a training text,
give that pair a new number, and repeat until the vocabulary has the size you asked for. Frequent words become one
token, rare ones a few, and nothing is ever unknown.

    1. split    "low lower"  ->  chunks "low", " lower"                  (PATTERNS, Splitter)
    2. train    l o w        ->  merges (l, o) -> lo, (lo, w) -> low     (Trainer)
    3. encode   " lowest"    ->  " low" e s t  ->  [258, 68, 82, 83]     (merge_short, BPETokenizer)

Merges never cross a chunk, so training and encoding treat each distinct chunk once, however often it occurs: that is
why plain Python is fast enough. Sections 4 and 5 are what makes it fast and safe, and may wait for a second reading.

    tok = BPETokenizer.train(open("input.txt").read(), 4096, special_tokens=["<|endoftext|>"])
    ids = tok.encode("Hello world")
    assert tok.decode(ids) == "Hello world"
    tok.save("tok.json")                              # and BPETokenizer.load("tok.json")

or, from a shell:  python bpe_tokenizer.py train input.txt --vocab-size 4096 --out tok.json
"""

import argparse
import gc
import heapq
import json
import os
import re
import sys
import warnings
from array import array
from collections import Counter, defaultdict
from functools import cache
from itertools import chain, cycle, groupby, islice, pairwise, repeat
from pathlib import Path

import regex
from tqdm import tqdm


class TokenizerError(ValueError):
    """Something is wrong with what the caller gave: a text, an id, an option, a file."""


# ---- 1. Split: text -> chunks ----------------------------------------------------------------------------------------

# Classes are always written inside brackets, [\p{L}] and not \p{L}: `fast_twin` relies on it.
PATTERNS = {
    # GPT-2: contractions, words, numbers and symbols (each with the space before it), white space.
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # GPT-4: any one symbol may lead a word, numbers in threes, line ends apart.
    "gpt4": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?[\p{L}]+|[\p{N}]{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    # GPT-4's, except that a word keeps its combining marks \p{M} (vowel signs of Hindi and Thai, points of Arabic,
    # accents written apart) and the joiners U+200C and U+200D. The two above cut words at each.
    "default": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?[\p{L}][\p{L}\p{M}"
    + "\u200c\u200d"
    + r"]*"
    r"|[\p{N}]{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


class Splitter:
    """Cuts text into chunks: "Hello  world's" -> ["Hello", " ", " world", "'s"]."""

    def __init__(self, pattern="default"):
        self.pattern = PATTERNS.get(pattern, pattern) if isinstance(pattern, str) else ""
        self.is_ours = self.pattern in PATTERNS.values()
        try:
            compiled = regex.compile(self.pattern)
        except regex.error as e:
            raise TokenizerError(f"bad pattern {pattern!r}: {e}") from None
        if not self.pattern or compiled.groups:
            raise TokenizerError(
                f"bad pattern {pattern!r}: it is no text, or has groups without ?:"
            )
        self.findall = compiled.findall
        self.findall_fast = fast_twin(self.pattern).findall if self.is_ours else compiled.findall

    def split(self, text):
        chunks = self.findall(text) if beyond_plane_0(text) else self.findall_fast(text)
        if not self.is_ours and "".join(chunks) != text:  # findall steps over what nothing matches
            raise TokenizerError(
                rf"the pattern skips some of the text; end it with |[\s\S]: {self.pattern}"
            )
        return chunks

    def split_blocks(self, text):
        """Yield lists of chunks of a text, or of one that comes in pieces: those of "Hello world" for ["He", "llo wor",
        "ld"]. Exact wherever the pieces are cut, if the pattern does not look behind the start of a chunk and what
        follows a text can change no more than its last HELD_BACK chunks: true of PATTERNS."""
        waiting, enough = "", BLOCK
        for piece in [text] if isinstance(text, (str, bytes)) else text:
            if not isinstance(piece, str):
                raise TokenizerError(f"expected text, got {type(piece).__name__}")
            for start in range(0, len(piece), BLOCK):
                waiting += piece[start : start + BLOCK]
                if len(waiting) >= enough:
                    chunks = self.split(waiting)
                    waiting = "".join(chunks[-HELD_BACK:])
                    enough = max(
                        BLOCK, 2 * len(waiting)
                    )  # doubling, or a long chunk is rescanned at each block
                    yield chunks[:-HELD_BACK]
        yield self.split(waiting)


# ---- 2. Train: chunks -> merges --------------------------------------------------------------------------------------

# The first 256 ids are the bytes in GPT-2's order: the 188 that print in Latin-1 ("!" is 0), then the rest.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_ORDER = bytes(PRINTABLE + [b for b in range(256) if b not in PRINTABLE])
ALONE = 1 << 60  # (id, ALONE) in the trainer's heap: a scaffold token that waits to come back


class Trainer:
    """Learns merges from {chunk: how often}: {"aab": 2} -> merges (64, 64) and (256, 65), "aa" and "aab".

    The most frequent pair is merged first; ties go to the smaller pair of ids.

    All chunks lie in one list, `ids`, with -1 between them. A token keeps its id at its first and its last byte's
    position, so its neighbours are found by index: one ends at start - 1, the other begins at start + length. `where`
    lists the positions of each pair. A pair has all its occurrences as soon as it exists and can only lose some later,
    so counts in the heap may be too high, never too low: a stale one is put right when it reaches the top.
    """

    def __init__(self, counts, allowed_chars=None):
        table = byte_table(BYTE_ORDER)
        self.ids, self.weight = [-1], [0]  # weight: how often the chunk at this position occurs
        for chunk, count in counts.items():
            for is_allowed, run in allowed_runs(chunk, allowed_chars):
                if is_allowed:
                    data = utf8(run).translate(table)
                    self.ids.extend(data)
                    self.ids.append(-1)
                    self.weight.extend(repeat(count, len(data) + 1))
        where = defaultdict(list)
        for i, pair in enumerate(pairwise(self.ids)):
            where[pair].append(i)
        self.where = {pair: spots for pair, spots in where.items() if -1 not in pair}
        self.count = {pair: self.total(spots) for pair, spots in self.where.items()}
        self.heap = [(-count, pair) for pair, count in self.count.items()]
        heapq.heapify(self.heap)
        self.length = [1] * 256  # of each token, in bytes
        self.merges = []
        self.scaffolds, self.frequency = set(), Counter()

    def total(self, spots):
        return sum(map(self.weight.__getitem__, spots))

    def top(self):
        """The true count of the best pair, which is left at the top of the heap; 0 if none is left."""
        while self.heap:
            claimed, pair = self.heap[0]
            count = self.count[pair]
            if count == -claimed:
                return count
            heapq.heapreplace(self.heap, (-count, pair))
            if not count:
                self.where.pop(pair, None)
        return 0

    def learn(self, n_tokens, scaffold=False, progress=False):
        """Merge until there are n_tokens new tokens, scaffolds not counted, or until no pair is left."""
        with tqdm(
            total=n_tokens,
            desc="merging",
            unit=" tokens",
            leave=False,
            disable=None if progress else True,
        ) as bar:
            while len(self.merges) - len(self.scaffolds) < n_tokens and self.top():
                pair = heapq.heappop(self.heap)[1]
                if pair[1] == ALONE:
                    self.scaffolds.remove(pair[0])
                    del self.count[pair]
                else:
                    spots = self.merge(pair)
                    if scaffold:
                        self.mark_scaffolds(pair, self.total(spots))
                bar.update(len(self.merges) - len(self.scaffolds) - bar.n)

    def merge(self, pair):
        """Give `pair` the next id wherever it stands; returns the positions."""
        (a, b), new, ids, length = pair, 256 + len(self.merges), self.ids, self.length
        length_a, length_new, to_end = length[a], length[a] + length[b], length[b] - 1
        length.append(length_new)
        self.merges.append(pair)
        merged = []
        for i in self.where.pop(pair):
            j = i + length_a
            if ids[i] == a and ids[j] == b:  # else one of the two went into another merge
                ids[j] = -1  # no token starts here any more
                ids[i] = ids[j + to_end] = new
                merged.append(i)
        left, right = (
            defaultdict(list),
            defaultdict(list),
        )  # neighbour -> starts of the new token beside it
        for i in merged:
            left[ids[i - 1]].append(i)
            right[ids[i + length_new]].append(i)
        for before, spots in left.items():
            if before >= 0:  # "abab" is (new, new) by now, and was (b, a)
                old = (b if before == new else before, a)
                self.replace(old, (before, new), [i - length[before] for i in spots])
        for after, spots in right.items():
            if after not in (-1, new):  # (new, new) was counted on the left
                self.replace((b, after), (new, after), spots)
        del self.count[pair]
        return merged

    def replace(self, old, new, spots):
        """At these positions stood the pair `old`; now all that there is of the pair `new` stands there."""
        total = self.total(spots)
        self.count[old] -= total
        self.where[new], self.count[new] = spots, total
        heapq.heappush(self.heap, (-total, new))

    def mark_scaffolds(self, pair, merged):
        """Scaffold-BPE (arXiv:2404.17808, Algorithm 1, lines 16 to 22), after `pair` was merged `merged` times.

        Learning "ing " may pass through "in" and "ing" and leave them rare on their own: scaffolds. They go on taking
        part in merges but lose their place in the vocabulary, and text that ends up in one is taken apart again. A
        token becomes a scaffold when a merge that used it leaves it rarer than the best pair left; it then waits in
        the same heap as the pairs, and comes back if it is the most frequent thing there. The 256 bytes always stay,
        since nothing could stand for them."""
        self.frequency[255 + len(self.merges)] = (
            merged  # of each token as it stands now; not kept for bytes
        )
        for used in pair:
            self.frequency[used] -= merged
            if used in self.scaffolds:
                self.count[used, ALONE] = self.frequency[used]
        best = self.top()
        for used in set(pair) - self.scaffolds:
            if used >= 256 and self.frequency[used] < best:
                self.scaffolds.add(used)
                self.count[used, ALONE] = self.frequency[used]
                heapq.heappush(self.heap, (-self.frequency[used], (used, ALONE)))


# ---- 3. Encode: text -> ids, and back --------------------------------------------------------------------------------

NEVER = 1 << 60  # the rank of a pair that is not merged


def merge_short(ids, ranks):
    """Replay the merges on a chunk's ids: merge the pair that was learned first until none is left.
    `ranks` is {pair: id}, and ids were given in the order of learning. [l, o, w] -> [lo, w] -> [low]"""
    rank_of = ranks.get
    rank = [rank_of(pair, NEVER) for pair in pairwise(ids)]  # rank[i] belongs to ids[i], ids[i + 1]
    while rank:
        new = min(rank)
        if new == NEVER:
            break
        i = rank.index(new)
        ids[i] = new
        del ids[i + 1], rank[i]
        if i:
            rank[i - 1] = rank_of((ids[i - 1], new), NEVER)
        if i < len(rank):
            rank[i] = rank_of((new, ids[i + 1]), NEVER)
    return ids


class BPETokenizer:
    """Text -> ids -> text. Ids: the 256 bytes, the merged tokens in the order learned, the special tokens.

    Make one with BPETokenizer.train, .load or .from_tiktoken. `special_tokens` is {text: id}.
    """

    def __init__(
        self,
        merges=(),
        pattern="default",
        special_tokens=(),
        allowed_chars=None,
        scaffolds=(),
        byte_order=BYTE_ORDER,
    ):
        self.splitter = Splitter(pattern)
        self.pattern = self.splitter.pattern
        self.allowed_chars = None if allowed_chars is None else frozenset(allowed_chars)
        self.byte_order = bytes(list(byte_order))
        if sorted(self.byte_order) != list(range(256)):
            raise TokenizerError("byte_order must hold each of the 256 bytes once")
        self.merges = [tuple(pair) for pair in merges]
        self.scaffolds = frozenset(scaffolds)
        tokens = check_merges(self.merges, self.byte_order)
        if not all(type(s) is int and 256 <= s < len(tokens) for s in self.scaffolds):
            raise TokenizerError("scaffolds must be ids of merged tokens")
        kept = [i for i in range(len(tokens)) if i not in self.scaffolds]
        self._bytes = {new: tokens[old] for new, old in enumerate(kept)}
        self.special_tokens = number_specials(special_tokens, len(kept))
        self._bytes.update((i, utf8(text)) for text, i in self.special_tokens.items())
        self.vocab_size = max(self._bytes) + 1
        self._byte_ids = byte_table(self.byte_order)
        self._ranks = {pair: 256 + i for i, pair in enumerate(self.merges)}
        self._cache = ChunkCache(self._encode_chunk)
        self._output = {
            old: [new] for new, old in enumerate(kept)
        }  # what each id of the merges becomes
        for s in sorted(
            self.scaffolds
        ):  # a token's parts have smaller ids: they are done before it
            a, b = self.merges[s - 256]
            self._output[s] = self._output[a] + self._output[b]

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
        """Learn a vocabulary from a text, or from an iterable of its pieces (a file's blocks) read one by one: memory
        grows with the distinct chunks only. Pieces are joined as they are; special tokens in them are plain text. With
        allowed_chars, only these characters are ever merged; all others stay single bytes. A text with too few pairs
        gives a smaller vocabulary and a warning.

        train("low low lower", 259) has the merges "lo", "low" and " low".
        """
        empty = cls(
            (), pattern, special_tokens, allowed_chars
        )  # checks all three before the text is read
        smallest = 256 + len(empty.special_tokens)
        if type(vocab_size) is not int or vocab_size < smallest:
            raise TokenizerError(
                f"vocab_size {vocab_size!r}: bytes and special tokens alone are {smallest}"
            )
        counts, n_blocks = (
            Counter(),
            len(text) // BLOCK + 1 if isinstance(text, str) else 0,
        )  # 0: not known
        quiet = None if progress and n_blocks else True  # None: where nobody watches
        for chunks in tqdm(
            empty.splitter.split_blocks(text), "splitting", n_blocks, unit=" blocks", disable=quiet
        ):
            counts.update(chunks)
        collecting = gc.isenabled()
        gc.disable()  # millions of small objects and no cycles: scanning them would take a third of the time
        try:
            trainer = Trainer(counts, empty.allowed_chars)
            trainer.learn(vocab_size - smallest, scaffold, progress)
        finally:
            if collecting:
                gc.enable()
        specials = list(empty.special_tokens)
        tokenizer = cls(trainer.merges, pattern, specials, empty.allowed_chars, trainer.scaffolds)
        if tokenizer.vocab_size < vocab_size:
            warnings.warn(
                f"no pairs left to merge: {tokenizer.vocab_size} tokens, not {vocab_size}",
                stacklevel=2,
            )
        return tokenizer

    def encode(self, text, allowed_special=()):
        """ "low" -> [258], say. Special tokens in `text` count as plain text, so that a user cannot smuggle them in,
        except those named in allowed_special (a list of them, or "all")."""
        if not isinstance(text, str):
            raise TokenizerError(f"expected text, got {type(text).__name__}")
        allowed = self.special_tokens if allowed_special == "all" else allowed_special
        allowed = {allowed} if isinstance(allowed, str) else set(allowed)
        if unknown := allowed - set(self.special_tokens):
            raise TokenizerError(
                f"not special tokens: {unknown}; there are {list(self.special_tokens)}"
            )
        longest_first = map(re.escape, sorted(allowed, key=len, reverse=True))
        # the capturing group makes re.split return the separators too, at odd places
        pieces = re.split(f"({'|'.join(longest_first)})", text) if allowed else [text]
        ids = []
        for i, piece in enumerate(pieces):
            if i % 2:
                ids.append(self.special_tokens[piece])
            else:
                for block in self.encode_blocks(piece):
                    ids += block
        return ids

    def encode_blocks(self, blocks):
        """Encode a text of any size that comes in pieces, cut anywhere: yields lists of ids which joined are
        encode(the whole text). Special tokens are plain text."""
        lookup = self._cache.__getitem__
        for chunks in self.splitter.split_blocks(blocks):
            yield list(chain.from_iterable(map(lookup, chunks)))

    def encode_batch(self, texts, allowed_special=()):
        return [self.encode(text, allowed_special) for text in texts]

    def _encode_chunk(self, chunk):
        ids = []
        for is_allowed, run in allowed_runs(chunk, self.allowed_chars):
            run = utf8(run).translate(self._byte_ids)
            merge = merge_short if len(run) < LONG else merge_long
            ids += merge(list(run), self._ranks) if is_allowed else run
        return [new for old in ids for new in self._output[old]] if self.scaffolds else ids

    def decode(self, ids, errors="replace"):
        """Ids (a list, an array or a tensor) -> text. A cut character gives U+FFFD, or what `errors` says."""
        return self.decode_bytes(ids).decode("utf-8", errors)

    def decode_bytes(self, ids):
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        try:
            return b"".join([self._bytes[i] for i in ids])
        except (KeyError, TypeError):
            bad = next(i for i in ids if type(i).__hash__ is None or i not in self._bytes)
            raise TokenizerError(
                f"unknown id {bad!r}: ids go from 0 to {self.vocab_size - 1}"
            ) from None

    def token_bytes(self, token_id):
        return self.decode_bytes([token_id])

    # ---- Files and other libraries ----

    def to_json(self):
        """All of the tokenizer as JSON. Ids say it all: a merge is a pair of earlier ids, so that tokens which are not
        valid UTF-8 need no escaping."""
        chars = None if self.allowed_chars is None else "".join(sorted(self.allowed_chars))
        data = {
            "format": FORMAT,
            "version": VERSION,
            "pattern": self.pattern,
            "special_tokens": self.special_tokens,
        }
        data |= {"allowed_chars": chars, "byte_order": list(self.byte_order)}
        data |= {"scaffolds": sorted(self.scaffolds), "merges": self.merges}
        return json.dumps(data)

    def save(self, path):
        """Write one JSON file."""
        write_atomically(path, self.to_json())

    @classmethod
    def load(cls, path):
        """Read a file that `save` wrote, and check all of it."""
        try:
            data = json.loads(Path(path).read_text("utf-8"))
            if data["format"] != FORMAT:
                raise KeyError("format")
        except (ValueError, KeyError, TypeError, RecursionError):
            raise TokenizerError(f"{path} is not a tokenizer file, or is damaged") from None
        if data.get("version") != VERSION:
            raise TokenizerError(
                f"{path} has version {data.get('version')!r}; this program reads {VERSION}"
            )
        names = ("pattern", "special_tokens", "allowed_chars", "byte_order", "scaffolds")
        try:
            if not isinstance(data["special_tokens"], dict):
                raise TypeError("special_tokens must map texts to ids")
            return cls(data["merges"], **{name: data[name] for name in names})
        except (ValueError, KeyError, TypeError) as e:
            raise TokenizerError(f"{path} is damaged: {type(e).__name__}: {e}") from None

    def _check_exportable(self, to):
        if self.scaffolds:
            raise TokenizerError(
                f"{to} cannot take tokens apart again: a scaffold tokenizer has no export"
            )
        if self.allowed_chars is not None and not "".join(self.allowed_chars).isascii():
            raise TokenizerError(f"{to} can only keep to allowed_chars that are all ASCII")

    def to_tiktoken(self, name="bpe_tokenizer"):
        """-> a tiktoken.Encoding that gives the same ids."""
        self._check_exportable("tiktoken")
        import tiktoken

        ranks = {self._bytes[i]: i for i in range(256 + len(self.merges))}
        specials = self.special_tokens
        return tiktoken.Encoding(
            name, pat_str=self.pattern, mergeable_ranks=ranks, special_tokens=specials
        )

    @classmethod
    def from_tiktoken(cls, encoding):
        """A tiktoken.Encoding -> a tokenizer with the same ids. tiktoken keeps no merges, only tokens in the order
        learned: what a token was merged from is what the merges before it make of its bytes."""
        rank_of = encoding._mergeable_ranks
        tokens = sorted(rank_of, key=rank_of.get)
        if [rank_of[token] for token in tokens] != list(range(len(tokens))):
            raise TokenizerError("the encoding's ranks are not 0, 1, 2, ...")
        if sorted(tokens[:256]) != [bytes([b]) for b in range(256)]:
            raise TokenizerError("the encoding's first 256 tokens are not the 256 bytes")
        order = b"".join(tokens[:256])
        table, merges = byte_table(order), {}
        for i, token in enumerate(tokens[256:], 256):
            parts = merge_short(list(token.translate(table)), merges)
            if len(parts) != 2:
                raise TokenizerError(f"token {i}, {token!r}, is not a merge of two earlier tokens")
            merges[tuple(parts)] = i
        specials = dict(encoding._special_tokens)
        return cls(merges, pattern=encoding._pat_str, special_tokens=specials, byte_order=order)

    def to_huggingface(self, path):
        """Write a tokenizer.json for the `tokenizers` library (and transformers) that gives the same ids. There,
        special tokens in a text are always recognized unless encode_special_tokens is set."""
        self._check_exportable("tokenizers")
        if "}+" in self.pattern:
            raise TokenizerError("tokenizers reads the pattern's possessive {m,n}+ as a repetition")
        # That library writes bytes as printable characters: the others become U+0100, U+0101, ...
        printed = {
            b: chr(b) if b in PRINTABLE else chr(256 + BYTE_ORDER.index(b) - 188)
            for b in range(256)
        }
        words = ["".join(map(printed.get, self._bytes[i])) for i in range(256 + len(self.merges))]
        vocab = {word: i for i, word in enumerate(words)}
        if both := vocab.keys() & self.special_tokens.keys():
            raise TokenizerError(
                f"tokenizers cannot tell special tokens from others of the same text: {both}"
            )
        vocab |= self.special_tokens  # or they would be numbered anew, without gaps
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {
            "special": True
        }
        added = [{"id": i, "content": text, **flags} for text, i in self.special_tokens.items()]
        split = {
            "type": "Split",
            "pattern": {"Regex": self.pattern},
            "behavior": "Isolated",
            "invert": False,
        }
        level = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        }
        model = {
            "type": "BPE",
            "vocab": vocab,
            "merges": [f"{words[a]} {words[b]}" for a, b in self.merges],
        }
        data = {"version": "1.0", "added_tokens": added, "decoder": level, "model": model}
        data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
        write_atomically(path, json.dumps(data))


# ---- 4. Speed: streams, long chunks, a cache -------------------------------------------------------------------------

BLOCK = (
    1 << 13
)  # characters split at a time; small, so that few blocks hold a character beyond plane 0
HELD_BACK = 4  # chunks at the end of a block that the text after it may still change
LONG = 32  # bytes from which merge_long is the faster one


beyond_plane_0 = re.compile("[\U00010000-\U0010ffff]").search  # such as emoji


@cache
def fast_twin(pattern):
    """The same split for text of Unicode's plane 0, the first 65,536 characters: for Python's own `re`, which wants
    classes spelled out as ranges and is then more than twice as fast as `regex`."""
    plane_0 = "".join(map(chr, range(1 << 16)))
    for unicode_class in (r"\p{L}", r"\p{N}", r"\p{M}", r"\s"):
        runs = regex.findall(f"{unicode_class}+", plane_0)
        ranges = "".join(rf"\u{ord(run[0]):04x}-\u{ord(run[-1]):04x}" for run in runs)
        if unicode_class == r"\s":  # which also stands outside of brackets
            pattern = pattern.replace(r"\S", f"[^{ranges}]").replace(r"[^\s", f"[^{ranges}")
            ranges = f"[{ranges}]"
        pattern = pattern.replace(unicode_class, ranges)
    return re.compile(pattern)


def allowed_runs(chunk, allowed_chars):
    """ "abXc" -> (True, "ab"), (False, "X"), (True, "c") where only a, b and c may be merged; None allows all."""
    if allowed_chars is None:
        return [(True, chunk)]
    return [
        (is_allowed, "".join(run)) for is_allowed, run in groupby(chunk, allowed_chars.__contains__)
    ]


def merge_long(ids, ranks):
    """What merge_short gives, in O(n log n), for chunks like a million letters without a space. The places of each
    merge wait in a list; a heap tells which merge was learned first. A merge only makes work for later ones, and
    unlinks its right token from a doubly linked list instead of moving everything behind it."""
    n = len(ids)
    after, before = (
        array("i", range(1, n + 1)),
        array("i", range(-1, n - 1)),
    )  # a tenth of a list's size
    waiting = defaultdict(list)  # rank -> where such a pair starts
    for i, pair in enumerate(pairwise(ids)):
        if pair in ranks:
            waiting[ranks[pair]].append(i)
    heap = sorted(waiting)
    while heap:
        new = heapq.heappop(heap)
        for i in sorted(waiting.pop(new)):  # from left to right: "aaa" becomes "aa", "a"
            j = after[i]
            if j == n or ranks.get((ids[i], ids[j])) != new:
                continue  # one of the two was merged with something else meanwhile
            ids[i], ids[j] = new, -1
            k = after[i] = after[j]
            if k < n:
                before[k] = i
            for left, right in ((before[i], i), (i, k)):
                if left >= 0 and right < n and (rank := ranks.get((ids[left], ids[right]))):
                    if rank not in waiting:
                        heapq.heappush(heap, rank)
                    waiting[rank].append(left)
    return [token for token in ids if token >= 0]


class ChunkCache(dict):
    """chunk -> ids, computed when first asked for. Emptied when full: texts repeat, memory is bounded."""

    def __init__(self, compute, size=1 << 18, longest=256):
        super().__init__()
        self.compute, self.size, self.longest = compute, size, longest

    def __missing__(self, chunk):
        ids = tuple(self.compute(chunk))
        if len(chunk) <= self.longest:
            if len(self) >= self.size:
                self.clear()
            self[chunk] = ids
        return ids


# ---- 5. Safety: bytes, checks, files ---------------------------------------------------------------------------------

FORMAT, VERSION = "bpe-tokenizer", 1
MOST_BYTES = (
    1 << 28
)  # of all tokens together; 60 merges are enough to ask for a token of 2 ** 60 bytes
MOST_IDS = 1 << 31


def utf8(text):
    """ "é" -> b"\\xc3\\xa9". Half a surrogate pair, which a Python string may hold, has no bytes."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise TokenizerError(
            f"not Unicode text: it holds a lone surrogate, {text[e.start]!r}"
        ) from None


def byte_table(order):
    """The inverse of a byte order, byte -> id, as a table for bytes.translate."""
    return bytes(order.index(b) for b in range(256))


def check_merges(merges, byte_order):
    """Pairs of ids -> the bytes of every token, [b"!", ..., b"lo", b"low"], or an error."""
    tokens, seen, size = [bytes([b]) for b in byte_order], set(), 0
    for pair in merges:
        if len(pair) != 2 or not all(type(i) is int and 0 <= i < len(tokens) for i in pair):
            raise TokenizerError(f"merge {len(tokens)} must be two ids below its own, not {pair}")
        size += sum(len(tokens[i]) for i in pair)
        if size > MOST_BYTES:
            raise TokenizerError(f"the tokens are too long: over {MOST_BYTES} bytes together")
        token = tokens[pair[0]] + tokens[pair[1]]
        if token in seen:
            raise TokenizerError(f"merge {len(tokens)} makes {token!r} a second time")
        seen.add(token)
        tokens.append(token)
    return tokens


def number_specials(special_tokens, first_id):
    """["<a>", "<b>"], 300 -> {"<a>": 300, "<b>": 301}. {text: id} is kept, and both are checked."""
    if isinstance(special_tokens, str):
        raise TokenizerError("special_tokens must be a list of texts, not one text")
    texts, numbered = list(special_tokens), isinstance(special_tokens, dict)
    ids = (
        list(special_tokens.values()) if numbered else list(range(first_id, first_id + len(texts)))
    )
    if not all(isinstance(text, str) and text for text in texts):
        raise TokenizerError(f"special tokens must be texts that are not empty: {texts}")
    utf8("".join(texts))
    if len(set(texts)) < len(texts):
        raise TokenizerError(f"special tokens repeat: {texts}")
    if not all(type(i) is int and first_id <= i < MOST_IDS for i in ids) or len(set(ids)) < len(
        ids
    ):
        raise TokenizerError(
            f"special tokens need ids of their own from {first_id} up: {special_tokens}"
        )
    return dict(zip(texts, ids, strict=True))


def write_atomically(path, text):
    """Write beside the target, force it to the disk, then rename: a reader finds the old file or the new one, never
    half of one, also when the disk is full or the power goes."""
    beside = Path(f"{path}.{os.getpid()}.tmp")
    try:
        with open(beside, "w", encoding="utf-8", newline="\n") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


# ---- 6. Command line -------------------------------------------------------------------------------------------------


def read_blocks(path, progress=False):
    """Yield the text of a UTF-8 file ("-": standard input) in blocks, line ends as they are."""
    size = os.path.getsize(path) if progress else None
    with (
        open(0 if path == "-" else path, encoding="utf-8", newline="", closefd=path != "-") as f,
        tqdm(total=size, desc="reading", unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        try:
            while block := f.read(1 << 18):
                yield block
                bar.update(len(block.encode()))
        except UnicodeDecodeError:
            raise TokenizerError(f"{path} is not UTF-8 text") from None


def visible(data):
    """Token bytes -> text that is safe to print: b"a\\n" -> "a\u240a", b"\\xff" -> r"\\xff"."""
    text = data.decode("utf-8", "backslashreplace")
    return "".join(
        chr(0x2400 + ord(c)) if c < " " else c if c.isprintable() else ascii(c)[1:-1] for c in text
    )


def run_train(args):
    """learn a vocabulary from a UTF-8 text file"""
    if not Path(args.out).parent.is_dir() or Path(args.out).is_dir():  # say so before the training
        raise TokenizerError(f"cannot write {args.out}: a directory, or in one that does not exist")
    options = {
        name: getattr(args, name)
        for name in ("pattern", "special_tokens", "allowed_chars", "scaffold")
    }
    progress = sys.stderr.isatty()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        blocks = read_blocks(args.file, progress)
        tokenizer = BPETokenizer.train(blocks, args.vocab_size, progress=progress, **options)
    tokenizer.save(args.out)
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    used = Counter(
        chain.from_iterable(tokenizer.encode_blocks(islice(read_blocks(args.file), 40)))
    )  # the first 10 MB
    tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    ratio = sum(len(tokens[i]) * n for i, n in used.items()) / max(1, used.total())
    print(f"{args.out}: {tokenizer.vocab_size:,} tokens, {ratio:.3f} bytes/token")
    print(
        "longest:  ",
        *(f"[{visible(token)}]" for token in sorted(tokens, key=len, reverse=True)[:10]),
    )
    print("most used:", *(f"[{visible(tokens[i])}]" for i, _ in used.most_common(20)))


def run_encode(args):
    """text -> ids"""
    for ids in BPETokenizer.load(args.tokenizer).encode_blocks(read_blocks(args.file)):
        print(*ids)


def run_decode(args):
    """ids -> text"""
    try:
        ids = [int(word) for word in "".join(read_blocks(args.file)).split()]
    except ValueError as e:
        raise TokenizerError(f"{args.file} is not a list of ids: {e}") from None
    sys.stdout.buffer.write(BPETokenizer.load(args.tokenizer).decode_bytes(ids))


def run_show(args):
    """show the tokens of a text, each on a background of its own or with a bar behind it"""
    tokenizer, colours = BPETokenizer.load(args.tokenizer), cycle((24, 52, 22, 58, 54, 23))
    coloured = args.colour == "always" or (args.colour == "auto" and sys.stdout.isatty())
    for i in chain.from_iterable(tokenizer.encode_blocks(read_blocks(args.file))):
        data = tokenizer.token_bytes(i)
        text = visible(data) + (f"({i})" if args.ids else "")
        text = f"\x1b[48;5;{next(colours)};97m{text}\x1b[0m" if coloured else text + "|"
        print(text, end="\n" if data.endswith(b"\n") else "")
    print()


def run_compare(args):
    """bytes per token of several tokenizers on one text"""
    print(f"{'tokenizer':30} {'vocabulary':>10} {'tokens':>12} {'bytes/token':>12}")
    for path in args.tokenizers:
        tokenizer, n_tokens, n_bytes = BPETokenizer.load(path), 0, 0
        for ids in tokenizer.encode_blocks(read_blocks(args.file)):
            n_tokens += len(ids)
            n_bytes += len(tokenizer.decode_bytes(ids))
        print(
            f"{path:30} {tokenizer.vocab_size:10,} {n_tokens:12,} {n_bytes / max(1, n_tokens):12.3f}"
        )


class Parser(argparse.ArgumentParser):
    def error(self, message):  # one line, without the usage
        self.exit(2, f"bpe_tokenizer.py: {message}\n")


def main(argv=None):
    """Exit status: 0, 2 if the input is at fault, 1 if the machine is (a full disk, no permission)."""
    parser = Parser(prog="bpe_tokenizer.py", description="Train and use a byte-pair encoding.")
    commands = parser.add_subparsers(metavar="command", required=True)
    p = {}
    for run in (run_train, run_encode, run_decode, run_show, run_compare):
        name = run.__name__.removeprefix("run_")
        p[name] = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        p[name].set_defaults(run=run)
    for name in ("encode", "decode", "show"):
        p[name].add_argument("tokenizer", help="a file that train wrote")
        p[name].add_argument("file", nargs="?", default="-", help="default: standard input")
    p["show"].add_argument("--ids", action="store_true", help="with each token's id behind it")
    p["show"].add_argument("--colour", choices=("auto", "always", "never"), default="auto")
    p["compare"].add_argument("file")
    p["compare"].add_argument("tokenizers", nargs="+")
    p["train"].add_argument("file")
    p["train"].add_argument("--vocab-size", type=int, default=4096)
    p["train"].add_argument("--out", required=True, help="the JSON file to write")
    p["train"].add_argument(
        "--pattern", default="default", help=f"{', '.join(PATTERNS)}, or a regular expression"
    )
    p["train"].add_argument(
        "--special", dest="special_tokens", action="append", default=[], metavar="TOKEN"
    )
    p["train"].add_argument("--allowed-chars", metavar="CHARS", help="merge these characters only")
    p["train"].add_argument(
        "--scaffold", action="store_true", help="leave rare half-way tokens out (Scaffold-BPE)"
    )
    args = parser.parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has left (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    except (OSError, MemoryError, TokenizerError) as e:
        print(f"bpe_tokenizer.py: {e or 'out of memory'}", file=sys.stderr)
        at_fault = (TokenizerError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
        return 2 if isinstance(e, at_fault) else 1
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
