"""v6: masked language modelling, a branch from v5: what is hidden is found from both sides.

Same as v5: tokens, the sphere, optimizers, checkpoints.
New:
  - `hide`: in whole paragraphs, 15 % of the words are to be predicted (BERT, arXiv:1810.04805). A
    causal model learns from every token, this one from a seventh, but it sees both sides.
  - `SelfAttention` without the causal mask; with it go the cache and generation.
  - `--objective mntp` (arXiv:2404.05961): a token is predicted from the state before it, as in v5,
    which then has less to unlearn when it is adapted: --init-from runs/v5_ngpt/1.
  - `evaluate` hides the same words from every model; `fill` fills the gaps of a prompt.
Changed sections: imports, 1 CONFIG, 2 TOKENIZER AND DATA, 3 MODEL, 5 EVALUATION, 6 GENERATION,
  7 CHECKPOINT, 8 TRAINING, 9 COMMAND LINE
Measured: 66 % of hidden words right on input.txt, 0.587 bits/byte, 1,794,304 parameters (one seed)
Run: python v6_mlm.py [train|fill|eval] [--help]
"""

import ctypes
import hashlib
import io
import json
import math
import os
import signal
import sys
import time
from collections import namedtuple
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from tqdm import tqdm

from bpe_tokenizer import BPETokenizer, TokenizerError

NAME = Path(__file__).stem
RANK, N_RANKS = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # by torchrun
RUNS = Path("runs", NAME)  # holds the folders of this version's runs: 1, 2, ...
Corpus = namedtuple("Corpus", "tokenizer train val texts")  # from load_corpus
Run = namedtuple("Run", "folder cfg tokenizer model step")  # from load_run
LETTERS = bytes(i for i in range(256) if i > 127 or chr(i).isalnum())  # words are runs of these
BAR = "{percentage:3.0f}%|{bar}| {remaining} left{postfix}"  # format of the progress bar


# ------------------------------------------------------------------------------------- 1 CONFIG
class UserError(Exception):
    """A problem that the user can solve; from anywhere, main prints its message and exits."""


@dataclass
class Config:
    """All settings of a run. Each is also a flag: max_steps is --max-steps."""

    command: tyro.conf.Positional[Literal["train", "fill", "eval"]] = "train"
    """train, then evaluate and fill; or fill the gaps of --prompt; or evaluate a trained run"""
    data: str = "input.txt"  # UTF-8 text; the last tenth of its characters is the validation split
    tokenizer: str = ""  # a tokenizer.json; if empty, one is learned from the training split
    vocab_size: int = 0  # tokens (0: 512 to 4096, one per 256 bytes of text, to see each often)
    allowed_chars: str = ""  # merge these only, e.g. letters, to keep digits apart; if empty, all
    objective: Literal["mlm", "mntp"] = "mlm"  # predict from the state of `<mask>` or before it
    block_size: int = 256  # context length in tokens
    batch_size: int = 8  # windows of block_size tokens per step, in all processes together
    micro_batch_size: int = 0  # rows of a batch per backward pass; gradients add up (0: all)
    n_layer: int = 4  # transformer blocks
    n_head: int = 4  # heads of queries per block
    n_kv_head: int = 2  # heads of keys and values per block
    n_embd: int = 128  # width of the model
    d_ff: int = 0  # width inside the MLP (0: 8/3 of --n-embd, rounded up to a multiple of 32)
    rope_base: float = 10_000.0  # of RoPE; with a larger one the slow pairs turn more slowly
    dropout: float = 0.0  # probability of zeroing an activation in training
    dropout_schedule: Literal["constant", "linear"] = "constant"  # linear: 0 to --dropout
    optimizer: Literal["muon", "adamw", "soap"] = "muon"  # of the blocks' matrices
    muon_learning_rate: float = 0.08  # of the blocks' matrices with muon, at its peak
    adamw_learning_rate: float = 0.01  # of the blocks' matrices with adamw, at its peak
    soap_learning_rate: float = 0.01  # of the blocks' matrices with soap, at its peak
    learning_rate: float = 0.01  # of AdamW for embeddings and factors, at its peak
    grad_clip: float = 1.0  # a gradient with a larger norm is scaled down to it (0: no limit)
    max_steps: int = 1250  # budget in steps
    max_seconds: float = 0.0  # budget in seconds of training, in place of --max-steps (0: none)
    evals: int = 10  # evaluations during training, spread evenly over the budget
    eval_tokens: int = 250_000  # validation tokens scored by each of them; after training, all
    seed: int = 1337  # of initial weights, batches and samples
    device: str = "auto"  # auto (CUDA, else MPS, else CPU), or a torch device such as cuda:1
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of matrix products in training
    compile: bool = False  # compile the model before training (torch.compile)
    out: str = ""  # run folder; if empty, a new one in runs/ (for sample and eval: the newest)
    overwrite: bool = False  # replace the run in --out
    resume: bool = False  # continue the run in --out, or the newest
    init_from: str = ""  # folder of a run whose weights and tokenizer to start from
    prompt: str = "The ___ ran to the ___."  # text in which ___ is a gap to fill

    def check(self):
        """Raise UserError for a number that no run can use."""
        at_least_1 = {"block_size", "batch_size", "max_steps", "evals", "eval_tokens"}
        at_least_1 |= {"n_layer", "n_head", "n_kv_head", "n_embd", "rope_base"}
        for name, value in asdict(self).items():
            low = 1 if name in at_least_1 else 0
            if isinstance(value, int | float) and not low <= value < 2**31:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be {low} to 2**31 - 1")
        if self.dropout >= 1:
            raise UserError("--dropout: must be below 1")
        if self.batch_size % (N_RANKS * (self.micro_batch_size or 1)):
            raise UserError("--batch-size: must be a multiple of processes x --micro-batch-size")
        if self.n_embd % self.n_head:
            raise UserError(f"--n-head {self.n_head}: must divide --n-embd {self.n_embd}")
        if self.n_head % self.n_kv_head:
            raise UserError(f"--n-kv-head {self.n_kv_head}: must divide --n-head {self.n_head}")
        if self.n_embd // self.n_head % 2:
            raise UserError(f"--n-head {self.n_head}: --n-embd / --n-head must be even, for pairs")
        if 0 < self.vocab_size < 256:
            raise UserError(f"--vocab-size {self.vocab_size}: must be 256 or more, for the bytes")


