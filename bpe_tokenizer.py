"""Byte-pair encoding (BPE) from scratch: how text becomes the numbers that a language model reads.

One number per byte makes long sequences; one number per word needs an endless vocabulary. BPE
(arXiv:1508.07909) lies between. It starts with the 256 bytes, finds the pair of neighbors that is
most frequent in a training text, gives this pair a number of its own, and repeats that until the
vocabulary is large enough. Frequent words become one token, rare words a few; none is unknown.

Section 1 is the whole idea in its plainest form. Sections 2 to 4 give the same ids fast. Then come
files, other libraries, a variant, and: python bpe_tokenizer.py input.txt --out tokenizer.json

    tokenizer = BPETokenizer.train(open("input.txt").read(), 4096, special_tokens=["<|end|>"])
    assert tokenizer.decode(tokenizer.encode("Hello world")) == "Hello world"
"""

import heapq
import json
import os
import re
import sys
import warnings
from collections import Counter, defaultdict
from functools import cache
from itertools import chain, groupby, pairwise
from pathlib import Path

import regex
import tyro
from tqdm import tqdm

# ---------------------------------------------------------------------------- 1 THE WHOLE IDEA
# BYTES[i] is the byte with id i, in GPT-2's order: first those that Latin-1 prints, "!" is 0.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = bytes(PRINTABLE + [b for b in range(256) if b not in PRINTABLE])


def merge(ids, pair, new):
    """Replace each `pair` in ids by `new`, from left to right.

    >>> merge([5, 5, 5, 7], (5, 5), 256)
    [256, 5, 7]
    """
    out = []
    for i in ids:
        if out and (out[-1], i) == pair:
            out[-1] = new
        else:
            out.append(i)
    return out


def train(chunks, vocab_size):
    """Learn merges from the chunks of a text, usually words. Merge i makes token 256 + i.

    With "_" for the space before a word; among equal counts the smaller ids win:

        chunks                       counts of pairs                     new token
        low  _low  _lower            lo 3, ow 3, _l 2, we 1, er 1        256 = l o
        256 w  _ 256 w  _ 256 w e r  256 w 3, _ 256 2, w e 1, e r 1      257 = 256 w
        257  _ 257  _ 257 e r        _ 257 2, 257 e 1, e r 1             258 = _ 257

    >>> train(["low", " low", " lower"], 259)
    [(75, 78), (256, 86), (220, 257)]
    """
    words = [[BYTES.index(b) for b in chunk.encode()] for chunk in chunks]
    merges = []
    while len(merges) < vocab_size - 256:
        counts = Counter(pair for ids in words for pair in pairwise(ids))
        if not counts:  # each word is one token
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        words = [merge(ids, best, 256 + len(merges)) for ids in words]
        merges.append(best)
    return merges


def encode(chunk, merges):
    """Repeat the merges on a chunk, in the order in which they were learned.

    >>> encode(" lowest", [(75, 78), (256, 86), (220, 257)])  # " low", "e", "s", "t"
    [258, 68, 82, 83]
    """
    ids = [BYTES.index(b) for b in chunk.encode()]
    for i, pair in enumerate(merges):
        ids = merge(ids, pair, 256 + i)
    return ids


def decode(ids, merges):
    """Join the bytes of the tokens. Bytes that are no whole character become U+FFFD.

    >>> decode([258, 68, 82, 83], [(75, 78), (256, 86), (220, 257)])
    ' lowest'
    """
    tokens = [bytes([b]) for b in BYTES]
    for a, b in merges:
        tokens.append(tokens[a] + tokens[b])
    return b"".join(tokens[i] for i in ids).decode("utf-8", "replace")


# ------------------------------------------------------------------------------------- 2 SPLIT
# No merge crosses the end of a chunk: else "dog.", "dog!" and "dog?" would all become tokens.
# [\p{L}] is any letter, [\p{N}] any digit, always in brackets: Splitter replaces what is inside.
ENDING = r"|[\p{N}]{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4_WORD = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?[\p{L}]"
PATTERNS = {
    # GPT-2: contractions, words, numbers, symbols (each with the space before it), white space.
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # GPT-4: a word may start with any one symbol; up to three digits; line ends apart.
    "gpt4": GPT4_WORD + "+" + ENDING,
    # GPT-4's, but a word keeps combining marks [\p{M}] (Hindi, Thai, loose accents) and joiners.
    "default": GPT4_WORD + "[\\p{L}\\p{M}\u200c\u200d]*" + ENDING,
}
BLOCK = 1 << 13  # characters that are split at a time
HELD_BACK = 4  # chunks at a block's end that later text may change, with some to spare


