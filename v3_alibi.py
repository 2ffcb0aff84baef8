"""v3: distances as a bias on the scores. Train on short windows, read long ones.

Same as v2: tokens, the blocks but for where positions enter, the optimizer, generation, checkpoints, training.
New:
  - `attention_bias`: every head lowers its scores in proportion to the distance, each at its own rate, in RoPE's
    place (ALiBi, arXiv:2108.12409). No angle that was never seen in training appears in a longer window.
  - `evaluate_context` (`eval --context N`): the same tokens scored with more context than training had.
  - `--allowed-chars`: a vocabulary whose merges keep to these characters, such as those of English.
Changed sections: 1 CONFIG, 2 TOKENIZER AND DATA, 3 MODEL, 5 EVALUATION, 10 COMMAND LINE
Measured: 0.364 bits/byte on input.txt (0.172 above its entropy), 1,313,024 parameters, 96 s on 2 CPU cores
Run: python v3_alibi.py [train|sample|eval] [--context N] [--help]
"""

import argparse
import ctypes
import hashlib
import io
import json
import math
import os
import signal
import sys
import threading
import time
import warnings
import zipfile
import zlib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from tqdm import tqdm

from bpe_tokenizer import BPETokenizer

VERSION = Path(__file__).stem  # names the run folder and marks the checkpoints

# ----------------------------------------------------------------------------------------------------------- 1 CONFIG


class Halt(Exception):
    """Ends a command with one line on standard error and an exit status.

    Status 2: the user's to mend (the default). 1: the machine's. 128 + n: stopped by signal n.
    """

    def __init__(self, message, status=2):
        super().__init__(message)
        self.status = status


def knob(default, help, low=0, high=math.inf, choices=None):
    """One field of Config: its default, the text that --help prints, and the values it may take."""
    return field(default=default, metadata={"help": help, "low": low, "high": high, "choices": choices})