# ------------------------------------------------------------------------ 2 TOKENIZER AND DATA
def read_blocks(path, start, stop):
    """Yield text[start:stop] of a UTF-8 file, a million characters at a time."""
    position = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            while position < stop and (block := file.read(min(2**20, stop - position))):
                yield block[max(0, start - position) :]
                position += len(block)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--data {path}: {error}; give a UTF-8 text file") from None


def load_tokenizer(path):
    """The tokenizer that `save` wrote."""
    return BPETokenizer.load(path)


def learn_tokenizer(cfg, n_chars):
    """A tokenizer learned from the training split, at most its first 50 million characters."""
    vocab_size = cfg.vocab_size or min(max(Path(cfg.data).stat().st_size // 256, 512), 4096)
    blocks = read_blocks(cfg.data, 0, min(n_chars, 50_000_000))
    return BPETokenizer.train(blocks, vocab_size, allowed_chars=cfg.allowed_chars or None)


def encode_split(cfg, start, stop, sha256, tokenizer):
    """Token ids of text[start:stop], from a file that all runs share, mapped to memory."""
    key = hashlib.sha256(f"{sha256} {start} {stop} {tokenizer.to_json()}".encode()).hexdigest()
    path = Path("runs", "cache", f"{key[:16]}.npy")
    if not path.exists():
        dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
        blocks = tqdm(read_blocks(cfg.data, start, stop), "encoding", delay=5, disable=None)
        ids = [np.array(block, dtype) for block in tokenizer.encode_blocks(blocks)]  # no word cut
        buffer = io.BytesIO()
        np.save(buffer, np.concatenate(ids))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, buffer.getbuffer())
    return np.load(path, mmap_mode="r")


def load_corpus(cfg, tokenizer=None):
    """Read cfg.data and encode it, with the tokenizer of a trained run or a new one.

    train: ids of the first 90 % of the characters; val: the last of these, for context, and the
    rest; texts: those of train.
    """
    n_chars = sum(len(block) for block in read_blocks(cfg.data, 0, sys.maxsize))
    with open(cfg.data, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    cut = n_chars * 9 // 10
    if cfg.tokenizer:
        tokenizer = tokenizer or load_tokenizer(cfg.tokenizer)
    tokenizer = tokenizer or learn_tokenizer(cfg, cut)
    train = encode_split(cfg, 0, cut, sha256, tokenizer)
    val = encode_split(cfg, cut, n_chars, sha256, tokenizer)
    if len(train) <= cfg.block_size:
        raise UserError(f"--data {cfg.data}: {len(train)} tokens; --block-size needs more")
    texts = find_texts(train, tokenizer, cfg.block_size)
    return Corpus(tokenizer, train, np.concatenate((train[-1:], val)), texts)


def find_texts(tokens, tokenizer, block_size):
    """Paragraphs, at most block_size long, each after the token before it, (T, 2): ids, words."""
    pieces = [tokenizer.decode_bytes([i]) for i in range(tokenizer.vocab_size)]
    ends = [(p[0] in LETTERS, p[-1] in LETTERS, p[-1] == 10, p[-2:] == b"\n\n") for p in pieces]
    inner, in_word, line, paragraph = np.array(ends).T[:, tokens]
    starts = in_word & ~(inner & np.append(False, in_word[:-1]))  # of words
    words = np.where(in_word, starts.cumsum(), -1 - np.arange(len(tokens)))  # below 0: in none
    stops = [1, *(np.flatnonzero(paragraph | line & np.append(False, line[:-1])) + 1), len(tokens)]
    cuts = [i for a, b in zip(stops, stops[1:], strict=False) for i in range(a, b, block_size)]
    both = torch.from_numpy(np.stack((tokens, words), axis=1))
    return sorted((both[a - 1 : b] for a, b in zip(cuts, [*cuts[1:], None], strict=False)), key=len)


def hide(texts, mask, seed, exam=False):
    """Inputs and targets or -100 (B, T): 15 % of words and other tokens; in an exam words alone."""
    ids, words = nn.utils.rnn.pad_sequence(texts, batch_first=True).unbind(2)  # (B, T)
    ids = ids.where(words != 0, mask + 1)  # `<pad>`
    words[:, 0] = 0  # the token before the paragraph, for context only
    rng = torch.Generator().manual_seed(~seed)  # not the numbers of dropout
    chosen = torch.rand(2**16, generator=rng)[words % 2**16] < 0.15  # one draw for a word
    chosen &= words > 0 if exam else words != 0
    # 80 % become `<mask>`, 10 % any token, 10 % stay: the model must also doubt what it sees.
    die, other = torch.rand(ids.shape, generator=rng), torch.randint(mask, ids.shape, generator=rng)
    idx = torch.where((die < 0.8) | exam, mask, torch.where(die < 0.9, other, ids))
    return idx.where(chosen, ids), ids.where(chosen, -100)


def get_batch(corpus, cfg, step, device):
    """Inputs and targets (B, T) of a step: the same for the same (seed, step)."""
    # Starts a golden ratio apart, round and round, lie evenly. Random ones miss 1/e of each pass.
    first = np.random.default_rng(cfg.seed).random()
    start = int((first + 0.6180339887498949 * step) % 1 * len(corpus.texts))
    n = round(cfg.batch_size * cfg.block_size * len(corpus.texts) / len(corpus.train))
    texts = [corpus.texts[(start + i) % len(corpus.texts)] for i in range(n)]
    batch = hide(texts, corpus.tokenizer.vocab_size, cfg.seed * 1_000_003 + step)
    return [x.to(device) for x in batch]


# ------------------------------------------------------------------------------------- 3 MODEL
# Shapes: B batch, T = S time (tokens), N tokens to predict, C width n_embd,
# H heads of queries, K of keys and values, G = H / K, D head width C / H, V vocabulary.
def normalize(x, dim=-1):
    """x / |x| along one dimension: (3, 4) becomes (0.6, 0.8). bfloat16 would be too coarse."""
    return F.normalize(x.float(), dim=dim)


class Scale(nn.Module):
    """Learned factors that start at `init`, kept as numbers that start at `stored`.

    Adam moves each stored number by about the learning rate a step, so that a factor changes by
    init / stored times that (section 2.5): `stored` sets how fast it learns. At 1 / sqrt(C), the
    size of a matrix's entries, it learns as fast as they do, at 1 more slowly. The values are
    the paper's, but for that of s_z.
    """

    def __init__(self, shape, init, stored):
        super().__init__()
        self.weight, self.ratio = nn.Parameter(torch.full(shape, float(stored))), init / stored

    def forward(self):
        return self.weight * self.ratio


def attend(q, k, v, bias):
    """softmax(q k^T sqrt(D) + bias) v, (B, H, T, D), for q (B, H, T, D), k and v (B, K, S, D).

    Unit vectors have products of variance 1 / D: times sqrt(D), not divided by it, they have 1.
    Query head h reads key/value head h // G. The G heads of a group are laid end to end along
    the time axis, so that one product serves them all and no key is copied. On CUDA a fused
    kernel computes the same; in bfloat16, without a mask, it never stores the scores.
    """
    (B, H, T, D), (K, S) = q.shape, k.shape[1:3]
    if q.is_cuda:
        return F.scaled_dot_product_attention(
            q, k, v, bias.to(q.dtype), scale=math.sqrt(D), enable_gqa=True
        )
    scores = (q * math.sqrt(D)).reshape(B, K, -1, D) @ k.transpose(-2, -1)  # (B, K, G * T, S)
    weights = (scores.view(B, H, T, S) + bias).softmax(-1)  # (B, H, T, S)
    return (weights.view(B, K, -1, S) @ v).view(B, H, T, D)


def rotation_angles(past, T, head_dim, base, device):
    """cos, sin (T, D/2) of m theta_i for position m = past to past + T - 1; see v2."""
    theta = base ** (-torch.arange(0, head_dim, 2, device=device) / head_dim)  # (D/2,)
    angles = torch.arange(past, past + T, device=device)[:, None] * theta  # (T, D/2)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    """R_m x: turn each pair (x_i, x_(i + D/2)) of x (B, H or K, T, D) by its angle m theta_i."""
    a, b = x.chunk(2, dim=-1)  # (B, H, T, D/2)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).type_as(x)  # (B, H, T, D)


class SelfAttention(nn.Module):
    """softmax(q . k sqrt(D)) v, q = s_qk R_m q' / |q'|, k = s_qk R_n k' / |k'| (equations 15, 16).

    s_qk (K, D): a factor for each coordinate of a key/value head and of the queries that read it.
    It comes after the rotation, as in the paper, at a price: scores no longer depend on the
    distance alone.
    """

    def __init__(self, cfg):
        super().__init__()
        self.n_head, self.n_kv_head, head_dim = cfg.n_head, cfg.n_kv_head, cfg.n_embd // cfg.n_head
        self.q_proj = nn.Linear(cfg.n_embd, cfg.n_embd, bias=False)  # three: Muon takes each alone
        self.k_proj = nn.Linear(cfg.n_embd, cfg.n_kv_head * head_dim, bias=False)
        self.v_proj = nn.Linear(cfg.n_embd, cfg.n_kv_head * head_dim, bias=False)
        self.out_proj = nn.Linear(cfg.n_embd, cfg.n_embd, bias=False)
        self.s_qk = Scale((cfg.n_kv_head, head_dim), 1.0, cfg.n_embd**-0.5)

    def forward(self, x, positions):
        B, T, C = x.shape
        bias, cos, sin = positions
        q = self.q_proj(x).view(B, T, self.n_head, -1).transpose(1, 2)  # (B, H, T, D)
        k = self.k_proj(x).view(B, T, self.n_kv_head, -1).transpose(1, 2)  # (B, K, T, D)
        v = self.v_proj(x).view(B, T, self.n_kv_head, -1).transpose(1, 2)  # (B, K, T, D)
        s_k = self.s_qk()[:, None]  # (K, 1, D)
        s_q = s_k.repeat_interleave(self.n_head // self.n_kv_head, dim=0)  # (H, 1, D)
        q, k = s_q * normalize(rotate(q, cos, sin)), s_k * normalize(rotate(k, cos, sin))
        y = attend(q, k, v, bias)  # (B, H, T, D)
        return self.out_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """down(silu(s_v sqrt(C) gate(x)) * s_u up(x)) (equations 20, 21), at each position alone.

    A cosine with a state is about 1 / sqrt(C), where silu is a straight line: sqrt(C) undoes that.
    """

    def __init__(self, cfg):
        super().__init__()
        d_ff = cfg.d_ff or 32 * math.ceil(cfg.n_embd / 12)  # three maps as large as v3's two
        self.gate_proj = nn.Linear(cfg.n_embd, d_ff, bias=False)
        self.up_proj = nn.Linear(cfg.n_embd, d_ff, bias=False)
        self.down_proj = nn.Linear(d_ff, cfg.n_embd, bias=False)
        self.s_u, self.s_v = Scale((d_ff, 1), 1.0, 1.0), Scale((d_ff, 1), 1.0, 1.0)

    def forward(self, x):  # the factors scale rows of weights: fewer numbers than the outputs
        gate = F.linear(x, self.gate_proj.weight * self.s_v() * x.size(-1) ** 0.5)  # (B, T, d_ff)
        x = F.silu(gate) * F.linear(x, self.up_proj.weight * self.s_u())  # (B, T, d_ff)
        return self.down_proj(x)  # (B, T, C)


class Block(nn.Module):
    """x = norm(x + |alpha| (norm(attention(x)) - x)), then the same with MLP (equations 10, 11).

    x moves on the sphere towards the point that attention or MLP proposes: alpha (C,) says for
    each coordinate how far, 0.05 of the way at first.
    """

    def __init__(self, cfg):
        super().__init__()
        self.attn, self.mlp = SelfAttention(cfg), MLP(cfg)
        self.alpha_attn = Scale((cfg.n_embd,), 0.05, cfg.n_embd**-0.5)
        self.alpha_mlp = Scale((cfg.n_embd,), 0.05, cfg.n_embd**-0.5)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x, positions):
        target = normalize(self.dropout(self.attn(x, positions)))  # (B, T, C)
        x = normalize(x.lerp(target, self.alpha_attn().abs()))
        target = normalize(self.dropout(self.mlp(x)))  # (B, T, C)
        return normalize(x.lerp(target, self.alpha_mlp().abs()))


class LanguageModel(nn.Module):
    """Embed each token, run the blocks, score every token at each position."""

    def __init__(self, cfg, vocab_size):
        super().__init__()
        self.objective, self.pad = cfg.objective, vocab_size + 1
        self.token_embedding = nn.Embedding(vocab_size + 2, cfg.n_embd)  # also `<mask>` and `<pad>`
        self.head_dim, self.rope_base = cfg.n_embd // cfg.n_head, cfg.rope_base
        self.dropout = nn.Dropout(cfg.dropout)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layer))
        self.head = nn.Linear(cfg.n_embd, vocab_size, bias=False)
        # The paper's s_z starts at 1: all logits are between -1 and 1, and training starts slowly.
        self.s_z = Scale((vocab_size, 1), cfg.n_embd**0.5, cfg.n_embd**-0.5)
        self.normalize_matrices()  # keeps only the directions of torch's own initialization

    @torch.no_grad()
    def normalize_matrices(self):
        """Give length 1 to every weight vector of width C (section 2.6).

        Those are the rows of the embedding and of each map that reads states, (out, C), and the
        columns of out_proj and down_proj, (C, in), whose outputs become states.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                writes = name.endswith(("out_proj", "down_proj"))
                module.weight.copy_(normalize(module.weight, dim=0 if writes else 1))

    def positions(self, idx):
        """What each key adds to its scores (with -inf a row of padding alone is NaN); angles."""
        bias = torch.where(idx == self.pad, -1e30, 0.0)[:, None, None]  # (B, 1, 1, T)
        return bias, *rotation_angles(0, idx.size(1), self.head_dim, self.rope_base, idx.device)

    def forward(self, idx, targets=None):
        """Logits (B, T, V) for idx (B, T); with targets (B, T), (N, V) for these and their loss."""
        x = self.dropout(self.token_embedding(idx))  # (B, T, C)
        positions = self.positions(idx)
        for block in self.blocks:
            x = block(x, positions)
        if self.objective == "mntp":
            x = F.pad(x, (0, 0, 1, -1))  # at each token the state before it; the first has none
        if targets is not None:  # the head is the largest map: not where it is not needed
            x, targets = x[targets >= 0], targets[targets >= 0]  # (N, C), (N,)
        logits = F.linear(x, self.head.weight * self.s_z())
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.float(), targets, reduction="sum")


# --------------------------------------------------------------------------------- 4 OPTIMIZER
def schedule(spent, cfg):
    """The learning rate's share of its peak, at a share `spent` of the budget: a cosine."""
    return 0.5 * (1 + math.cos(math.pi * spent))


