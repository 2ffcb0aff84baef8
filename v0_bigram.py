"""v0: a bigram language model. The next character is predicted from the current one alone.

New:
  - `LanguageModel`: a table of logits, one row of next-character scores for each character.
  - The loss: the mean of -ln p(next character) over a text, in nats/token. Divided by ln 2 and
    by the bytes in a token it is in bits/byte, which compares models with different tokenizers.
    At 3.4 samples are gibberish, at 1.0 words, at 0.35 stories. data/stories.py drew input.txt
    from a grammar that puts its entropy at 0.19, which no model can expect to beat.
Measured: 3.457 bits/byte on input.txt, 4,900 parameters, 2 s (one seed, two CPU cores)
Run: python v0_bigram.py [train|sample|eval] [--help]
"""

import hashlib
import io
import json
import math
import os
import sys
import time
from collections import namedtuple
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

NAME = Path(__file__).stem
RUNS = Path("runs", NAME)  # holds the folders of this version's runs: 1, 2, ...
Corpus = namedtuple("Corpus", "tokenizer train val entropy")  # from load_corpus
Run = namedtuple("Run", "folder cfg tokenizer model step")  # from load_run
BAR = "{percentage:3.0f}%|{bar}| {remaining} left{postfix}"  # format of the progress bar


# ------------------------------------------------------------------------------------- 1 CONFIG
class UserError(Exception):
    """A problem that the user can solve; from anywhere, main prints its message and exits."""


@dataclass
class Config:
    """All settings of a run. Each is also a flag: max_steps is --max-steps."""

    command: tyro.conf.Positional[Literal["train", "sample", "eval"]] = "train"
    """train, then evaluate and sample; or sample from a trained run; or evaluate one"""
    data: str = "input.txt"  # UTF-8 text; the last tenth of its characters is the validation split
    block_size: int = 64  # context length in tokens
    batch_size: int = 64  # windows of block_size tokens per step
    learning_rate: float = 0.05  # of Adam; high, because a table is easy to train
    max_steps: int = 1000  # budget in steps
    evals: int = 10  # evaluations during training, spread evenly over the budget
    eval_tokens: int = 250_000  # validation tokens scored by each of them; after training, all
    seed: int = 1337  # of initial weights, batches and samples
    device: str = "auto"  # auto (CUDA, else MPS, else CPU), or a torch device such as cuda:1
    out: str = ""  # run folder; if empty, a new one in runs/ (for sample and eval: the newest)
    overwrite: bool = False  # replace the run in --out
    prompt: str = ""  # text to continue; if empty, the start of a paragraph
    max_new_tokens: int = 600  # tokens to generate
    temperature: float = 0.8  # below 1 favors probable tokens; 0 always takes the most probable
    top_k: int = 0  # sample from the k most probable tokens only (0: from all)
    top_p: float = 1.0  # sample from the most probable tokens that together reach this probability
    stop: str = ""  # end the sample before this text

    def check(self):
        """Raise UserError for a number that no run can use."""
        at_least_1 = {"block_size", "batch_size", "max_steps", "evals", "eval_tokens"}
        for name, value in asdict(self).items():
            low = 1 if name in at_least_1 else 0
            if isinstance(value, int | float) and not low <= value < 2**31:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be {low} to 2**31 - 1")


# ------------------------------------------------------------------------ 2 TOKENIZER AND DATA
class CharTokenizer:
    """Characters as tokens. CharTokenizer("abc").encode("cab") -> [3, 1, 2]; the newline is 0."""

    def __init__(self, text):
        self.chars = sorted(set(text) | {"\n"})  # a sample starts after newlines
        self.ids = {char: i for i, char in enumerate(self.chars)}
        self.vocab_size = len(self.chars)

    def encode(self, text):
        if unknown := set(text) - self.ids.keys():
            raise UserError(f"not in the training text: the characters {sorted(unknown)}")
        return [self.ids[char] for char in text]

    def decode(self, ids):
        return "".join(self.chars[i] for i in ids)

    def decode_bytes(self, ids):
        return self.decode(ids).encode()

    def save(self, path):
        write_file(path, json.dumps(self.chars).encode())


