"""Two ideas on top of v5, by subclassing, compared with the dense model: fast feed-forward, and the dropout schedule.

    python benchmarks/variations.py                             # v5's default size, 750 steps, three seeds
    python benchmarks/variations.py --steps 100 --seeds 1 --flags n_layer=2 n_embd=64

All variations get the same steps, so the same tokens; their seconds are in the table. Bits/byte is of the whole
validation split, with the weights of the lowest validation loss; with several seeds it is the median, and the lowest
and highest stand in brackets. The table is printed and written to benchmarks/results/variations.json;
notebooks/7_variations.ipynb reads it, and imports the classes from here.
"""

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch
import torch.nn as nn
import torch.nn.functional as F
from ladder import spread
from report import RESULTS, ROOT, save

sys.path.insert(0, str(ROOT))

import v5_ngpt as v5

DEPTH = 4  # of the tree: 2^DEPTH leaves
HARDENING = 0.3  # weight of the hardening loss


class FastMLP(v5.MLP):
    """Fast feed-forward (arXiv:2308.14711): a tree of sigmoid routers over the parts, its leaves, of a wide MLP.

    In training every leaf takes part, weighted by the product of the choices on the way to it; the hardening loss
    pushes each choice towards 0 or 1. At evaluation a token goes one way at each router and only its leaf is computed:
    F / 2^DEPTH of the F hidden units. A leaf is a run of rows of gate_proj and up_proj and of columns of down_proj, so
    the matrices, and what keeps them on the sphere, are v5's.
    """

    def __init__(self, cfg):
        super().__init__(cfg)
        self.leaves, d_ff = 2**DEPTH, self.up_proj.out_features
        if d_ff % self.leaves:
            raise v5.UserError(f"--d-ff {d_ff}: must be a multiple of {self.leaves}, the leaves")
        self.width = d_ff // self.leaves
        self.router = nn.Linear(
            cfg.n_embd, self.leaves - 1, bias=False
        )  # node n has the children 2 n + 1 and 2 n + 2
        self.s_r = v5.Scale((self.leaves - 1,), 1.0, 1.0)
        self.hardening = 0.0

    def routes(self, x):
        """Logit of going right at each router, (..., leaves - 1)."""
        return (self.router(x) * self.s_r() * x.size(-1) ** 0.5).float()

    def leaf_weights(self, logits):
        """Product of the choices on the way to each leaf, (..., leaves); they sum to one."""
        right = logits.sigmoid()
        weights = torch.ones_like(right[..., :1])
        for depth in range(DEPTH):
            p = right[
                ..., 2**depth - 1 : 2 ** (depth + 1) - 1
            ]  # the routers of this depth, from left to right
            weights = torch.stack((weights * (1 - p), weights * p), dim=-1).flatten(-2)
        return weights

    def chosen_leaf(self, x):
        """The leaf at which each token arrives that takes the more probable way at every router, (...)."""
        right, node = (
            self.routes(x) > 0,
            torch.zeros(x.shape[:-1], dtype=torch.long, device=x.device),
        )
        for _ in range(DEPTH):
            node = 2 * node + 1 + right.gather(-1, node[..., None])[..., 0].long()
        return node - (self.leaves - 1)

    def forward(self, x):
        return self.soft(x) if self.training else self.hard(x)

    def soft(self, x):
        """All leaves, weighted (arXiv:2308.14711, section 2); keeps the mean entropy of the choices, in nats."""
        logits = self.routes(x)
        p = logits.sigmoid()
        self.hardening = -(p * F.logsigmoid(logits) + (1 - p) * F.logsigmoid(-logits)).mean()
        s_u, s_v = self.s_u()[:, 0], self.s_v()[:, 0]
        hidden = F.silu(self.gate_proj(x) * s_v * x.size(-1) ** 0.5) * (
            self.up_proj(x) * s_u
        )  # (B, T, d_ff)
        share = self.leaf_weights(logits).repeat_interleave(self.width, dim=-1)
        return self.down_proj(hidden * share.type_as(hidden))

    def hard(self, x):
        """One leaf per token: tokens are sorted by leaf, and each leaf computes its own."""
        flat, s_u_all, s_v_all = x.reshape(-1, x.size(-1)), self.s_u()[:, 0], self.s_v()[:, 0]
        leaf, y = self.chosen_leaf(flat), torch.zeros_like(flat)
        for n in leaf.unique().tolist():
            own = slice(n * self.width, (n + 1) * self.width)
            at = (leaf == n).nonzero()[:, 0]
            s_u, s_v = s_u_all[own], s_v_all[own]
            gate = F.linear(flat[at], self.gate_proj.weight[own]) * s_v * x.size(-1) ** 0.5
            hidden = F.silu(gate) * (F.linear(flat[at], self.up_proj.weight[own]) * s_u)
            y[at] = F.linear(hidden, self.down_proj.weight[:, own])
        return y.view_as(x)