def orthogonalize(G, steps):
    """About U V^T for each G = U diag(s) V^T (..., m, n): all singular values near 1.

    A Newton-Schulz step takes each s to a s + b s^3 + c s^5, by products alone: 0.1 goes to 0.34,
    0.99, 0.71. Jordan chose a, b, c to raise small s fast, at the price that large s never settle
    at 1: after three steps every s that was above 0.05 is between 0.6 and 1.3.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    X = G.mT if G.size(-2) > G.size(-1) else G
    X = X / X.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # s is at most 1
    for _ in range(steps):
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X.mT if G.size(-2) > G.size(-1) else X


class Muon(torch.optim.Optimizer):
    """M = mu M + (1 - mu) G; with the new M (Nesterov) U diag(s) V^T = mu M + (1 - mu) G;
    W = (1 - lr wd) W - lr sqrt(max(1, m / n)) U V^T, for m outputs and n inputs.

    A gradient is dominated by a few directions; with all singular values alike, the weak ones are
    learned as fast (Jordan et al. 2024; arXiv:2502.16982). The rows of U V^T have length 1 if
    m <= n, else about sqrt(n / m): the factor lets every output move alike.
    torch.optim.Muon has mu 0.95 and 5 steps: a short run wants a shorter memory, and 3 do as well.
    """

    def __init__(self, params, lr=0.0, weight_decay=0.0, momentum=0.9, steps=3):
        settings = dict(lr=lr, weight_decay=weight_decay, momentum=momentum, steps=steps)
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            mu, lr = group["momentum"], group["lr"]
            for shape in {p.shape for p in group["params"]}:  # stacked, they are one product
                params = [p for p in group["params"] if p.shape == shape]
                for p in params:
                    M = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    M.lerp_(p.grad, 1 - mu)
                G = torch.stack([p.grad.lerp(self.state[p]["momentum"], mu) for p in params])
                updates = orthogonalize(G, group["steps"]) * max(1, shape[0] / shape[1]) ** 0.5
                for p, update in zip(params, updates, strict=True):
                    p.mul_(1 - lr * group["weight_decay"]).sub_(update, alpha=lr)


class SOAP(torch.optim.Optimizer):
    """Adam in the eigenbasis of Shampoo's preconditioner (arXiv:2409.11321, Algorithm 3).

    L = mean of G G^T = Q_L diag Q_L^T, R = mean of G^T G = Q_R diag Q_R^T;
    W = W - lr Q_L Adam(Q_L^T G Q_R) Q_R^T.
    Adam scales each number of G as if it were independent of the others; in this basis it nearly
    is. The first gradient only sets the basis, which follows L and R every `frequency` steps; as in
    the authors' code V is not turned with it. beta2, for V, L and R, is the paper's.
    """

    def __init__(self, params, lr=0.0, betas=(0.8, 0.95), eps=1e-8, frequency=10):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, frequency=frequency))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if self.state[p]:
                    self.update(p, p.grad, self.state[p], group)
                else:
                    L, R, beta2 = p.grad @ p.grad.T, p.grad.T @ p.grad, group["betas"][1]
                    Q_L, Q_R = (torch.linalg.eigh(A)[1].flip(1) for A in (L, R))  # largest first
                    state = {"L": L * (1 - beta2), "R": R * (1 - beta2), "Q_L": Q_L, "Q_R": Q_R}
                    state |= {"step": 0, "M": torch.zeros_like(p), "V": torch.zeros_like(p)}
                    self.state[p] = state

    def update(self, p, G, state, group):
        """One step for one matrix p (m, n) with gradient G (m, n)."""
        (beta1, beta2), M, V = group["betas"], state["M"], state["V"]
        Q_L, Q_R = state["Q_L"], state["Q_R"]
        state["step"] += 1
        M.lerp_(G, 1 - beta1)
        V.lerp_((Q_L.T @ G @ Q_R).square(), 1 - beta2)  # in the eigenbasis
        mean = Q_L.T @ M @ Q_R / (1 - beta1 ** state["step"])  # M and V started from zero
        square = V / (1 - beta2 ** state["step"])
        p.sub_(Q_L @ (mean / (square.sqrt() + group["eps"])) @ Q_R.T, alpha=group["lr"])
        state["L"].lerp_(G @ G.T, 1 - beta2)
        state["R"].lerp_(G.T @ G, 1 - beta2)
        if state["step"] % group["frequency"] == 0:  # a power iteration puts the largest first
            state["Q_L"] = torch.linalg.qr(state["L"] @ Q_L)[0]
            state["Q_R"] = torch.linalg.qr(state["R"] @ Q_R)[0]


def make_optimizers(model, cfg):
    """AdamW for embedding, head and factors; for the blocks' matrices --optimizer. No decay.

    After each step all matrices return to the sphere.
    """
    matrices = [m.weight for m in model.blocks.modules() if isinstance(m, nn.Linear)]
    rest = [p for p in model.parameters() if all(p is not m for m in matrices)]
    groups = [{"params": rest, "weight_decay": 0.0, "initial_lr": cfg.learning_rate}]
    group = {"params": matrices, "weight_decay": 0.0}
    if cfg.optimizer == "adamw":
        groups.append(group | {"initial_lr": cfg.adamw_learning_rate})
    betas = (0.8, 0.99)  # averages over 5 and 100 steps; (0.9, 0.999) is too long for short runs
    optimizers = [torch.optim.AdamW(groups, betas=betas, fused=True)]
    if cfg.optimizer == "muon":
        optimizers.append(Muon([group | {"initial_lr": cfg.muon_learning_rate}]))
    if cfg.optimizer == "soap":
        optimizers.append(SOAP([group | {"initial_lr": cfg.soap_learning_rate}]))
    optimizers[-1].register_step_post_hook(lambda *_: model.normalize_matrices())
    return optimizers


# -------------------------------------------------------------------------------- 5 EVALUATION
@torch.inference_mode()
def evaluate(model, tokens, tokenizer, block_size):
    """nats/token, bits/byte, share right, of 15 % of the words, the same for any tokenizer."""
    model.eval()
    texts, sums = find_texts(tokens, tokenizer, block_size), np.zeros(4)
    for i in tqdm(range(0, len(texts), 16), delay=5, leave=False, disable=None):  # shown if slow
        batch = hide(texts[i : i + 16], tokenizer.vocab_size, seed=0, exam=True)
        idx, targets = (x.to(next(model.parameters()).device) for x in batch)
        logits, loss = model(idx, targets)
        hidden = targets[targets >= 0]  # (N,)
        n_bytes = sum(byte in LETTERS for byte in tokenizer.decode_bytes(hidden.tolist()))
        sums += len(hidden), n_bytes, loss.item(), (logits.argmax(-1) == hidden).sum().item()
    n, n_bytes, nats, right = sums.tolist()
    return nats / max(n, 1), nats / math.log(2) / max(n_bytes, 1), right / max(n, 1)


# -------------------------------------------------------------------------------- 6 GENERATION
@torch.inference_mode()
def fill(run, n=5):
    """Print the n most probable tokens for each ___ of run.cfg.prompt; returns what it prints."""
    text, mask = run.cfg.prompt, run.tokenizer.vocab_size
    parts = ("\n\n" + text).split("___")  # the space before a gap is part of what fills it
    ids = [i for part in parts for i in (*run.tokenizer.encode(part.removesuffix(" ")), mask)]
    idx = torch.tensor([ids[:-1]], device=choose_device(run.cfg))  # (1, T)
    if mask not in idx:
        raise UserError("--prompt: has no gap; write ___ where a token is missing")
    for probs in run.model(idx)[0][idx == mask].softmax(-1):
        best = zip(*probs.topk(n), strict=True)
        text += "\n" + "  ".join(f"{run.tokenizer.decode(i[None])!r} {p:.0%}" for p, i in best)
    print(f"\n{text}")
    return text


# -------------------------------------------------------------------------------- 7 CHECKPOINT
def write_file(path, content):
    """Write bytes under a temporary name, then rename: a killed run leaves no half-written file."""
    temporary = Path(f"{path}.{os.getpid()}.tmp")  # another run may be writing the same file
    temporary.write_bytes(content)
    temporary.replace(path)


def save_checkpoint(path, **state):
    """Write tensors, numbers and lists to a file that load_checkpoint reads."""
    buffer = io.BytesIO()
    torch.save({NAME: state}, buffer)  # under its name, so that no other version reads it
    write_file(path, buffer.getbuffer())


def load_checkpoint(path, model, key):
    """Copy the saved weights into the model; returns what was saved with them under this key."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)[NAME]
        model.load_state_dict(state["model"])
        return state[key]
    except Exception as error:  # torch has a dozen kinds for missing, truncated and misshapen
        raise UserError(f"{path}: missing, damaged or of other settings ({error!r:.40})") from None