class TokenizerError(ValueError):
    """Something is wrong with what the caller gave: a text, an id, an option, a file."""


@cache
def ranges(name):
    """A class of `regex` as ranges up to U+FFFF, for Python's own `re`."""
    runs = regex.findall(f"{name}+", "".join(map(chr, range(1 << 16))))
    return "".join(rf"\u{ord(run[0]):04x}-\u{ord(run[-1]):04x}" for run in runs)


class Splitter:
    """Cuts text into chunks: "Hello  world's" -> ["Hello", " ", " world", "'s"].

    pattern: a key of PATTERNS, or a regular expression without capturing groups.
    """

    def __init__(self, pattern="default"):
        try:
            self.pattern = PATTERNS.get(pattern, pattern)
            compiled = regex.compile(self.pattern)
            if not self.pattern or compiled.groups:
                raise TypeError("empty, or a group without ?:")
        except (regex.error, TypeError) as error:
            raise TokenizerError(f"bad pattern {pattern!r}: {error}") from None
        self.findall = self.findall_fast = compiled.findall
        self.is_ours = self.pattern in PATTERNS.values()
        if self.is_ours:  # Python's own re is twice as fast, but has no \p{L}
            fast = re.sub(r"\\p\{.\}", lambda name: ranges(name[0]), self.pattern)
            fast = re.sub(r"\]([*+?])", r"]\1+", fast)  # possessive: `re` keeps no way back
            self.findall_fast = re.compile(fast).findall

    def split(self, text):
        # `re` would split differently at four controls and beyond U+FFFF (4 bytes in UTF-16).
        beyond = len(text.encode("utf-16-le", "surrogatepass")) > 2 * len(text)
        beyond = beyond or any(map(text.__contains__, "\x1c\x1d\x1e\x1f"))
        chunks = self.findall(text) if beyond else self.findall_fast(text)
        if not self.is_ours and "".join(chunks) != text:
            raise TokenizerError(rf"the pattern skips text; end it with |[\s\S]: {self.pattern}")
        return chunks

    def split_blocks(self, text):
        """Yield lists of chunks, of a text or of an iterable of its pieces, cut anywhere.

        ["He", "llo wor", "ld"] has the chunks of "Hello world". That holds for patterns where text
        that follows can change only the last HELD_BACK chunks, as it does for all PATTERNS.
        """
        waiting, enough = "", BLOCK
        for piece in [text] if isinstance(text, str) else text:
            for start in range(0, len(piece), BLOCK):
                waiting += piece[start : start + BLOCK]
                if len(waiting) >= enough:
                    chunks = self.split(waiting)
                    waiting = "".join(chunks[-HELD_BACK:])
                    enough = max(BLOCK, 2 * len(waiting))  # a long chunk is rescanned a few times
                    yield chunks[:-HELD_BACK]
        yield self.split(waiting)


