"""What is each idea worth? From each rung to the next one change at a time, everything else held.

    python benchmarks/ablations.py                               # all on input.txt, the same tokens for each
    python benchmarks/ablations.py --data input.txt FILE --seeds 3
    python benchmarks/ablations.py --seconds 45                  # the same seconds for each instead
    python benchmarks/ablations.py --only "v5" "v5, tied head"   # some of them

A chain leads from a rung to the next, one part more in each row; below it stand the next rung's rows with one part
taken out again. The parts come from the versions' own classes, put in for the time of one run. Runs go seed by seed,
so that a change in the machine's speed meets every row. It takes hours: every run is kept in
benchmarks/results/ablations.json as soon as it ends, and is not made again.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
import torch.nn as nn
from ladder import spread
from matplotlib.figure import Figure
from report import RESULTS, ROOT, save
from tqdm import tqdm

sys.path.insert(0, str(ROOT))
import v0_bigram as v0
import v1_transformer as v1
import v2_bpe_rope as v2
import v3_alibi as v3
import v4_gqa_swiglu as v4
import v5_ngpt as v5


# Changes of a model that has just been built.
class EmbeddingWithTable(nn.Embedding):
    """A token's vector plus one for its position, as in v1."""

    def __init__(self, cfg, vocab_size):
        super().__init__(vocab_size, cfg.n_embd)
        self.order = nn.Embedding(cfg.block_size, cfg.n_embd)

    def forward(self, idx):
        return super().forward(idx) + self.order(torch.arange(idx.size(1), device=idx.device))


def position_table(model, cfg):
    """Positions as v1 has them, and nothing turned."""
    tied = model.head.weight is model.token_embedding.weight
    model.token_embedding = EmbeddingWithTable(cfg, model.head.out_features)
    if tied:
        model.head.weight = model.token_embedding.weight
    unturned(model, model.positions)


def unturned(model, positions):
    """Angles of 0, with the bias that `positions` gives."""
    zero, one = torch.zeros(1), torch.ones(1)
    model.positions = lambda *args: (positions(*args)[0], one, zero)


def untied(model, cfg):
    model.head = nn.Linear(cfg.n_embd, model.head.out_features, bias=False)


def tied(model, cfg):
    model.head.weight = model.token_embedding.weight


def norms(kind):
    """Every norm of the model replaced by one of another kind."""

    def change(model, cfg):
        for block in model.blocks:
            block.attn_norm, block.mlp_norm = kind(cfg.n_embd), kind(cfg.n_embd)
        model.norm = kind(cfg.n_embd)

    return change


def alibi(model, cfg):
    """v3's bias in v4, and nothing turned."""
    unturned(model, lambda past, T, device: [v3.attention_bias(T, cfg.n_head, device)])


# Classes of one version in the place of another's.
class SwiGLU(v4.MLP):
    """v4's MLP for a version whose Config knows no d_ff."""

    def __init__(self, cfg):
        super().__init__(SimpleNamespace(n_embd=cfg.n_embd, d_ff=0))


class GroupedQueries(v4.CausalSelfAttention):
    """v4's attention for v3: two heads of keys and values, ALiBi's bias, nothing turned."""

    def __init__(self, cfg):
        super().__init__(SimpleNamespace(n_embd=cfg.n_embd, n_head=cfg.n_head, n_kv_head=2))

    def forward(self, x, bias):
        return super().forward(x, (bias, torch.ones(1), torch.zeros(1)))


def with_head(make_optimizers):
    """v4's optimizers for an untied head, which is trained as the embedding is."""

    def make(model, cfg):
        optimizers = make_optimizers(model, cfg)
        group = {"params": [model.head.weight], "weight_decay": cfg.weight_decay}
        optimizers[0].add_param_group(group | {"initial_lr": cfg.learning_rate})
        return optimizers

    return make


@dataclass
class Row:
    """One row: a version, what is changed in its models, in its module, and in its settings."""

    group: str
    name: str
    version: object
    models: tuple = ()
    parts: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)