def last_number():
    """The number of the newest run in runs/, 0 if there is none."""
    return max((int(p.name) for p in RUNS.glob("*") if p.name.isdecimal()), default=0)


def create_folder(cfg, tokenizer):
    """Make the folder of a new run, --out or the next free number in runs/, with its settings."""
    folder = Path(cfg.out or RUNS / str(last_number() + 1))
    try:
        folder.mkdir(parents=True, exist_ok=cfg.overwrite)
    except FileExistsError:
        if not cfg.out:  # another run has just taken this number
            return create_folder(cfg, tokenizer)
        raise UserError(f"--out {folder}: exists; choose another name or add --overwrite") from None
    for old in ("checkpoint.pt", "best.pt", "metrics.csv", "loss.png", "sample.txt"):
        (folder / old).unlink(missing_ok=True)
    tokenizer.save(folder / "tokenizer.json")
    settings = json.dumps({"version": NAME, **asdict(cfg)}, indent=2)
    write_file(folder / "config.json", settings.encode())
    return folder


def find_run(out):
    """The folder of a run, `out` or the newest number in runs/, and its Config."""
    folder = Path(out or RUNS / str(last_number()))
    try:
        saved = json.loads((folder / "config.json").read_text())
        version = saved.pop("version")
        if version == NAME:
            return folder, Config(**saved)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder}: holds no run; train one, or name its folder by --out") from None
    raise UserError(f"{folder}: holds a run of {version}; use {version}.py")