# ------------------------------------------------------------------------------------- 3 TRAIN
class Trainer:
    """The merges of `train`, from {ids of a word's bytes: how often it occurs}.

    A merge changes only the counts of neighboring pairs. So we keep all counts, and where[pair]:
    the words that had the pair when it was new. A heap yields the most frequent pair. A new pair
    contains the newest token, so all its occurrences are known at once, and later it can only lose
    some: its count in the heap may be too high, never too low. It is corrected at the top.
    """

    def __init__(self, words):
        self.words, self.weight = [list(word) for word in words], list(words.values())
        self.count, self.where, self.merges = Counter(), defaultdict(list), []
        self.learned = {"merges": self.merges}  # arguments of the tokenizer
        for w, ids in enumerate(self.words):
            for pair in pairwise(ids):
                self.count[pair] += self.weight[w]
                self.where[pair].append(w)
        self.heap = [(-count, pair) for pair, count in self.count.items()]
        heapq.heapify(self.heap)

    def learn(self, n_tokens, progress=False):
        """Merge n_tokens times, or until no pair is left. Progress shows only on a terminal."""
        for _ in tqdm(range(n_tokens), "merging", leave=False, disable=None if progress else True):
            if not self.best_count():
                break
            self.merge(heapq.heappop(self.heap)[1])

    def best_count(self):
        """The count of the most frequent pair, which is then at the top; 0 if none is left."""
        while self.heap:
            claimed, pair = self.heap[0]
            if self.count[pair] == -claimed:
                return -claimed
            heapq.heapreplace(self.heap, (-self.count[pair], pair))
        return 0

    def merge(self, pair):
        """Give `pair` the next id wherever it stands; returns how often that was."""
        (a, b), new, n_merged = pair, 256 + len(self.merges), 0
        self.merges.append(pair)
        made = defaultdict(list)  # the part of `where` for the new pairs
        for w in set(self.where.pop(pair)):
            ids, i = self.words[w], 0
            while i < len(ids) - 1:
                if ids[i] == a and ids[i + 1] == b:
                    ids[i : i + 2] = [new]
                    n_merged += self.weight[w]
                    if i > 0:
                        made[ids[i - 1], new].append(w)
                    if i + 1 < len(ids):
                        made[new, ids[i + 1]].append(w)
                i += 1
        for (x, y), words in made.items():  # all words at once: fewer look-ups
            n = sum(map(self.weight.__getitem__, words))
            self.count[(x, a) if y == new else (b, y)] -= n  # x a b is now x new, a b y: new y
            self.count[x, y] += n
            heapq.heappush(self.heap, (-self.count[x, y], (x, y)))
        self.where |= made
        del self.count[pair]
        return n_merged