V1 = {"block_size": 128, "batch_size": 16, "learning_rate": 0.004, "weight_decay": 0.1}
V3 = {"optimizer": "adamw", "learning_rate": 0.006, "adamw_learning_rate": 0.006}
V3 |= {"weight_decay": 1.0}
RELU, GELU = {"MLP": v1.MLP}, {"MLP": v3.MLP}
RMS, LAYER = norms(v4.RMSNorm), norms(nn.LayerNorm)
BLOCK = {"MLP": SwiGLU, "CausalSelfAttention": GroupedQueries}
UNTIED = {"make_optimizers": with_head(v4.make_optimizers)}
ROWS = [
    Row("v0 to v1", "v0", v0),
    Row("v0 to v1", "v1", v1),
    Row("v1 to v2", "+ byte-pair tokens", v2, (untied, position_table), RELU, V1),
    Row("v1 to v2", "+ RoPE", v2, (untied,), RELU, V1),
    Row("v1 to v2", "+ GELU", v2, (untied,), {}, V1),
    Row("v1 to v2", "+ tied head", v2, (), {}, V1),
    Row("v1 to v2", "+ longer windows, rates and decay: v2", v2),
    Row("v2 without", "v2, bytes as tokens", v2, (), {}, {"vocab_size": 256}),
    Row("v2 without", "v2, a table of positions", v2, (position_table,)),
    Row("v2 without", "v2, ReLU", v2, (), RELU),
    Row("v2 without", "v2, untied head", v2, (untied,)),
    Row("v2 to v4", "v3: ALiBi in place of RoPE", v3),
    Row("v2 to v4", "+ RMSNorm", v3, (RMS,)),
    Row("v2 to v4", "+ SwiGLU", v3, (RMS,), {"MLP": SwiGLU}),
    Row("v2 to v4", "+ grouped queries", v3, (RMS,), BLOCK),
    Row("v2 to v4", "+ RoPE in place of ALiBi", v4, (), {}, V3),
    Row("v2 to v4", "+ Muon, rates and decay: v4", v4),
    Row("v4 without", "v4, LayerNorm", v4, (LAYER,)),
    Row("v4 without", "v4, GELU in place of SwiGLU", v4, (), GELU),
    Row("v4 without", "v4, as many key/value heads", v4, (), {}, {"n_kv_head": 4}),
    Row("v4 without", "v4, ALiBi", v4, (alibi,)),
    Row("v4 without", "v4, AdamW", v4, (), {}, {"optimizer": "adamw"}),
    Row("v4 to v5", "v4, untied head", v4, (untied,), UNTIED),
    Row("v4 to v5", "v4, untied head, AdamW", v4, (untied,), UNTIED, {"optimizer": "adamw"}),
    Row("v4 to v5", "v5", v5),
    Row("v4 to v5", "v5, tied head", v5, (tied,)),
    Row("v4 to v5", "v5, tied head, AdamW", v5, (tied,), {}, {"optimizer": "adamw"}),
    Row("v4 to v5", "v5, AdamW", v5, (), {}, {"optimizer": "adamw"}),
    Row("v4 to v5", "v5, SOAP", v5, (), {}, {"optimizer": "soap"}),
    Row("v4 to v5", "v5, dropout 0.1", v5, (), {}, {"dropout": 0.1}),
]


def build(row, version_model):
    """LanguageModel of a row, for the module's own code to call."""

    def make(cfg, vocab_size):
        model = version_model(cfg, vocab_size)
        for change in row.models:
            change(model, cfg)
        if row.models and hasattr(model, "init_weights"):
            model.init_weights(cfg)
        return model

    return make


def measure(row, data, seed, budget):
    """Train and evaluate one row; returns its figures."""
    version = row.version
    parts = row.parts | {"LanguageModel": build(row, version.LanguageModel)}
    settings = row.settings | {"data": data, "seed": seed, "evals": 2}
    cfg = version.Config(**settings)
    if "tokens" in budget:
        cfg.max_steps = round(budget["tokens"] / cfg.batch_size / cfg.block_size)
    cfg.max_seconds = budget.get("seconds", 0.0)
    with tempfile.TemporaryDirectory() as folder, mock.patch.multiple(version, **parts):
        cfg.out = str(Path(folder) / "run")
        with contextlib.redirect_stdout(io.StringIO()):
            run = version.load_run(version.train(cfg), data=data)
        last = (run.folder / "metrics.csv").read_text().splitlines()[-1].split(",")
        corpus = version.load_corpus(run.cfg, run.tokenizer)
        bits = version.evaluate(run.model, corpus.val, run.tokenizer, run.cfg.block_size)[1]
    n_params = sum(p.numel() for p in run.model.parameters())
    tokens, seconds = int(last[2]), float(last[1])
    steps = tokens / cfg.batch_size / cfg.block_size
    figures = {"parameters": n_params, "tokens": tokens, "ms": 1000 * seconds / steps}
    return figures | {"bits_per_byte": bits}