def load_run(out="", **changes):
    """The best model of a run, by default the newest, as a Run; `changes` replace settings."""
    folder, cfg = find_run(out)
    cfg = replace(cfg, **changes)
    cfg.check()
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    model = LanguageModel(cfg, tokenizer.vocab_size).to(choose_device(cfg))
    step = load_checkpoint(folder / "best.pt", model, "step")
    return Run(folder, cfg, tokenizer, model.eval(), step)


def init_from(folder, model):
    """Copy the best weights of a v5 or v6 run; a v5 has no vectors for `<mask>` and `<pad>`."""
    try:
        saved = torch.load(folder / "best.pt", map_location="cpu", weights_only=True)
        state = saved.get("v5_ngpt", saved.get(NAME))["model"]
        rows, own = state["token_embedding.weight"], model.token_embedding.weight.detach().cpu()
        model.load_state_dict(
            state | {"token_embedding.weight": torch.cat((rows, own[len(rows) :]))}
        )
    except Exception as error:  # torch has a dozen kinds for missing, truncated and misshapen
        raise UserError(f"--init-from {folder}: no v5 or v6 of this size ({error!r:.40})") from None


# What --resume may change. All other settings, and the text, make the run what it is.
MAY_CHANGE = {"command", "data", "max_steps", "max_seconds", "evals", "eval_tokens", "device"}
MAY_CHANGE |= {"dtype", "out", "overwrite", "resume", "prompt", "compile", "micro_batch_size"}