# ------------------------------------------------------------------------------------ 4 ENCODE
def apply_merges(ids, ranks):
    """The ids of `encode`, in O(n log n). ranks: {pair: id of its merge}.

    A heap yields the pair that was learned first, from left to right. The tokens form a doubly
    linked list, so a merge moves nothing. The pairs that it makes were learned later than itself.
    """
    ids = [*ids, -1]  # a sentinel: after the last token and, as ids[-1], before the first
    n = len(ids)
    after, before = list(range(1, n + 1)), list(range(-1, n - 1))
    heap = [ranks[pair] * n + i for i, pair in enumerate(pairwise(ids)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        new, i = divmod(heapq.heappop(heap), n)
        j = after[i]
        if ranks.get((ids[i], ids[j])) == new:  # else one of the two is part of another token
            k = after[j]
            ids[i], ids[j], after[i], before[k] = new, -1, k, i
            for left, right in ((before[i], i), (i, k)):
                if rank := ranks.get((ids[left], ids[right])):
                    heapq.heappush(heap, rank * n + left)
    return [token for token in ids if token >= 0]


def number_specials(special_tokens, first_id):
    """["<a>", "<b>"], 300 -> {"<a>": 300, "<b>": 301}; {text: id} stays as it is. Checks both."""
    numbered = {text: i for i, text in enumerate(special_tokens, first_id)}
    if isinstance(special_tokens, dict):
        numbered = dict(special_tokens)
    texts = [text for text in numbered if isinstance(text, str) and text]
    ids = {i for i in numbered.values() if type(i) is int and first_id <= i < 1 << 31}
    if isinstance(special_tokens, str) or not len(special_tokens) == len(texts) == len(ids):
        raise TokenizerError(f"bad special tokens (ids from {first_id} up): {special_tokens!r}")
    return numbered


class BPETokenizer:
    """Text -> ids -> text. Ids: the 256 bytes, merged tokens in the order learned, special tokens.

    Make one with BPETokenizer.train, load or from_tiktoken. merges: pairs of ids.
    pattern: see Splitter. special_tokens: a list of texts, or {text: id}. allowed_chars: the only
    characters that may be merged, None for all; others stay single bytes.
    """

    trainer = Trainer

    def __init__(
        self, merges=(), pattern="default", special_tokens=(), allowed_chars=None, byte_order=BYTES
    ):
        self.splitter = Splitter(pattern)
        self.pattern = self.splitter.pattern
        self.merges = [tuple(pair) for pair in merges]
        self.allowed_chars = None if allowed_chars is None else "".join(sorted({*allowed_chars}))
        self.byte_order = list(byte_order)
        if sorted(self.byte_order) != list(range(256)):
            raise TokenizerError("byte_order must hold each of the 256 bytes once")
        tokens = self._list_tokens()
        self.special_tokens = number_specials(special_tokens, len(tokens))
        self._bytes = dict(enumerate(tokens))
        self._bytes |= {i: text.encode() for text, i in self.special_tokens.items()}
        self.vocab_size = max(self._bytes) + 1
        self._byte_ids = bytes(map(self.byte_order.index, range(256)))  # for bytes.translate
        self._ranks = {pair: i for i, pair in enumerate(self.merges, 256)}
        self._cache = {}  # chunk -> ids

    def _list_tokens(self):
        """The bytes of every token but special ones, [b"!", ..., b"lo", b"low"]."""
        tokens, size = [bytes([b]) for b in self.byte_order], 0
        for new, (a, b) in enumerate(self.merges, 256):
            if not 0 <= a < new or not 0 <= b < new:
                raise TokenizerError(f"merge {new} must be two ids below its own, not {a}, {b}")
            size += len(tokens[a]) + len(tokens[b])
            if size > 1 << 28:  # each merge may double a token: a small file asks for 2 ** 60 bytes
                raise TokenizerError("the tokens are too long: over 2 ** 28 bytes together")
            tokens.append(tokens[a] + tokens[b])
        return tokens

    @classmethod
    def train(cls, text, vocab_size, progress=True, **options):
        """Learn a vocabulary: BPETokenizer.train("low low lower", 259) has "lo", "low", " low".

        text: a text, or an iterable of its pieces, cut anywhere, which are read one by one.
        options: pattern, special_tokens, allowed_chars, see the class. Special tokens in the text
        count as plain text. With too few pairs, the vocabulary is smaller, and a warning says so.
        """
        empty = cls(**options)  # checks the options before the text is read
        options["special_tokens"] = list(empty.special_tokens)  # their ids come after the merges
        smallest = 256 + len(empty.special_tokens)
        if type(vocab_size) is not int or vocab_size < smallest:
            raise TokenizerError(f"vocab_size {vocab_size!r}: must be {smallest} or more")
        words = Counter()
        for chunk, n in Counter(chain.from_iterable(empty.splitter.split_blocks(text))).items():
            for may_merge, ids in empty._runs(chunk):
                if may_merge:
                    words[ids] += n
        trainer = cls.trainer(words)
        trainer.learn(vocab_size - smallest, progress)
        tokenizer = cls(**trainer.learned, **options)
        if tokenizer.vocab_size < vocab_size:
            found = f"{tokenizer.vocab_size} tokens, not {vocab_size}"
            warnings.warn(f"no pairs left to merge: {found}", stacklevel=2)
        return tokenizer

    def encode(self, text, allowed_special=()):
        """The ids of a text. Special tokens in it count as plain text, so that no user can smuggle
        them in, except those in allowed_special: a list of them, or "all"."""
        allowed = self.special_tokens if allowed_special == "all" else allowed_special
        longest_first = map(re.escape, sorted(allowed, key=len, reverse=True))
        pieces = re.split(f"({'|'.join(longest_first)})", text) if allowed else [text]
        ids = []
        for i, piece in enumerate(pieces):
            blocks = [[self.special_tokens[piece]]] if i % 2 else self.encode_blocks(piece)
            ids.extend(chain.from_iterable(blocks))
        return ids

    def encode_blocks(self, blocks):
        """Yield the ids of a text in pieces, cut anywhere; special tokens count as plain text."""
        for chunks in self.splitter.split_blocks(blocks):
            try:
                ids = list(chain.from_iterable(map(self._cache.__getitem__, chunks)))
            except KeyError:  # a new chunk
                if len(self._cache) > 1 << 18:  # bounds the memory
                    self._cache.clear()
                for chunk in set(chunks).difference(self._cache):
                    self._cache[chunk] = self._encode_chunk(chunk)
                ids = list(chain.from_iterable(map(self._cache.__getitem__, chunks)))
            yield ids

    def _encode_chunk(self, chunk):
        out = []
        for may_merge, ids in self._runs(chunk):
            out += apply_merges(ids, self._ranks) if may_merge else ids
        return out

    def _runs(self, chunk):
        """Yield (may be merged, ids of the bytes): for "abXc" of "ab", "X", "c" if X may not be."""
        allowed = self.allowed_chars
        runs = [(True, chunk)] if allowed is None else groupby(chunk, allowed.__contains__)
        try:
            for may_merge, run in runs:
                yield may_merge, "".join(run).encode().translate(self._byte_ids)
        except UnicodeEncodeError as error:  # half of a surrogate pair, as a Python string may hold
            raise TokenizerError(f"not Unicode text: {error}") from None

    def decode(self, ids, errors="replace"):
        """The text of ids (a list, an array or a tensor). Part of a character becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors)

    def decode_bytes(self, ids):
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        try:
            return b"".join([self._bytes[i] for i in ids])
        except (KeyError, TypeError) as error:
            raise TokenizerError(f"unknown id: {error} (vocabulary {self.vocab_size})") from None

    def token_bytes(self, token_id):
        return self.decode_bytes([token_id])

    # --------------------------------------------------------------------------------- 5 FILES
    FIELDS = ("pattern", "special_tokens", "allowed_chars", "byte_order", "merges")

    def to_json(self):
        """The tokenizer as JSON. Merges are pairs of ids, so no bytes have to be written."""
        data = {name: getattr(self, name) for name in self.FIELDS}
        return json.dumps({"format": "bpe-tokenizer", "version": 1} | data)

    def save(self, path):
        """Write to_json under a temporary name, then rename: no file is ever half written."""
        temporary = Path(f"{path}.{os.getpid()}.tmp")
        temporary.write_text(self.to_json(), "utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path):
        """Read a file that `save` of this class or of a subclass wrote, and check all of it."""
        try:
            data = json.loads(Path(path).read_text("utf-8"))
            if (data["format"], data["version"]) != ("bpe-tokenizer", 1):
                raise ValueError("another format or version")
            kind = next((sub for sub in cls.__subclasses__() if data.get(sub.FIELDS[-1])), cls)
            return kind(**{name: data[name] for name in kind.FIELDS})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise TokenizerError(f"{path} is not a tokenizer file, or damaged: {error!r}") from None

    def _exported_tokens(self):
        if not (self.allowed_chars or "").isascii():
            raise TokenizerError("other libraries can keep only to allowed_chars that are ASCII")
        return [self._bytes[i] for i in range(256 + len(self.merges))]

    def to_tiktoken(self):
        """A tiktoken.Encoding that gives the same ids."""
        import tiktoken

        ranks = {token: i for i, token in enumerate(self._exported_tokens())}
        options = {"pat_str": self.pattern, "special_tokens": self.special_tokens}
        return tiktoken.Encoding("bpe_tokenizer", mergeable_ranks=ranks, **options)

    @classmethod
    def from_tiktoken(cls, encoding):
        """A tokenizer that gives the ids of a tiktoken.Encoding, which holds tokens but no merges.
        The merges before a token turn its bytes into two tokens: that pair is its merge."""
        tokens = sorted(encoding._mergeable_ranks, key=encoding._mergeable_ranks.get)
        order, ranks = b"".join(tokens[:256]), {}
        for i, token in enumerate(tokens[256:], 256):
            parts = apply_merges([order.index(b) for b in token], ranks)
            if len(parts) != 2 or encoding._mergeable_ranks[token] != i:
                raise TokenizerError(f"token {i}, {token!r}, is not a merge of two earlier tokens")
            ranks[tuple(parts)] = i
        return cls(ranks, encoding._pat_str, encoding._special_tokens, byte_order=order)

    def to_huggingface(self, path):
        """Write a tokenizer.json for `tokenizers`, which always takes special tokens as such."""
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

        letters = dict(zip(BYTES, map(chr, [*PRINTABLE, *range(256, 324)]), strict=True))
        words = ["".join(map(letters.get, token)) for token in self._exported_tokens()]
        if "}+" in self.pattern or set(words) & self.special_tokens.keys():
            raise TokenizerError("tokenizers misreads {m,n}+ and special tokens that are merges")
        vocab = {word: i for i, word in enumerate(words)} | self.special_tokens
        theirs = Tokenizer(models.BPE(vocab, [(words[a], words[b]) for a, b in self.merges]))
        split = pre_tokenizers.Split(Regex(self.pattern), "isolated")
        to_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        theirs.pre_tokenizer = pre_tokenizers.Sequence([split, to_letters])
        theirs.decoder = decoders.ByteLevel()
        theirs.add_special_tokens(list(self.special_tokens))
        theirs.save(str(path))


# ------------------------------------------------------------------------------ 6 SCAFFOLD-BPE
ALONE = 1 << 60  # (id, ALONE) in the heap: a scaffold, which may become a token again


class ScaffoldTrainer(Trainer):
    """Scaffold-BPE (arXiv:2404.17808, Algorithm 1).

    On the way to "ing " BPE may learn "in" and "ing", which are then rare on their own. Such a
    scaffold still takes part in merges but has no place in the vocabulary. After a merge, each of
    its two parts becomes a scaffold if it is now rarer than the best pair. It waits in the heap
    among the pairs and is a token again when it is the most frequent there. Bytes always stay.
    """

    def __init__(self, words):
        super().__init__(words)
        self.scaffolds = self.learned["scaffolds"] = set()
        self.frequency = Counter()  # of each merged token, as it stands in the text now

    def learn(self, n_tokens, progress=False):
        while len(self.merges) - len(self.scaffolds) < n_tokens and self.best_count():
            pair = heapq.heappop(self.heap)[1]
            if pair[1] == ALONE:
                self.scaffolds.remove(pair[0])
                del self.count[pair]
            else:
                self.mark_scaffolds(pair, self.merge(pair))

    def mark_scaffolds(self, pair, n_merged):
        """Lines 16 to 22 of the algorithm, after `pair` was merged n_merged times."""
        self.frequency[255 + len(self.merges)] = n_merged
        for part in pair:
            self.frequency[part] -= n_merged
            if part in self.scaffolds:
                self.count[part, ALONE] = self.frequency[part]
        best = self.best_count()
        for part in set(pair) - self.scaffolds:
            if part >= 256 and self.frequency[part] < best:
                self.scaffolds.add(part)
                self.count[part, ALONE] = self.frequency[part]
                heapq.heappush(self.heap, (-self.frequency[part], (part, ALONE)))


class ScaffoldTokenizer(BPETokenizer):
    """Splits scaffolds into their parts again (Algorithm 2). The others are numbered anew."""

    trainer = ScaffoldTrainer
    FIELDS = (*BPETokenizer.FIELDS, "scaffolds")

    def __init__(self, *args, scaffolds=(), **options):
        self.scaffolds = sorted(scaffolds)
        super().__init__(*args, **options)

    def _list_tokens(self):
        tokens = super()._list_tokens()
        kept = sorted(set(range(len(tokens))) - set(self.scaffolds))
        if len(kept) + len(self.scaffolds) > len(tokens) or kept[:256] != list(range(256)):
            raise TokenizerError("scaffolds must be ids of merged tokens")
        self._output = {old: [new] for new, old in enumerate(kept)}
        for s in self.scaffolds:  # its parts have smaller ids: they are done
            a, b = self.merges[s - 256]
            self._output[s] = self._output[a] + self._output[b]
        return [tokens[i] for i in kept]

    def _encode_chunk(self, chunk):
        return [new for old in super()._encode_chunk(chunk) for new in self._output[old]]

    def _exported_tokens(self):
        raise TokenizerError("other libraries cannot take tokens apart: no export with scaffolds")


# ------------------------------------------------------------------------------ 7 COMMAND LINE
def main(file: str, /, out: str, vocab_size: int = 4096, special: tuple[str, ...] = ()):
    """Learn a vocabulary from a UTF-8 text file and write it to the JSON file --out."""
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            tokenizer = BPETokenizer.train(lines, vocab_size, special_tokens=special)
        tokenizer.save(out)
    except (TokenizerError, UnicodeDecodeError, OSError, KeyboardInterrupt) as error:
        sys.exit(f"bpe_tokenizer.py: {file}: {str(error) or 'interrupted'}")
    print(f"{out}: {tokenizer.vocab_size:,} tokens")


if __name__ == "__main__":
    tyro.cli(main)