class FastModel(v5.LanguageModel):
    """v5 with a FastMLP in every block; in training its loss holds the hardening loss too."""

    def __init__(self, cfg, vocab_size):
        super().__init__(cfg, vocab_size)
        for block in self.blocks:
            block.mlp = FastMLP(cfg)
        self.normalize_matrices()

    def forward(self, idx, targets=None, caches=None):
        logits, loss = super().forward(idx, targets, caches)
        if loss is not None and self.training:
            loss = loss + HARDENING * sum(block.mlp.hardening for block in self.blocks) / len(
                self.blocks
            )
        return logits, loss


VARIATIONS = {
    "dense": (v5.LanguageModel, {}),
    "fast feed-forward": (FastModel, {}),
    "dropout 0.1, constant": (v5.LanguageModel, {"dropout": 0.1}),
    "dropout 0 to 0.1, linear": (v5.LanguageModel, {"dropout": 0.1, "dropout_schedule": "linear"}),
}


def fit(name, folder, **settings):
    """Train one variation in a folder, without its usual output; returns its Run, corpus and last metrics row."""
    model, more = VARIATIONS[name]
    with mock.patch.object(v5, "LanguageModel", model), contextlib.redirect_stdout(io.StringIO()):
        run = v5.load_run(v5.train(v5.Config(**settings, **more, out=str(folder))))
    names, *_, last = (
        line.split(",") for line in (run.folder / "metrics.csv").read_text().splitlines()
    )
    return (
        run,
        v5.load_corpus(run.cfg, run.tokenizer),
        dict(zip(names, map(float, last), strict=True)),
    )


def feed_forward_units(run):
    """Hidden units that one token uses in each block at inference."""
    mlp = run.model.blocks[0].mlp
    return mlp.width if isinstance(mlp, FastMLP) else mlp.up_proj.out_features


def compare(folder, seeds=1, names=tuple(VARIATIONS), **settings):
    """Train the variations, seed by seed; returns {name: [{parameters, units, bits_per_byte, seconds, run}, ...]}."""
    results = {name: [] for name in names}
    for seed in range(1337, 1337 + seeds):
        for name in names:
            run, corpus, row = fit(
                name, Path(folder) / f"{name}-{seed}".replace(" ", "-"), seed=seed, **settings
            )
            _, bits = v5.evaluate(run.model, corpus.val, run.tokenizer, run.cfg.block_size)
            parameters = sum(p.numel() for p in run.model.parameters())
            figures = {
                "parameters": parameters,
                "units": feed_forward_units(run),
                "seconds": row["seconds"],
            }
            results[name].append(figures | {"bits_per_byte": bits, "run": run})
            print(f"{name} seed {seed}: {bits:.4f} bits/byte", file=sys.stderr, flush=True)
    return results


def table(results):
    """The results as rows of cells."""
    rows = [["variation", "parameters", "hidden units per token and block", "bits/byte"]]
    rows[0].append("training, s")
    for name, runs in results.items():
        bits = spread([run["bits_per_byte"] for run in runs], 4)
        seconds = f"{statistics.median(run['seconds'] for run in runs):.0f}"
        rows.append([name, f"{runs[0]['parameters']:,}", str(runs[0]["units"]), bits, seconds])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", default=str(ROOT / "input.txt"), help="the text (default: input.txt)")
    add("--steps", type=int, default=750, help="of training, the same for all")
    add("--seeds", type=int, default=3, help="runs per variation")
    add("--flags", nargs="*", default=[], metavar="NAME=N", help="integer fields of v5's Config")
    add("--out", type=Path, default=RESULTS / "variations.json", help="where the result goes")
    args = parser.parse_args()
    settings = {name: int(value) for name, value in (flag.split("=") for flag in args.flags)}
    with tempfile.TemporaryDirectory() as folder:
        found = table(compare(folder, args.seeds, data=args.data, max_steps=args.steps, **settings))
    note = f"v5 at its default size, {args.steps} steps each."
    save(args.out, "Do fast feed-forward and a dropout schedule pay?", [found], note)


if __name__ == "__main__":
    main()