def identity(cfg, corpus):
    """What a run and its resumed part must share: the text and most settings."""
    text = hashlib.sha256(corpus.train)
    text.update(corpus.val)
    settings = {name: value for name, value in asdict(cfg).items() if name not in MAY_CHANGE}
    return {"text": text.hexdigest(), **settings}


def save_progress(folder, cfg, corpus, model, optimizers, *loop):
    """Write checkpoint.pt, from which --resume continues; loop: step, seconds, losses, rows."""
    if not all(p.isfinite().all() for p in model.parameters()):
        raise UserError("the weights are not finite; try a lower --learning-rate")
    training = {"loop": loop, "identity": identity(cfg, corpus)}
    training["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
    save_checkpoint(folder / "checkpoint.pt", model=model.state_dict(), training=training)


def resume(folder, cfg, corpus, model, optimizers):
    """Restore model and optimizers from checkpoint.pt; returns step, seconds, losses and rows."""
    state = load_checkpoint(folder / "checkpoint.pt", model, "training")
    if changed := dict(identity(cfg, corpus).items() - state["identity"].items()):
        raise UserError(f"--resume: {folder} was trained with other settings than {changed}")
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    if budget_spent(cfg, *state["loop"][:2]) == 1:
        raise UserError(
            "--resume: the budget is used up; give a larger --max-steps or --max-seconds"
        )
    settings = json.dumps({"version": NAME, **asdict(cfg)}, indent=2)
    write_file(folder / "config.json", settings.encode())
    return state["loop"]


# ---------------------------------------------------------------------------------- 8 TRAINING
def choose_device(cfg):
    """The torch.device that --device names."""
    if cfg.device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.zeros(1, device=cfg.device).device
    except Exception:  # each backend raises a kind of its own
        raise UserError(f"--device {cfg.device}: not available here; try auto or cpu") from None


def uses_bfloat16(cfg, device):
    """Whether matrix products run in bfloat16, at half the bytes: where the hardware has it."""
    if cfg.dtype != "auto":
        return cfg.dtype == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return able.get("amx_bf16", False) or able.get("avx512_bf16", False)


def print_header(cfg, model, corpus, folder):
    """Say what runs, on which text, for how long, and where."""
    n_params, n_train = sum(p.numel() for p in model.parameters()), len(corpus.train)
    pass_steps, n_val = n_train / cfg.batch_size / cfg.block_size, len(corpus.val) - 1
    print(f"model    {NAME}, {n_params:,} parameters, vocabulary {corpus.tokenizer.vocab_size:,}")
    print(f"text     {cfg.data}, {n_train:,} tokens to train on, {n_val:,} to validate")
    budget = f"{cfg.max_seconds:g} seconds" if cfg.max_seconds else f"{cfg.max_steps:,} steps"
    print(f"budget   {budget}; {pass_steps:,.0f} steps are one pass over the text")
    device = choose_device(cfg)
    dtype = "bfloat16" if uses_bfloat16(cfg, device) else "float32"
    print(f"machine  {device}, {torch.get_num_threads()} threads, {dtype}")
    print(f"folder   {folder}\n")
    print("    step  seconds  tokens/s  train nats/token  val nats/token  val bits/byte")


def draw_plot(folder, rows):
    """loss.png: loss over the steps, in bits/byte of hidden words; training hides the rest too."""
    scale = rows[0]["val_bits_per_byte"] / (rows[0]["val_loss"] or 1)  # bits/byte per nat/token
    steps, best = [row["step"] for row in rows], min(rows, key=lambda row: row["val_loss"])
    figure = Figure(layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (bits/byte)", title=NAME)
    axes.plot(steps, [row["train_loss"] * scale for row in rows], "--", label="training")
    axes.plot(steps, [row["val_loss"] * scale for row in rows], label="validation")
    axes.plot(best["step"], best["val_loss"] * scale, "o", label=f"best: step {best['step']:,}")
    axes.legend()
    figure.savefig(picture := io.BytesIO())
    write_file(folder / "loss.png", picture.getbuffer())


def record(folder, model, corpus, cfg, rows, step, seconds, losses):
    """Evaluate, print and save the result; save the model if its validation loss is the lowest."""
    part, tokens = corpus.val[: cfg.eval_tokens + 1], step * cfg.batch_size * cfg.block_size
    nats, bits, _ = evaluate(model, part, corpus.tokenizer, cfg.block_size)
    model.train()
    mean = sum(losses) / len(losses)
    if not math.isfinite(mean + nats):
        raise UserError(f"step {step}: the loss is not finite; try a lower --learning-rate")
    losses.clear()
    row = {"step": step, "seconds": seconds, "tokens": tokens, "train_loss": mean}
    rows.append(row | {"val_loss": nats, "val_bits_per_byte": bits})
    row = f"{step:>8,} {seconds:>8.1f} {tokens / seconds:>9,.0f} {mean:>17.4f}"
    tqdm.write(f"{row} {nats:>15.4f} {bits:>14.4f}")
    if nats == min(row["val_loss"] for row in rows):
        save_checkpoint(folder / "best.pt", model=model.state_dict(), step=step)
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows), ""]
    write_file(folder / "metrics.csv", "\n".join(lines).encode())
    draw_plot(folder, rows)