def load_tokenizer(path):
    """The tokenizer that `save` wrote."""
    try:
        return CharTokenizer(json.loads(Path(path).read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from None


def load_corpus(cfg, tokenizer=None):
    """Read cfg.data and encode it, with the tokenizer of a trained run or a new one.

    train: ids of the first 90 % of the characters; val: the last of these, for context, and the
    rest; entropy: that of val in bits/byte, if FILE.json states it, else None.
    """
    try:
        raw = Path(cfg.data).read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--data {cfg.data}: {error}; give a UTF-8 text file") from None
    tokenizer = tokenizer or CharTokenizer(text)
    cut = len(text) * 9 // 10
    train, val = (np.array(tokenizer.encode(part)) for part in (text[:cut], text[cut:]))
    if len(train) <= cfg.block_size:
        raise UserError(f"--data {cfg.data}: {len(train)} tokens; --block-size needs more")
    facts, entropy = Path(f"{cfg.data}.json"), None
    if facts.exists() and hashlib.sha256(raw).hexdigest().encode() in facts.read_bytes():
        entropy = json.loads(facts.read_text())["floor_bits_per_byte"]["validation"]
    return Corpus(tokenizer, train, np.concatenate((train[-1:], val)), entropy)


def get_batch(tokens, cfg, step, device):
    """Inputs and targets (B, T) of a step: the same for the same (seed, step)."""
    # Starts a golden ratio apart, round and round, lie evenly. Random ones miss 1/e of each pass.
    first = np.random.default_rng(cfg.seed).random()
    places = (first + 0.6180339887498949 * (step * cfg.batch_size + np.arange(cfg.batch_size))) % 1
    starts = (places * (len(tokens) - cfg.block_size)).astype(np.int64)  # (B,)
    windows = tokens[starts[:, None] + np.arange(cfg.block_size + 1)]  # (B, T + 1)
    windows = torch.from_numpy(windows.astype(np.int64)).to(device)
    return windows[:, :-1], windows[:, 1:]  # the target of each token is the one after it


# ------------------------------------------------------------------------------------- 3 MODEL
# Shapes: B batch, T time (tokens), V vocabulary.
class LanguageModel(nn.Module):
    """p(next = j | current = i) = softmax(table[i])[j].

    Trained to the end, row i holds the logarithms of how often each j followed i, up to a constant.
    Example: if "a" is followed by "b" 3 times of 4 and by "c" once, p = (3/4, 1/4), and what
    follows an "a" costs -(3/4 ln 3/4 + 1/4 ln 1/4) = 0.56 nats on average, or 0.81 bits.
    """

    def __init__(self, cfg, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
        nn.init.zeros_(self.table.weight)  # at first every next character is equally probable

    def forward(self, idx, targets=None):
        """Logits (B, T, V) after each token of idx (B, T); with targets (B, T), their loss too."""
        logits = self.table(idx)  # (B, T, V)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


# --------------------------------------------------------------------------------- 4 OPTIMIZER
def make_optimizers(model, cfg):
    """Adam (arXiv:1412.6980), in a list: later versions give each group of parameters its own."""
    betas = (0.8, 0.99)  # averages over 5 and 100 steps; (0.9, 0.999) is too long for short runs
    return [torch.optim.Adam(model.parameters(), cfg.learning_rate, betas)]


# -------------------------------------------------------------------------------- 5 EVALUATION
@torch.inference_mode()
def evaluate(model, tokens, tokenizer, block_size):
    """Mean loss of tokens[1:], each scored once in windows of block_size: nats/token, bits/byte."""
    model.eval()
    n, n_bytes, nats = len(tokens) - 1, 0, 0.0
    for i in tqdm(range(0, n, block_size), delay=5, leave=False, disable=None):  # shown if slow
        ids = torch.from_numpy(tokens[i : i + block_size + 1].astype(np.int64))
        idx = ids[None].to(next(model.parameters()).device)
        nats += model(idx[:, :-1], idx[:, 1:])[1].item() * (len(ids) - 1)
        n_bytes += len(tokenizer.decode_bytes(ids[1:].tolist()))
    return nats / max(n, 1), nats / math.log(2) / max(n_bytes, 1)


# -------------------------------------------------------------------------------- 6 GENERATION
def pick_next(logits, temperature, top_k, top_p, generator):
    """Draw one token id per row of logits (B, V); returns (B,)."""
    if temperature < 1e-6:
        return logits.argmax(-1)
    logits = logits / temperature
    if top_k:
        lowest = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < lowest, -math.inf)
    if top_p < 1:
        probs, order = logits.softmax(-1).sort(descending=True)  # (B, V)
        probs[probs.cumsum(-1) - probs > top_p] = 0.0  # those before them suffice
        return order.gather(-1, torch.multinomial(probs, 1, generator=generator))[:, 0]
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


@torch.inference_mode()
def generate(model, idx, n, block_size, temperature=1.0, top_k=0, top_p=1.0, seed=0):
    """Continue idx (B, T) by n tokens, yielding the ids (B,) of each as soon as it is drawn."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)  # on the CPU: every device draws the same
    for _ in range(n):
        logits, _ = model(idx[:, -block_size:])
        next_ids = pick_next(logits[:, -1].cpu(), temperature, top_k, top_p, generator)
        yield next_ids
        idx = torch.cat((idx, next_ids[:, None].to(idx.device)), dim=1)


def print_sample(run):
    """Print a continuation of run.cfg.prompt as it is drawn, up to run.cfg.stop; returns it."""
    cfg, ids, text, shown, end = run.cfg, [], "", 0, " [...]"
    idx = torch.tensor([run.tokenizer.encode(cfg.prompt or "\n\n")], device=choose_device(cfg))
    settings = (cfg.temperature, cfg.top_k, cfg.top_p, cfg.seed)
    print(f"\nsample at temperature {cfg.temperature:g}:\n\n{cfg.prompt}", end="")
    for next_ids in generate(run.model, idx, cfg.max_new_tokens, cfg.block_size, *settings):
        ids.append(next_ids.item())
        text = run.tokenizer.decode(ids)
        if cfg.stop and cfg.stop in text:
            text, end = text[: text.index(cfg.stop)], ""
            break
        final = max(shown, len(text) - len(cfg.stop))  # what follows may be the start of cfg.stop
        print(text[shown:final], end="", flush=True)
        shown = final
    print(text[shown:] + end)
    return cfg.prompt + text


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
    for old in ("best.pt", "metrics.csv", "loss.png", "sample.txt"):
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


# ---------------------------------------------------------------------------------- 8 TRAINING
def choose_device(cfg):
    """The torch.device that --device names."""
    if cfg.device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.zeros(1, device=cfg.device).device
    except Exception:  # each backend raises a kind of its own
        raise UserError(f"--device {cfg.device}: not available here; try auto or cpu") from None


def print_header(cfg, model, corpus, folder):
    """Say what runs, on which text, for how long, and where."""
    n_params, n_train = sum(p.numel() for p in model.parameters()), len(corpus.train)
    pass_steps, n_val = n_train / cfg.batch_size / cfg.block_size, len(corpus.val) - 1
    print(f"model    {NAME}, {n_params:,} parameters, vocabulary {corpus.tokenizer.vocab_size:,}")
    print(f"text     {cfg.data}, {n_train:,} tokens to train on, {n_val:,} to validate")
    print(f"budget   {cfg.max_steps:,} steps; {pass_steps:,.0f} steps are one pass over the text")
    print(f"machine  {choose_device(cfg)}, {torch.get_num_threads()} threads")
    print(f"folder   {folder}\n")
    print("    step  seconds  tokens/s  train nats/token  val nats/token  val bits/byte")


def draw_plot(folder, rows, entropy):
    """loss.png: training and validation loss over the steps, in bits/byte."""
    scale = rows[0]["val_bits_per_byte"] / (rows[0]["val_loss"] or 1)  # bits/byte per nat/token
    steps, best = [row["step"] for row in rows], min(rows, key=lambda row: row["val_loss"])
    figure = Figure(layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (bits/byte)", title=NAME)
    axes.plot(steps, [row["train_loss"] * scale for row in rows], "--", label="training")
    axes.plot(steps, [row["val_loss"] * scale for row in rows], label="validation")
    axes.plot(best["step"], best["val_loss"] * scale, "o", label=f"best: step {best['step']:,}")
    if entropy is not None:
        axes.axhline(entropy, color="gray", label="entropy of the text")
    axes.legend()
    figure.savefig(picture := io.BytesIO())
    write_file(folder / "loss.png", picture.getbuffer())


def record(folder, model, corpus, cfg, rows, step, seconds, losses):
    """Evaluate, print and save the result; save the model if its validation loss is the lowest."""
    part, tokens = corpus.val[: cfg.eval_tokens + 1], step * cfg.batch_size * cfg.block_size
    nats, bits = evaluate(model, part, corpus.tokenizer, cfg.block_size)
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
    draw_plot(folder, rows, corpus.entropy)


def train(cfg):
    """Train a model from scratch; returns its run folder."""
    cfg.check()
    device, corpus = choose_device(cfg), load_corpus(cfg)
    torch.manual_seed(cfg.seed)
    model = LanguageModel(cfg, corpus.tokenizer.vocab_size).to(device)
    optimizers = make_optimizers(model, cfg)
    folder = create_folder(cfg, corpus.tokenizer)
    print_header(cfg, model, corpus, folder)

    step, seconds, losses, rows, spent = 0, 0.0, [], [], 0.0  # spent: share of the budget, 0 to 1
    with tqdm(total=1, bar_format=BAR, leave=False, disable=None) as bar:
        while spent < 1:
            start = time.perf_counter()
            idx, targets = get_batch(corpus.train, cfg, step, device)
            _, loss = model(idx, targets)
            model.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            losses.append(loss.item())
            seconds += time.perf_counter() - start
            step += 1
            before, spent = spent, step / cfg.max_steps
            bar.update(spent - before)
            bar.set_postfix_str(f"step {step}, loss {losses[-1]:.3f}", refresh=False)
            if int(spent * cfg.evals) > int(before * cfg.evals):
                record(folder, model, corpus, cfg, rows, step, seconds, losses)
    return folder


# ------------------------------------------------------------------------------ 9 COMMAND LINE
def run_command(cfg):
    """Train, then evaluate and sample; or do one of the two with a trained model."""
    folder = train(cfg) if cfg.command == "train" else cfg.out
    run = load_run(**asdict(cfg) | {"out": folder})
    if cfg.command != "sample":
        corpus = load_corpus(cfg, run.tokenizer)
        nats, bits = evaluate(run.model, corpus.val, run.tokenizer, cfg.block_size)
        above = f" ({bits - corpus.entropy:.4f} above the entropy)" if corpus.entropy else ""
        print(f"best: step {run.step:,}, {nats:.4f} nats/token, {bits:.4f} bits/byte{above}")
    if cfg.command != "eval":
        text = print_sample(run)
    if cfg.command == "train":
        write_file(folder / "sample.txt", text.encode())
        print(f"\nsaved in {folder}: best.pt, loss.png, metrics.csv, sample.txt")
        print(f'next: python {NAME}.py sample --out {folder} --prompt "Once"')


def main():
    """Run the command line; a foreseen problem ends in one message and a status that is not 0."""
    sys.stdout.reconfigure(errors="replace")  # for a terminal that lacks some letters
    try:
        cfg = tyro.cli(Config, description=__doc__.splitlines()[0])
        if cfg.command != "train":  # flags not given keep the run's values
            cfg = tyro.cli(Config, default=find_run(cfg.out)[1])
        run_command(cfg)
    except (UserError, OSError, KeyboardInterrupt) as error:
        sys.exit(f"{NAME}: {str(error) or 'interrupted'}")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        sys.exit(f"{NAME}: out of memory; try a smaller --batch-size, --block-size or model")


if __name__ == "__main__":
    main()