@dataclass
class Config:
    """Every knob of a run, each also a flag (`batch_size` is `--batch-size`). Raises Halt on a bad value."""

    # data
    data: str = knob("input.txt", "UTF-8 text to learn from; its last tenth is the validation split")
    tokenizer: str = knob("", "tokenizer.json to use; --vocab-size is then ignored (default: learned from --data)")
    vocab_size: int = knob(0, "tokens to learn, 256 or more (0: one per 256 bytes of text, from 512 to 4096)")
    allowed_chars: str = knob("", "learn merges among these characters only (default: among all)")
    block_size: int = knob(256, "context length in tokens", low=1, high=2**20)
    batch_size: int = knob(8, "windows of block_size tokens per step", low=1, high=2**20)
    # model
    n_layer: int = knob(0, "transformer blocks (0: one per 15 of --max-seconds, from 1 to 4; else 4)", high=1000)
    n_head: int = knob(4, "attention heads per block; must divide n_embd", low=1)
    n_embd: int = knob(128, "width of the residual stream", low=1, high=2**16)
    dropout: float = knob(0.0, "probability of dropping an activation in training", high=0.99)
    dropout_schedule: str = knob("constant", "linear grows from 0 to --dropout", choices=("constant", "linear"))
    # optimizer
    learning_rate: float = knob(0.006, "step size of AdamW at its peak", high=10**6)
    lr_floor: float = knob(0.01, "fraction of the peak at which the cosine ends", high=1)
    warmup: float = knob(0.05, "fraction of the budget in which the learning rate rises to its peak", high=1)
    beta1: float = knob(0.8, "AdamW's decay of the gradient's mean", high=0.9999)
    beta2: float = knob(0.99, "AdamW's decay of the squared gradient's mean", high=0.9999)
    weight_decay: float = knob(1.0, "of matrices and embeddings; biases and gains are left alone")
    grad_clip: float = knob(1.0, "largest norm of the gradient over all weights")
    # budget: whichever runs out first ends the run
    max_steps: int = knob(0, "budget in steps (0: none; 1400 where --max-seconds is not given either)")
    max_seconds: float = knob(0.0, "budget in seconds of training, evaluation not counted (0: none)")
    evals: int = knob(10, "evaluations on the validation split's first megabyte, spread evenly over the budget", low=1)
    save_seconds: float = knob(30.0, "seconds of training between checkpoints; each evaluation also writes one")
    # run
    out: str = knob("", "run folder (default: a new one, runs/VERSION/1, 2, ...; sample and eval: the newest)")
    resume: bool = knob(False, "go on from the run folder's checkpoint")
    overwrite: bool = knob(False, "let --out name a folder that already holds a run, and replace that run")
    seed: int = knob(1337, "batches, initial weights and samples derive from it", high=2**31 - 1)
    device: str = knob("auto", "auto (CUDA, then MPS, then CPU) or a torch device such as cpu or cuda:1")
    dtype: str = knob("auto", "of matrix products in training", choices=("auto", "float32", "bfloat16"))
    context: int = knob(0, "eval: score with windows of this length, block_size to 4 x block_size (0: block_size)")
    # generation
    prompt: str = knob("", "text to continue (default: the start of a paragraph)")
    max_new_tokens: int = knob(600, "tokens to generate")
    temperature: float = knob(0.8, "divides the logits: below 1 sharpens, 0 always takes the likeliest token")
    top_k: int = knob(0, "sample from the k likeliest tokens only (0: from all)")
    top_p: float = knob(1.0, "sample from the likeliest tokens that together hold this probability", low=0.001, high=1)
    stop: str = knob("", "end the sample before this text")

    def __post_init__(self):
        for f in fields(self):
            value, low, high, choices = getattr(self, f.name), *(f.metadata[k] for k in ("low", "high", "choices"))
            flag = "--" + f.name.replace("_", "-")
            kind = (int, float) if isinstance(f.default, float) else type(f.default)
            if not isinstance(value, kind) or isinstance(value, bool) != isinstance(f.default, bool):  # True is an int
                raise Halt(f"{flag} {value!r}: must be of type {type(f.default).__name__}")
            if isinstance(value, str) and (value.encode(errors="replace").decode() != value or "\0" in value):
                raise Halt(f"{flag} {value!a}: not Unicode text, or with a NUL character")
            if choices and value not in choices:
                raise Halt(f"{flag} {value}: choose from {', '.join(choices)}")
            if isinstance(value, (int, float)) and not (low <= value <= high and abs(value) <= sys.float_info.max):
                raise Halt(f"{flag} {value}: must be {low} {'or more' if high == math.inf else f'to {high}'}")
        if 0 < self.vocab_size < 256:
            raise Halt(f"--vocab-size {self.vocab_size}: must be 256 or more, for every byte is a token")
        if self.n_embd % self.n_head:
            raise Halt(f"--n-head {self.n_head}: must divide --n-embd {self.n_embd}")
        if self.context and not self.block_size <= self.context <= REACH * self.block_size:
            raise Halt(f"--context {self.context}: must be {self.block_size} to {REACH * self.block_size}")
        if not self.n_layer:  # the less time, the fewer blocks: so the model sees more of the text
            self.n_layer = min(4, max(1, int(self.max_seconds // 15))) if self.max_seconds else 4
        if not self.max_steps and not self.max_seconds:
            self.max_steps = 1400


# ----------------------------------------------------------------------------------------------- 2 TOKENIZER AND DATA


BLOCK = 2**18  # characters of a text that are in memory at a time
LEARN_BYTES = 50_000_000  # of the training split are at most what a tokenizer is learned from


def read_text(path, start=0, stop=sys.maxsize):
    """Yield characters start to stop of a UTF-8 file in blocks, line ends as they are. Raises Halt."""
    try:
        file, at = open(path, encoding="utf-8", newline="\n"), 0
    except OSError as error:
        raise Halt(f"--data {path}: {error.strerror.lower()}; give a UTF-8 text file") from None
    with file:
        try:
            while at < stop and (block := file.read(min(BLOCK, (start if at < start else stop) - at))):
                if at >= start:
                    yield block
                at += len(block)
        except UnicodeDecodeError as error:  # which knows its place in the bytes that were read last
            at = file.buffer.tell() - len(error.object) + error.start
            raise Halt(f"--data {path}: not UTF-8 (byte {at}); convert it, or choose a text file") from None


def load_tokenizer(path):
    """The tokenizer in a file that BPETokenizer.save wrote. Raises Halt if it is missing or damaged."""
    try:
        return BPETokenizer.load(path)
    except (OSError, ValueError) as error:
        raise Halt(f"{path}: not a usable tokenizer ({error})") from None


def make_tokenizer(text, cfg):
    """The tokenizer that cfg names, or one learned from a text or an iterable of its blocks. Raises Halt."""
    if cfg.tokenizer:
        return load_tokenizer(cfg.tokenizer)
    try:
        return BPETokenizer.train(text, cfg.vocab_size, allowed_chars=cfg.allowed_chars or None, progress=False)
    except ValueError as error:
        raise Halt(f"--data {cfg.data}: {error}") from None


@dataclass
class Corpus:
    """A text as token ids: the first 90 % of its characters to learn from, the rest to be judged on."""

    tokenizer: BPETokenizer
    train: np.ndarray  # (tokens of training,)
    val: np.ndarray  # (1 + tokens of validation,): begins with training's last token, to predict the first from
    train_bytes: int  # UTF-8 bytes of each split
    val_bytes: int
    sha256: str  # of the file, so that a resumed run notices another text
    floor: float | None  # bits/byte of validation that no model can beat, where the text's maker knows it


def read_floor(path, sha256):
    """The text's entropy, in bits/byte of the validation split, from FILE.json beside it; None if unknown."""
    try:
        known = json.loads(Path(f"{path}.json").read_bytes())
        return float(known["floor_bits_per_byte"]["validation"]) if known["sha256"] == sha256 else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def is_whole(path):
    """Whether a file is there and ends with the CRC-32 of what comes before."""
    crc = 0
    if path.exists():
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                crc = zlib.crc32(block, crc)
    return crc == 0x2144DF1C  # of anything followed by its own CRC-32


def sweep(folder):
    """Delete the half-written files in a folder that killed runs left; one that is being written now is younger."""
    for path in folder.glob("*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > 3600:
                path.unlink()
        except FileNotFoundError:  # another run was faster
            pass


def encode_split(path, start, stop, sha256, tokenizer):
    """Token ids of characters start to stop of a text, (tokens,), two bytes each where the vocabulary allows.

    Memory-mapped from a file in runs/cache that is named by a hash of text and tokenizer, so it serves every run that
    needs just this; the CRC-32 of the ids follows them in 4 bytes. Raises Halt.
    """
    tok, dtype = tokenizer, np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    what = (tok.pattern, tok.merges, sorted(tok.scaffolds), tok.byte_order, sorted(tok.allowed_chars or ()))
    key = hashlib.sha256(repr((what, tok.allowed_chars is None, dtype, sha256, start, stop)).encode()).hexdigest()
    cached = Path("runs", "cache", f"{key[:24]}.ids")

    def content():
        """What the file holds, in blocks."""
        crc = 0
        for ids in tok.encode_blocks(read_text(path, start, stop)):
            block = np.array(ids, dtype).tobytes()
            crc = zlib.crc32(block, crc)
            yield block
        yield crc.to_bytes(4, "little")

    if not is_whole(cached):
        cached.parent.mkdir(parents=True, exist_ok=True)
        sweep(cached.parent)
        try:
            write_file(cached, content(), f".{os.getpid()}")  # another run may be writing the same
        except ValueError as error:
            raise Halt(f"--tokenizer: {error}") from None
    return np.memmap(cached, np.uint8, "r")[:-4].view(dtype)


def load_corpus(cfg, tokenizer=None):
    """Read cfg.data, split it 90 : 10, encode both parts. Raises Halt for a text that cannot be used.

    A run that goes on, or is evaluated, passes its tokenizer; without one, one is made for this text.
    """
    sha256, n, n_bytes, n_learn = hashlib.sha256(), 0, 0, 0
    for block in read_text(cfg.data):
        sha256.update(raw := block.encode())
        n, n_bytes = n + len(block), n_bytes + len(raw)
        n_learn = n if n_bytes <= LEARN_BYTES else n_learn
    mark = int(next(read_text(cfg.data, 0, 1), "") == "\ufeff")  # a byte-order mark is no part of the text
    cut, sha256 = mark + (n - mark) * 9 // 10, sha256.hexdigest()
    if not cfg.vocab_size:  # a token that occurs less than a few dozen times is learned by heart, not understood
        cfg = replace(cfg, vocab_size=min(max(n_bytes // 256, 512), 4096))
    tokenizer = tokenizer or make_tokenizer(read_text(cfg.data, mark, min(cut, n_learn)), cfg)
    train, val = (encode_split(cfg.data, *ends, sha256, tokenizer) for ends in ((mark, cut), (cut, n)))
    if len(train) <= cfg.block_size:
        need = f"more than --block-size {cfg.block_size} are needed; give a longer text or a smaller --block-size"
        raise Halt(f"--data {cfg.data}: its training split has {len(train)} tokens, but {need}")
    train_bytes = sum(len(block.encode()) for block in read_text(cfg.data, mark, cut))
    val_bytes = n_bytes - 3 * mark - train_bytes
    val = np.concatenate((train[-1:], val))
    return Corpus(tokenizer, train, val, train_bytes, val_bytes, sha256, read_floor(cfg.data, sha256))


def get_batch(tokens, cfg, step, device):
    """Inputs and targets of one step, (B, T) each, a pure function of (seed, step).

    The first window begins at a random place, each next one further on by the golden ratio of the text, round and
    round, which keeps the gaps between them even: one pass misses 11 to 14 % of the text, two miss nothing. At random
    places one would miss 37 % (1/e), and read other parts two or three times.
    """
    first, golden = np.random.default_rng(cfg.seed).random(), (5**0.5 - 1) / 2
    places = (first + golden * (step * cfg.batch_size + np.arange(cfg.batch_size))) % 1  # (B), parts of the text
    starts = (places * (len(tokens) - cfg.block_size)).astype(np.int64)[:, None]  # (B, 1)
    windows = tokens[starts + np.arange(cfg.block_size + 1)].astype(np.int64)  # (B, T + 1)
    windows = torch.from_numpy(windows).to(device)
    return windows[:, :-1], windows[:, 1:]


# ------------------------------------------------------------------------------------------------------------ 3 MODEL
# Shapes: B batch, T time (tokens), C width n_embd, H heads, D head width C / H, F feed-forward width, V vocabulary.


def alibi_slopes(n_head):
    """Slopes 2^(-8 h / H) for h = 1 to H (arXiv:2108.12409, section 3) where the number of heads is a power of two.

    Else those of the power below it, then every other slope of the power above, as in the authors' code.
    Example: alibi_slopes(4) -> [0.25, 0.0625, 0.015625, 0.00390625]
    """
    below = 2 ** int(math.log2(n_head))
    slopes = [2.0 ** (-8 * h / below) for h in range(1, below + 1)]
    return slopes + [2.0 ** (-4 * h / below) for h in range(1, 2 * below, 2)][: n_head - below]


def attention_bias(T, n_head, device):
    """Added to the scores: -slope * (i - j) for a later position i (row) than j (column); ahead, minus infinity."""
    positions = torch.arange(T, device=device)
    distance = positions[:, None] - positions  # (T, T)
    slopes = torch.tensor(alibi_slopes(n_head), device=device)[:, None, None]
    return (-slopes * distance).masked_fill(distance < 0, -math.inf)  # (H, T, T)


class CausalSelfAttention(nn.Module):
    """Multi-head attention: softmax(q k^T / sqrt(D) + bias) v in each head (arXiv:1706.03762, equation 1)."""

    def __init__(self, cfg):
        super().__init__()
        self.n_head, self.head_dim = cfg.n_head, cfg.n_embd // cfg.n_head
        self.qkv_proj = nn.Linear(cfg.n_embd, 3 * cfg.n_embd, bias=False)  # one product is faster than three
        self.out_proj = nn.Linear(cfg.n_embd, cfg.n_embd, bias=False)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x, bias):
        B, T, C = x.shape
        qkv = self.qkv_proj(x).view(B, T, 3 * self.n_head, self.head_dim).transpose(1, 2)  # (B, 3 * H, T, D)
        q, k, v = qkv.chunk(3, dim=1)  # (B, H, T, D)
        scores = (q / math.sqrt(self.head_dim)) @ k.transpose(-2, -1)  # (B, H, T, T)
        weights = self.dropout((scores + bias.to(scores.dtype)).softmax(-1))  # (B, H, T, T)
        y = (weights @ v).transpose(1, 2).reshape(B, T, C)  # (B, T, C)
        return self.out_proj(y)


class MLP(nn.Module):
    """Two linear maps with GELU between, applied at each position (arXiv:1606.08415)."""

    def __init__(self, cfg):
        super().__init__()
        self.up_proj = nn.Linear(cfg.n_embd, 4 * cfg.n_embd, bias=False)
        self.down_proj = nn.Linear(4 * cfg.n_embd, cfg.n_embd, bias=False)

    def forward(self, x):
        x = F.gelu(self.up_proj(x))  # (B, T, F)
        return self.down_proj(x)  # (B, T, C)


class Block(nn.Module):
    """Attention, then MLP; each reads a normalized copy of the residual stream and adds its result to it."""

    def __init__(self, cfg):
        super().__init__()
        self.attn_norm, self.attn = nn.LayerNorm(cfg.n_embd), CausalSelfAttention(cfg)
        self.mlp_norm, self.mlp = nn.LayerNorm(cfg.n_embd), MLP(cfg)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x, bias):
        x = x + self.dropout(self.attn(self.attn_norm(x), bias))
        x = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return x


class LanguageModel(nn.Module):
    """Embed the tokens, run the blocks, read the logits off the last state."""

    def __init__(self, cfg, vocab_size):
        super().__init__()
        self.n_head = cfg.n_head
        self.token_embedding = nn.Embedding(vocab_size, cfg.n_embd)
        self.dropout = nn.Dropout(cfg.dropout)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layer))
        self.norm = nn.LayerNorm(cfg.n_embd)
        self.head = nn.Linear(cfg.n_embd, vocab_size, bias=False)
        self.head.weight = self.token_embedding.weight
        self.init_weights(cfg)

    def init_weights(self, cfg):
        """N(0, 1 / inputs), so that what has unit variance keeps it; GPT-2's 0.02 is too little for narrow models.

        What writes to the residual stream is scaled down by the number of its writers (GPT-2, section 2.3).
        """
        for name, p in self.named_parameters():
            if p.dim() >= 2:
                scale = (2 * cfg.n_layer) ** -0.5 if name.endswith(("out_proj.weight", "down_proj.weight")) else 1.0
                nn.init.normal_(p, std=p.size(1) ** -0.5 * scale)

    def forward(self, idx, targets=None):
        """Logits (B, T, V) after each token of idx (B, T); with targets (B, T) also their mean loss in nats/token."""
        T = idx.size(1)
        x = self.dropout(self.token_embedding(idx))  # (B, T, C)
        bias = attention_bias(T, self.n_head, idx.device)
        for block in self.blocks:
            x = block(x, bias)
        logits = self.head(self.norm(x))  # (B, T, V)
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        return logits, loss


# -------------------------------------------------------------------------------------------------------- 4 OPTIMIZER


def schedule(spent, cfg):
    """Learning rate as a fraction of its peak when `spent` (0 to 1) of the budget is used: a ramp, then a cosine."""
    if spent < cfg.warmup:
        return spent / cfg.warmup
    return cfg.lr_floor + (1 - cfg.lr_floor) * 0.5 * (1 + math.cos(math.pi * (spent - cfg.warmup) / (1 - cfg.warmup)))


def make_optimizer(model, cfg):
    """AdamW (arXiv:1711.05101, Algorithm 2); only what has two dimensions or more decays."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": cfg.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    groups = [group | {"lr": cfg.learning_rate, "peak_lr": cfg.learning_rate} for group in groups]
    return torch.optim.AdamW(groups, betas=(cfg.beta1, cfg.beta2), fused=True)


# ------------------------------------------------------------------------------------------------------- 5 EVALUATION

EVAL_TOKENS = 2048  # per forward pass: a matter of memory and speed, not of the result
EVAL_BYTES = 1_000_000  # of the validation split are at most what evaluations during training walk


def first_megabyte(corpus):
    """The validation tokens that lie within its first EVAL_BYTES, after the one before them; and their bytes."""
    if corpus.val_bytes <= EVAL_BYTES:
        return corpus.val, corpus.val_bytes
    ids, where = np.unique(corpus.val[1 : EVAL_BYTES + 1], return_inverse=True)  # a token has a byte or more
    sizes = np.array([len(corpus.tokenizer.token_bytes(i)) for i in ids.tolist()])[where]
    n = int(np.searchsorted(sizes.cumsum(), EVAL_BYTES, "right"))
    return corpus.val[: n + 1], int(sizes[:n].sum())


def summarize(nats, n_tokens, n_bytes):
    """What a model paid for a text, in nats, per unit. Bits/byte does not depend on how the text is cut into tokens."""
    mean = nats / max(n_tokens, 1)
    figures = {"tokens": n_tokens, "nats_per_token": mean, "perplexity": math.exp(min(mean, 700))}
    return figures | {"bits_per_byte": nats / math.log(2) / max(n_bytes, 1)}


@torch.inference_mode()
def evaluate(model, tokens, n_bytes, block_size):
    """Score tokens[1:], each token once, in order, in windows of block_size targets; the last may be shorter.

    tokens (N + 1,): ids, the first only as context for the second; n_bytes: UTF-8 bytes of tokens[1:].
    Returns a dict: tokens, nats_per_token, perplexity, bits_per_byte. In float32, without dropout.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    n, nats = len(tokens) - 1, 0.0
    whole = n - n % block_size
    stride = max(1, EVAL_TOKENS // block_size) * block_size
    spans = [(i, min(i + stride, whole), block_size) for i in range(0, whole, stride)]
    spans += [(whole, n, n - whole)] if whole < n else []
    for start, end, width in spans:
        ids = torch.from_numpy(tokens[start : end + 1].astype(np.int64)).to(device)
        _, loss = model(ids[:-1].view(-1, width), ids[1:].view(-1, width))
        nats += loss.item() * (end - start)
    model.train(was_training)
    return summarize(nats, n, n_bytes)


REACH = 4  # evaluate_context scores one window of block_size in every REACH


@torch.inference_mode()
def evaluate_context(model, tokens, tokenizer, block_size, context):
    """Score the last block_size tokens of every segment of REACH * block_size, each with `context` tokens to read.

    The scored tokens are the same for every context from block_size to REACH * block_size; only how far back the
    window that ends with them begins differs. tokens (N + 1,) and the result are as in `evaluate`. Raises Halt.
    """
    model.eval()
    n, n_bytes, nats = 0, 0, 0.0
    for end in range(REACH * block_size, len(tokens), REACH * block_size):
        ids = torch.from_numpy(tokens[end - context : end + 1].astype(np.int64)).to(next(model.parameters()).device)
        logits, _ = model(ids[None, :-1])
        nats += F.cross_entropy(logits[0, -block_size:], ids[-block_size:], reduction="sum").item()
        n, n_bytes = n + block_size, n_bytes + len(tokenizer.decode_bytes(ids[-block_size:].tolist()))
    if n == 0:
        raise Halt(f"--context: the validation split has {len(tokens) - 1} tokens; {REACH * block_size} are needed")
    return summarize(nats, n, n_bytes)


# ------------------------------------------------------------------------------------------------------- 6 GENERATION


def pick_next(logits, temperature, top_k, top_p, generator):
    """Draw one token per row of logits (B, V); returns ids (B,). Raises Halt."""
    if not (logits < math.inf).all():  # nor is NaN
        raise Halt("the model gives no numbers: damaged, or steps too large; try a lower learning rate", status=1)
    if temperature < 1e-6:  # zero, or too little to divide by
        return logits.argmax(-1)
    logits = logits / temperature
    if top_k:
        smallest = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -math.inf)
    if top_p < 1:
        probs, order = logits.softmax(-1).sort(descending=True)
        surplus = probs.cumsum(-1) - probs >= top_p  # the likelier ones already hold top_p
        logits = logits.masked_fill(surplus.gather(-1, order.argsort(-1)), -math.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


@torch.inference_mode()
def generate(model, idx, n, block_size, temperature=1.0, top_k=0, top_p=1.0, seed=0):
    """Continue idx (B, T) by n tokens; yields the ids (B,) of each step as soon as they are drawn.

    A full window drops its older half: the rest then has room to grow before that must be done again.
    """
    model.eval()
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device draws alike
    window = idx[:, -block_size:]
    for _ in range(n):
        if window.size(1) > block_size:
            window = window[:, -max(1, block_size // 2) :]
        logits, _ = model(window)
        next_ids = pick_next(logits[:, -1].float().cpu(), temperature, top_k, top_p, generator)
        yield next_ids
        window = torch.cat((window, next_ids[:, None].to(window.device)), dim=1)


def encode_prompt(tokenizer, cfg):
    """Ids of the text to continue. Raises Halt."""
    try:
        return tokenizer.encode(cfg.prompt or "\n\n")
    except ValueError as error:
        raise Halt(f"--prompt: {error}") from None


def stream_text(model, tokenizer, cfg):
    """Yield the continuation of cfg.prompt in pieces, each as soon as it is final."""
    idx = torch.tensor([encode_prompt(tokenizer, cfg)], device=next(model.parameters()).device)
    how = (cfg.temperature, cfg.top_k, cfg.top_p, cfg.seed)
    text, shown, ids = "", 0, []
    for next_ids in generate(model, idx, cfg.max_new_tokens, cfg.block_size, *how):
        ids.append(next_ids.item())
        text = tokenizer.decode(ids)
        if cfg.stop and cfg.stop in text:
            yield text[shown : text.index(cfg.stop)]
            return
        unsure = max(len(cfg.stop) - 1, text.endswith("\ufffd"))  # may begin the stop string, or be half a character
        final = max(shown, len(text) - unsure)
        yield text[shown:final]
        shown = final
    yield text[shown:]


# ------------------------------------------------------------------------------------------------------- 7 CHECKPOINT

# What a resumed run may change: where it is, how long it goes on, what it samples. All else is what makes the run.
RESUMABLE = {"data", "out", "resume", "overwrite", "device", "dtype", "max_steps", "max_seconds", "evals"}
RESUMABLE |= {"save_seconds", "prompt", "max_new_tokens", "temperature", "top_k", "top_p", "stop"}


def write_file(path, content, mark=""):
    """Replace a file in one stroke (write beside it, flush, rename): a crash leaves the old one or the new one.

    content: bytes, or an iterable of them; mark: part of the name beside it, where several may write the same file.
    """
    beside = Path(f"{path}{mark}.tmp")
    try:
        with open(beside, "wb") as file:
            file.writelines([content] if isinstance(content, (bytes, memoryview)) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)  # a full disk wants no half file


def moments(optimizer):
    """What an optimizer has gathered: a dict for each of its parameters, in their order. The rest is cfg's to say."""
    return [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]]


def save_checkpoint(path, model, progress, corpus, **more):
    """best.pt is what `sample` and `eval` use; checkpoint.pt holds the optimizer too, to go on from."""
    state = {"model": model.state_dict(), "progress": asdict(progress), "sha256": corpus.sha256, **more}
    state["tokenizer"] = hashlib.sha256(path.with_name("tokenizer.json").read_bytes()).hexdigest()
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **state}, buffer)
    write_file(path, buffer.getbuffer())


def fits(saved, own):
    """Whether saved state has the layout of our own, the same keys, types and shapes, whatever its numbers are."""
    if isinstance(own, torch.Tensor):
        alike = isinstance(saved, torch.Tensor) and (saved.shape, saved.dtype) == (own.shape, own.dtype)
        return alike and (saved.is_contiguous() or saved.mT.is_contiguous())  # else numbers could share their place
    if isinstance(own, dict):
        return isinstance(saved, dict) and saved.keys() == own.keys() and all(fits(saved[key], own[key]) for key in own)
    if isinstance(own, list | tuple):
        return isinstance(saved, list | tuple) and len(saved) == len(own) and all(map(fits, saved, own))
    return type(saved) in ((int, float) if type(own) in (int, float) else (type(own),))


def read_checkpoint(path):
    """What save_checkpoint wrote, as data: no code in it is run. Raises many things if it is damaged or hostile."""
    with zipfile.ZipFile(path) as file:  # torch packs nothing: packed or shared records could flood the memory
        records = file.infolist()
        size = sum(record.file_size for record in records)
        if any(record.compress_type for record in records) or size > path.stat().st_size or file.testzip():
            raise ValueError(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    rows = state["progress"]["rows"]
    like = dict.fromkeys({"step", "train_loss", "val_bits_per_byte", *(rows[0] if rows else ())}, 0.0)
    sound = fits(state["progress"], asdict(Progress(rows=[like] * len(rows))))
    if not sound or not isinstance(state["progress"]["step"], int) or not 0 < state["progress"]["step"] < 2**53:
        raise ValueError(path)
    return state


def load_checkpoint(path, model, corpus=None, optimizer=None):
    """Copy a checkpoint into model and optimizer; returns its Progress. Raises Halt."""
    try:
        state = read_checkpoint(path)
        version, sha256, progress = state["version"], state["sha256"], Progress(**state["progress"])
        beside = hashlib.sha256(path.with_name("tokenizer.json").read_bytes()).hexdigest()
        own_tokenizer = version != VERSION or state["tokenizer"] == beside
    except FileNotFoundError:
        raise Halt(f"{path}: no such checkpoint; train first") from None
    except Exception:  # a damaged file can make the reader say anything
        raise Halt(f"{path}: truncated, damaged, or not a checkpoint of {VERSION}") from None
    if version != VERSION:
        raise Halt(f"{path}: belongs to {version}, not to {VERSION}; use {version}.py")
    if not own_tokenizer:
        raise Halt(f"{path}: was trained with another tokenizer than the tokenizer.json beside it")
    if corpus and corpus.sha256 != sha256:
        raise Halt(f"{path}: was trained on another text than --data now holds; start a new run for that")
    own = {"model": model.state_dict()}
    if optimizer:
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()  # on nothing, so that its state gets its keys and shapes
        own["optimizer"] = moments(optimizer)
    try:
        if not fits({key: state[key] for key in own}, own):
            raise ValueError(path)
        model.load_state_dict(state["model"])
        if optimizer:
            for mine, saved in zip(own["optimizer"], state["optimizer"], strict=True):
                mine |= {k: v.to(mine[k].device) if isinstance(v, torch.Tensor) else v for k, v in saved.items()}
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError):
        raise Halt(f"{path}: does not fit config.json and tokenizer.json beside it") from None
    return progress


def find_run(out=""):
    """The run folder that --out names, or the newest numbered one of this version. Raises Halt if none."""
    numbered = [p for p in Path("runs", VERSION).glob("*") if p.name.isdecimal() and (p / "config.json").exists()]
    if not out and not numbered:
        raise Halt(f"no run in {Path('runs', VERSION)}; train first, or name a run folder with --out")
    return Path(out) if out else max(numbered, key=lambda p: int(p.name))


def claim_folder(cfg):
    """Make the folder of a new run: the one that --out names, or the next number. Raises Halt if it is taken."""
    if cfg.out:
        folder = Path(cfg.out)
        names = ("config.json", "checkpoint.pt", "best.pt", "metrics.csv", "loss.png", "sample.txt")
        if any((folder / name).exists() for name in names[:3]) and not cfg.overwrite:
            raise Halt(f"--out {folder}: already holds a run; add --resume or --overwrite")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise Halt(f"--out {folder}: a file is in the way; name a folder") from None
        for name in names:
            (folder / name).unlink(missing_ok=True)
        return folder
    numbers = [int(p.name) for p in Path("runs", VERSION).glob("*") if p.name.isdecimal()]
    folder = Path("runs", VERSION, str(max(numbers, default=0) + 1))
    try:
        folder.mkdir(parents=True)
        return folder
    except FileExistsError:  # another training took it at the same moment
        return claim_folder(cfg)


def read_config(folder):
    """The Config of a run. Raises Halt if the folder holds none, or one of another version."""
    try:
        saved = json.loads((folder / "config.json").read_bytes())
        version = saved.pop("version")
        cfg = Config(**saved) if version == VERSION else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        path = folder / "config.json"
        raise Halt(f"{path}: no run there, or damaged; train first, or name a run folder with --out") from None
    if cfg is None:
        raise Halt(f"{folder}: holds a run of {version}, not of {VERSION}; use {version}.py")
    return cfg


@dataclass
class Run:
    """A trained model with all that is needed to use it."""

    folder: Path
    cfg: Config
    tokenizer: object  # with encode, decode and vocab_size
    model: nn.Module


def load_run(folder="", **changes):
    """The best model of a run folder (default: the newest); `changes` replace fields of its Config. Raises Halt."""
    folder = find_run(folder)
    cfg = replace(read_config(folder), **changes)
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    model = LanguageModel(cfg, tokenizer.vocab_size)
    load_checkpoint(folder / "best.pt", model)
    return Run(folder, cfg, tokenizer, model.to(choose_device(cfg)).eval())


# ----------------------------------------------------------------------------------------------------------- 8 REPORT


def print_header(cfg, model, corpus, folder, device):
    """What runs, on what, on which text, for how long: all that the result depends on."""
    n_params, n_val = sum(p.numel() for p in model.parameters()), len(corpus.val) - 1
    where = f"{device} {'bfloat16' if uses_bfloat16(cfg, device) else 'float32'} | {torch.get_num_threads()} threads"
    where += f" | torch {torch.__version__} | seed {cfg.seed}"
    budget = [f"{cfg.max_steps} steps"] * bool(cfg.max_steps) + [f"{cfg.max_seconds:g} s"] * bool(cfg.max_seconds)
    size = f"{len(corpus.train):,} + {n_val:,} tokens | vocabulary {corpus.tokenizer.vocab_size:,}"
    size += f" | {len(corpus.train) / cfg.batch_size / cfg.block_size:,.0f} steps per pass"
    print(f"{VERSION} | {n_params:,} parameters, depth {cfg.n_layer} | {where}")
    print(f"{cfg.data} | {size} | {corpus.val_bytes / max(n_val, 1):.3f} bytes/token")
    print(f"{' or '.join(budget)} | {folder}")
    print("    step  seconds   tokens/s  train nats/token  val nats/token  val bits/byte")


def print_row(row):
    """One evaluation as one line of fixed width, without disturbing the progress bar."""
    start = f"{row['step']:>8} {row['seconds']:>8.1f} {row['tokens'] / max(row['seconds'], 1e-9):>10,.0f}"
    tqdm.write(f"{start} {row['train_loss']:>17.4f} {row['val_loss']:>15.4f} {row['val_bits_per_byte']:>14.4f}")


def print_score(score, floor):
    """What evaluate returned, in all its units, and how far above the floor that is."""
    line = f"{score['nats_per_token']:.4f} nats/token | perplexity {score['perplexity']:.3f}"
    line += f" | {score['bits_per_byte']:.4f} bits/byte over {score['tokens']:,} tokens"
    if floor is not None:
        line += f" | {score['bits_per_byte'] - floor:.4f} above the text's own entropy of {floor:.4f}"
    print(line)


def write_metrics(folder, rows):
    """metrics.csv, whole, from the rows that the checkpoint also holds: none can be lost, doubled or torn."""
    lines = [",".join(map(str, values)) for values in (rows[0].keys(), *(row.values() for row in rows))]
    write_file(folder / "metrics.csv", "\n".join([*lines, ""]).encode())


def draw_plot(folder, rows, corpus):
    """loss.png: training and validation loss over the steps, and the floor, all in bits/byte."""
    from matplotlib.figure import Figure  # here, because it takes a second to import

    bits_per_nat = len(corpus.train) / corpus.train_bytes / math.log(2)
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (bits/byte)", title=VERSION)
    axes.plot(steps, [row["train_loss"] * bits_per_nat for row in rows], "--", label="training, as it went")
    axes.plot(steps, [row["val_bits_per_byte"] for row in rows], "o-", markersize=3, label="validation")
    if corpus.floor is not None:
        axes.axhline(corpus.floor, color="gray", linewidth=1, label="entropy of the text")
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    write_file(folder / "loss.png", picture.getbuffer())


# --------------------------------------------------------------------------------------------------------- 9 TRAINING


def choose_device(cfg):
    """The torch.device of a run. Raises Halt for one that this machine lacks."""
    name = cfg.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.ones(1, device=name).cpu()
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        raise Halt(f"--device {name}: not available here; try auto or cpu") from None


def uses_bfloat16(cfg, device):
    """Whether training's matrix products run in bfloat16: by default where the hardware has it natively."""
    if cfg.dtype != "auto":
        return cfg.dtype == "bfloat16"
    if device.type == "cpu":
        able = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell: then float32
        return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def keep_memory():
    """Let glibc keep what a step frees for the next one: having its pages anew can cost a third of a step's time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-4, 0)  # M_MMAP_MAX: no tensor has pages of its own, which free would give back
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: nor does free give back the heap's


class StopSignals:
    """Ctrl-C and SIGTERM set `received`, which training reads after each step; a second one leaves at once."""

    def __enter__(self):
        self.received, self.previous = 0, {}
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self.previous = {s: signal.signal(s, self.receive) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def receive(self, number, frame):
        if self.received:
            os._exit(128 + number)
        self.received = number

    def __exit__(self, *error):
        for number, handler in self.previous.items():
            signal.signal(number, handler)


@dataclass
class Progress:
    """How far a run has come; saved with every checkpoint."""

    step: int = 0
    seconds: float = 0.0  # of training only
    losses: float = 0.0  # their sum over the steps since the last evaluation
    since: int = 0  # the number of those steps
    best: float = math.inf  # lowest validation loss, nats/token
    rows: list = field(default_factory=list)  # of metrics.csv, a dict per evaluation

    def spent(self, cfg):
        """Fraction of the budget that is used up, 0 to 1."""
        steps = self.step / cfg.max_steps if cfg.max_steps else 0.0
        return min(1.0, max(steps, self.seconds / cfg.max_seconds if cfg.max_seconds else 0.0))


def start(cfg, device):
    """What a training needs, new or from its checkpoint: folder, corpus, model, optimizer, progress. Raises Halt."""
    folder, tokenizer, progress = None, None, Progress()
    if cfg.resume:
        folder = find_run(cfg.out)
        before = asdict(read_config(folder))
        for name, value in asdict(cfg).items():
            if name not in RESUMABLE and value != before[name]:
                raise Halt(f"--resume: {folder} was trained with {name} {before[name]}, not {value}; start a new run")
        tokenizer = load_tokenizer(folder / "tokenizer.json")
    corpus = load_corpus(cfg, tokenizer)
    encode_prompt(corpus.tokenizer, cfg)  # what a sample cannot begin with is said now, not after the training
    torch.manual_seed(cfg.seed)
    model = LanguageModel(cfg, corpus.tokenizer.vocab_size).to(device)
    optimizer = make_optimizer(model, cfg)
    if cfg.resume:
        progress = load_checkpoint(folder / "checkpoint.pt", model, corpus, optimizer)
    else:
        folder = claim_folder(cfg)
        corpus.tokenizer.save(folder / "tokenizer.json")
    write_file(folder / "config.json", json.dumps({"version": VERSION, **asdict(cfg)}, indent=2).encode())
    return folder, corpus, model, optimizer, progress


def train_step(model, optimizer, corpus, cfg, progress, device):
    """One update of the weights. Returns its figures: `loss` in nats/token, and more columns for metrics.csv."""
    spent = progress.spent(cfg)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * schedule(spent, cfg)
    dropout = cfg.dropout * (spent if cfg.dropout_schedule == "linear" else 1.0)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    if dropout:  # it too is a function of (seed, step)
        torch.manual_seed(cfg.seed * 1_000_003 + progress.step)
    idx, targets = get_batch(corpus.train, cfg, progress.step, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(cfg, device)):
        _, loss = model(idx, targets)
    if not loss.isfinite():
        return {"loss": loss.item()}  # which ends the training, with the weights as they were
    optimizer.zero_grad()
    loss.backward()
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
    optimizer.step()
    lr = optimizer.param_groups[0]["lr"]
    return {"loss": loss.item(), "learning_rate": lr, "grad_norm": grad_norm.item(), "dropout": dropout}


def record(folder, model, corpus, cfg, progress, loss, **more):
    """Evaluate; print the result, keep it as a row of metrics.csv, and keep the model if it is the best so far."""
    score = evaluate(model, *first_megabyte(corpus), cfg.block_size)
    row = {"step": progress.step, "seconds": round(progress.seconds, 3)}
    row |= {"tokens": progress.step * cfg.batch_size * cfg.block_size, "train_loss": progress.losses / progress.since}
    row |= {"val_loss": score["nats_per_token"], "val_bits_per_byte": score["bits_per_byte"], **more}
    progress.rows.append(row)
    progress.losses, progress.since = 0.0, 0
    if row["val_loss"] < progress.best:
        progress.best = row["val_loss"]
        save_checkpoint(folder / "best.pt", model, progress, corpus)
    write_metrics(folder, progress.rows)
    print_row(row)


def train(cfg):
    """Train a model as cfg says, from scratch or on from a checkpoint; returns the run folder. Raises Halt."""
    device = choose_device(cfg)
    folder, corpus, model, optimizer, progress = start(cfg, device)
    print_header(cfg, model, corpus, folder, device)
    keep_memory()
    model.train()
    spent, saved_at = progress.spent(cfg), progress.seconds
    look = "{percentage:3.0f}%|{bar}| {postfix}, {remaining} left"
    bar = tqdm(total=100, initial=100 * spent, disable=None, bar_format=look)
    with StopSignals() as signals, bar:
        while spent < 1 and not signals.received:
            began = time.perf_counter()
            stats = train_step(model, optimizer, corpus, cfg, progress, device)
            progress.seconds += time.perf_counter() - began
            progress.step += 1
            before, spent = spent, progress.spent(cfg)
            due = int(spent * cfg.evals) > int(before * cfg.evals)
            save = due or signals.received or progress.seconds - saved_at >= cfg.save_seconds
            sound = not save or all(p.isfinite().all() for p in model.parameters())  # the loss came before
            if not math.isfinite(stats["loss"]) or not sound:
                at = f"step {progress.step}, learning rate {optimizer.param_groups[0]['lr']:.3g}"
                what = f"the loss is {stats['loss']}" if sound else "the update left weights that are no numbers"
                cure = "try a lower --learning-rate or --dtype float32"
                raise Halt(f"{at}: {what}; {cure}; {folder} keeps what was saved before", status=1)
            progress.losses, progress.since = progress.losses + stats["loss"], progress.since + 1
            bar.set_postfix_str(f"step {progress.step} loss {stats['loss']:.3f}", refresh=False)
            bar.update(100 * (spent - before))
            if due:
                record(folder, model, corpus, cfg, progress, **stats)
            if save or signals.received:
                save_checkpoint(folder / "checkpoint.pt", model, progress, corpus, optimizer=moments(optimizer))
                saved_at = progress.seconds
    if progress.rows:
        draw_plot(folder, progress.rows, corpus)
    if signals.received:
        again = f"python {VERSION}.py --resume --out {folder}"
        raise Halt(f"stopped at step {progress.step}, saved; go on with: {again}", status=128 + signals.received)
    return folder


# ---------------------------------------------------------------------------------------------------- 10 COMMAND LINE


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message):
        raise Halt(f"{message}; see python {VERSION}.py --help")


def parse(argv):
    """The command and the flags given, as {field of Config: value}."""
    parser = Parser(prog=f"{VERSION}.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("command", nargs="?", default="train", metavar="train|sample|eval")
    for f in fields(Config):
        shown = "" if f.default in ("", 0) else f" (default: {f.default})"
        kind = {"action": "store_true"} if isinstance(f.default, bool) else {"type": type(f.default), "metavar": "X"}
        text = (f.metadata["help"] + shown).replace("%", "%%")
        parser.add_argument("--" + f.name.replace("_", "-"), default=argparse.SUPPRESS, help=text, **kind)
    given = vars(parser.parse_args(argv))  # which names an unknown flag before it looks at the command
    command = given.pop("command")
    if command not in ("train", "sample", "eval"):
        parser.error(f"{command}: choose from train, sample, eval")
    if {"resume", "overwrite"} <= given.keys():
        parser.error("--resume and --overwrite: give one of the two")
    return command, given


def print_sample(run):
    """Print a sample as it is drawn; returns it."""
    text = run.cfg.prompt
    print(text, end="", flush=True)
    for piece in stream_text(run.model, run.tokenizer, run.cfg):
        text += piece
        print(piece, end="", flush=True)
    print()
    return text


def run_command(command, given):
    """Do what a command line says. Raises Halt."""
    folder = given.get("out", "")
    if command == "train":
        cfg = replace(read_config(find_run(folder)), **given) if "resume" in given else Config(**given)
        folder = train(cfg)
    run = load_run(folder, **{k: v for k, v in given.items() if k != "out"})
    if command != "sample":
        corpus = load_corpus(run.cfg, run.tokenizer)
        print_score(evaluate(run.model, corpus.val, corpus.val_bytes, run.cfg.block_size), corpus.floor)
        if run.cfg.context:
            print(
                f"the last {run.cfg.block_size} of every {run.cfg.block_size * REACH} tokens, {run.cfg.context} read:"
            )
            score = evaluate_context(run.model, corpus.val, run.tokenizer, run.cfg.block_size, run.cfg.context)
            print_score(score, None)
    if command != "eval":
        text = print_sample(run)
        if command == "train":
            write_file(folder / "sample.txt", text.encode())


def main(argv=None):
    """Run a command line (default: this process's); returns the exit status."""
    warnings.simplefilter("ignore")  # standard error is for the one line of an error
    getattr(sys.stdout, "reconfigure", dict)(errors="replace")  # a terminal may lack letters
    try:
        run_command(*parse(argv))
        return 0
    except (Halt, OSError) as error:  # an OSError is the machine's: disk full, no permission
        message, status = str(error), getattr(error, "status", 1)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):  # torch has no class of its own for it
            raise
        message, status = "not enough memory; try a smaller --batch-size, --block-size or model", 1
    except KeyboardInterrupt:
        return 130
    print(f"{VERSION}: {' '.join(message.split())}", file=sys.stderr)  # one line, whatever a file's name holds
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which passes by what removes half-written files
    sys.exit(main())