def budget_spent(cfg, step, seconds):
    """The share of the budget that is used up, 0 to 1."""
    return min(1.0, seconds / cfg.max_seconds if cfg.max_seconds else step / cfg.max_steps)


def set_schedules(cfg, model, optimizers, spent, step):
    """Set learning rates and dropout for a step; dropout may rise, for memorizing comes late."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = group["initial_lr"] * schedule(spent, cfg)
    dropout = cfg.dropout * (spent if cfg.dropout_schedule == "linear" else 1.0)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    if dropout:  # what is dropped is a function of (seed, step) too, so that a run can resume
        torch.manual_seed(cfg.seed * 1_000_003 + step)


@contextmanager
def catch_signals():
    """A list that the first Ctrl-C or SIGTERM fills; a second of its kind ends the program."""
    received = []

    def receive(number, frame):
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def keep_memory():
    """Keep the memory that a step frees: to ask the system for it again takes a fifth of a step."""
    if sys.platform == "linux":  # the logits alone are 32 MB (benchmarks/step.py --fresh-memory)
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no tensor in a memory mapping of its own
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap never shrinks


def agree(spent, signals):
    """The budget's share by rank 0's clock (the others send 0), and whether any process has got a
    signal: all must stop at the same step."""
    seen = torch.tensor([0.0 if RANK else spent, len(signals)], dtype=torch.float64)
    if N_RANKS > 1:
        torch.distributed.all_reduce(seen, torch.distributed.ReduceOp.MAX)
    return seen[0].item(), bool(seen[1])


def backward(model, idx, targets, cfg):
    """Gradients of a batch, of which each process takes its part; returns that part's loss."""
    device, losses, size = idx.device, [], cfg.micro_batch_size or len(idx) // N_RANKS
    parts = list(zip(idx.split(size), targets.split(size), strict=True))[RANK::N_RANKS]
    n_targets = max(1, (targets >= 0).sum().item()) / N_RANKS  # in all parts
    model.zero_grad()
    for idx, targets in parts:
        model.require_backward_grad_sync = len(losses) == len(parts) - 1  # DDP: then average
        with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(cfg, device)):
            losses.append(model(idx, targets)[1] / n_targets)
        losses[-1].backward()
    return sum(losses)