def tables(kept):
    """A table for each text and budget: rows of cells, differences to the row above or to the base."""
    found = []
    for budget, text in sorted({tuple(key.split(" | ")[:2]) for key in kept}):
        table, medians = [[f"{text}, {budget}", "parameters", "ms/step", "bits/byte", "change"]], {}
        for row in ROWS:
            runs = [
                run
                for key, run in kept.items()
                if key.startswith(f"{budget} | {text} | {row.name} |")
            ]
            if not runs:
                continue
            bits = [run["bits_per_byte"] for run in runs]
            medians[row.name] = statistics.median(bits)
            base = medians.get(base_of(row))
            change = "" if base is None else f"{medians[row.name] - base:+.4f}"
            ms = f"{statistics.median(run['ms'] for run in runs):.0f}"
            table.append([row.name, f"{runs[0]['parameters']:,}", ms, spread(bits, 4), change])
        found.append(table)
    return found


def base_of(row):
    """Name of the row that a row is compared with: the one above in a chain, else the rung."""
    names = [r.name for r in ROWS]
    v2_name, v4_name = "+ longer windows, rates and decay: v2", "+ Muon, rates and decay: v4"
    if row.group == "v2 without" or row.name.startswith("v3"):
        return v2_name
    if row.group == "v4 without" or row.name in ("v4, untied head", "v5"):
        return v4_name
    if row.name.startswith("v5,"):
        return "v5"
    return names[names.index(row.name) - 1] if row.name != "v0" else None


def waterfall(table, path):
    """Bits/byte of the chain from v0 to v5, each bar from one row's figure to the next."""
    shown = {row[0]: float(row[3].split(" ")[0]) for row in table[1:]}
    chain = [r.name for r in ROWS if r.group in ("v0 to v1", "v1 to v2", "v2 to v4")]
    chain = [name for name in [*chain, "v4, untied head", "v5"] if name in shown]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="bits/byte (log scale)", title=table[0][0])
    for place, (before, name) in enumerate(zip([chain[0], *chain], chain, strict=False)):
        old, new = shown[before], shown[name]
        axes.plot([old, new], [place, place], "C2" if new < old else "C3", linewidth=6)
        axes.plot(new, place, "ko", markersize=4)
        axes.annotate(f"{new:.3f}", (new, place), xytext=(8, -3), textcoords="offset points")
    axes.set_yticks(range(len(chain)), chain)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", nargs="+", default=["input.txt"], help="texts (default: input.txt)")
    add("--tokens", type=int, default=400_000, help="of training for each run")
    add("--seconds", type=float, help="of training for each run, in place of --tokens")
    add("--seeds", type=int, default=1)
    add("--only", nargs="+", metavar="NAME", help="of the rows (default: all)")
    add("--out", type=Path, default=RESULTS / "ablations.json", help="where the result goes")
    args = parser.parse_args()
    kept = json.loads(args.out.read_text(encoding="utf-8"))["runs"] if args.out.exists() else {}
    budget = {"seconds": args.seconds} if args.seconds else {"tokens": args.tokens}
    (label,) = (f"{n:,g} {unit}" for unit, n in budget.items())
    jobs = [
        (f"{label} | {Path(data).name} | {row.name} | {seed}", row, data, seed)
        for seed in range(1337, 1337 + args.seeds)
        for data in args.data
        for row in ROWS
        if not args.only or row.name in args.only
    ]
    for key, row, data, seed in tqdm([job for job in jobs if job[0] not in kept]):
        began = time.perf_counter()
        kept[key] = measure(row, data, seed, budget)
        tqdm.write(f"{key}: {kept[key]['bits_per_byte']:.4f}, {time.perf_counter() - began:.0f} s")
        with contextlib.redirect_stdout(io.StringIO()):
            save(args.out, QUESTION, tables(kept), NOTE, runs=kept)
    waterfall(tables(kept)[0], args.out.with_suffix(".png"))
    save(args.out, QUESTION, tables(kept), NOTE, runs=kept)


QUESTION = "What is each idea worth?"
NOTE = """`+` rows add one part to the row above; the other rows change one thing in the rung that they name.
The column `change` is the difference in bits/byte to that row; negative is better."""


if __name__ == "__main__":
    main()