def train(cfg):
    """Train a model, from scratch or from its last save; returns its run folder."""
    cfg.check()
    device, folder = choose_device(cfg), find_run(cfg.out)[0] if cfg.resume else None
    source = Path(cfg.init_from) if cfg.init_from and not cfg.resume else folder
    corpus = load_corpus(cfg, load_tokenizer(source / "tokenizer.json") if source else None)
    torch.manual_seed(cfg.seed)
    model = LanguageModel(cfg, corpus.tokenizer.vocab_size).to(device)
    if source != folder:
        init_from(source, model)
    optimizers = make_optimizers(model, cfg)
    loop = resume(folder, cfg, corpus, model, optimizers) if cfg.resume else (0, 0.0, [], [])
    folder = folder or (None if RANK else create_folder(cfg, corpus.tokenizer))
    print_header(cfg, model, corpus, folder)
    keep_memory()
    model.compile(disable=not cfg.compile)
    parallel = nn.parallel.DistributedDataParallel(model) if N_RANKS > 1 else model

    step, seconds, losses, rows = loop
    spent, stop = budget_spent(cfg, step, seconds), False  # share of the budget, 0 to 1
    bar = tqdm(total=1, initial=spent, bar_format=BAR, leave=False, disable=RANK > 0 or None)
    with catch_signals() as signals, bar:
        while spent < 1 and not stop:
            start = time.perf_counter()
            set_schedules(cfg, model, optimizers, spent, step)
            idx, targets = get_batch(corpus, cfg, step, device)
            loss = backward(parallel, idx, targets, cfg)
            nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip or math.inf)
            for optimizer in optimizers:
                optimizer.step()
            losses.append(loss.item())
            seconds += time.perf_counter() - start
            step += 1
            before, (spent, stop) = spent, agree(budget_spent(cfg, step, seconds), signals)
            bar.update(spent - before)
            bar.set_postfix_str(f"step {step}, loss {losses[-1]:.3f}", refresh=False)
            if RANK == 0 and int(spent * cfg.evals) > int(before * cfg.evals):
                record(folder, model, corpus, cfg, rows, step, seconds, losses)
                save_progress(folder, cfg, corpus, model, optimizers, step, seconds, losses, rows)
        if spent < 1 and RANK == 0:  # stopped by a signal
            save_progress(folder, cfg, corpus, model, optimizers, step, seconds, losses, rows)
            raise UserError(f"stopped and saved; resume: python {NAME}.py --resume --out {folder}")
    if rows and rows[-1]["val_loss"] > 1.01 * min(row["val_loss"] for row in rows):
        print("The validation loss rose again: the model memorizes. Use more text or fewer steps.")
    return folder


# ------------------------------------------------------------------------------ 9 COMMAND LINE
def run_command(cfg):
    """Train, then evaluate and fill; or do one of the two with a trained model."""
    folder = train(cfg) if cfg.command == "train" else cfg.out
    if RANK:
        return
    run = load_run(**asdict(cfg) | {"out": folder})
    if cfg.command != "fill":
        corpus = load_corpus(cfg, run.tokenizer)
        nats, bits, right = evaluate(run.model, corpus.val, run.tokenizer, cfg.block_size)
        above = f", {right:.1%} of the hidden tokens right"
        print(f"best: step {run.step:,}, {nats:.4f} nats/token, {bits:.4f} bits/byte{above}")
    if cfg.command != "eval":
        text = fill(run)
    if cfg.command == "train":
        write_file(folder / "sample.txt", text.encode())
        print(f"\nsaved in {folder}: best.pt, loss.png, metrics.csv, sample.txt")
        print(f'next: python {NAME}.py fill --out {folder} --prompt "Once there was a ___."')


def main():
    """Run the command line; a foreseen problem ends in one message and a status that is not 0."""
    sys.stdout.reconfigure(errors="replace")  # for a terminal that lacks some letters
    try:
        if N_RANKS > 1:
            sys.stdout = open(os.devnull, "w") if RANK else sys.stdout
            torch.distributed.init_process_group()
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # a GPU for each
        cfg = tyro.cli(Config, description=__doc__.splitlines()[0])
        if cfg.command != "train" or cfg.resume:  # flags not given keep the run's values
            cfg = tyro.cli(Config, default=find_run(cfg.out)[1])
        run_command(cfg)
    except (UserError, TokenizerError, OSError, KeyboardInterrupt) as error:
        sys.exit(f"{NAME}: {str(error) or 'interrupted'}")
    except (MemoryError, RuntimeError) as error:
        if N_RANKS > 1:  # most often because another process has ended; torchrun names the first
            sys.exit(f"{NAME}: process {RANK}: {error!r:.200}")
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        sys.exit(f"{NAME}: out of memory; try a smaller --batch-size, --block-size or model")


if __name__ == "__main__":
    main()
