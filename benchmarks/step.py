"""Where does a training step's time go, and how near does it come to what the machine's matrix products can do?

    python benchmarks/step.py                                  # every version as its defaults have it
    python benchmarks/step.py --versions v5 --flags "--optimizer soap"
    python benchmarks/step.py --versions v4 v5 --flags "--n-embd 512 --n-layer 12 --n-head 16 --n-kv-head 8"
    python benchmarks/step.py --fresh-memory                   # every tensor's pages anew from the system
    python benchmarks/step.py --versions v1 --nanogpt DIR      # nanoGPT's step at the same shape, from a checkout

Two tables. The first: a step's median milliseconds, tokens/s, and the rate of the model's floating-point operations
(those of forward and backward pass as torch counts them, the optimizer's own not among them) beside the peaks that a
product of two large square matrices reaches here in float32 and bfloat16, measured after each version: the highest
counts. The second: what share of the step each kind of operation takes, by torch's profiler, in a second series of
steps; what an optimizer calls is the optimizer's. A version with --compile is compiled, and so is nanoGPT beside it.
"""

import argparse
import importlib
import shlex
import statistics
import sys
import time
from collections import Counter
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch
import tyro
from nanogpt import load_model_module
from report import RESULTS, ROOT, save
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(ROOT))

KINDS = {  # of operations, by what torch names them; the first that has a part of the name counts
    "matrix products": ("aten::mm", "aten::addmm"),
    "attention": (
        "aten::bmm",
        "aten::baddbmm",
        "aten::_softmax",
        "scaled_dot_product",
        "masked_fill",
    ),
    "loss": ("log_softmax", "nll_loss"),
    "copies, fills": ("copy_", "fill_", "zero_", "cat", "index"),
}


def kind_of(event):
    """The kind of an operation that torch's profiler saw: its optimizer's name, or one of KINDS, or the rest."""
    caller = event
    while caller is not None:
        if caller.name.startswith("Optimizer.step#"):
            return caller.name.split("#")[1].removesuffix(".step")
        caller = caller.cpu_parent
    return next(
        (kind for kind, parts in KINDS.items() if any(part in event.name for part in parts)),
        "the rest",
    )


def synchronize(device):
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(action, device, repeats):
    """Seconds of each of several calls."""
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        began = time.perf_counter()
        action()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return seconds


def matrix_peak(dtype, device, repeats=5):
    """GFLOP/s of the fastest of several products of two (n, n) matrices, large enough to keep the device busy."""
    n = 8192 if device.type == "cuda" else 1024
    a = torch.randn(n, n, device=device).to(dtype)
    return 2 * n**3 / min(timed(lambda: a @ a, device, repeats)) / 1e9


class Training:
    """A version at the start of a training."""

    def __init__(self, name, flags, fresh_memory=False):
        self.module = module = importlib.import_module(name)
        self.cfg = tyro.cli(module.Config, args=flags)
        self.device = module.choose_device(self.cfg)
        if not fresh_memory and hasattr(module, "keep_memory"):
            module.keep_memory()
        self.corpus = module.load_corpus(self.cfg)
        torch.manual_seed(self.cfg.seed)
        self.model = module.LanguageModel(self.cfg, self.corpus.tokenizer.vocab_size).to(
            self.device
        )
        self.optimizers = module.make_optimizers(self.model, self.cfg)
        self.bfloat16 = hasattr(module, "uses_bfloat16") and module.uses_bfloat16(
            self.cfg, self.device
        )
        self.n_steps = 0
        self.tokens = self.cfg.batch_size * self.cfg.block_size  # of one step
        if getattr(self.cfg, "compile", False):
            self.model.compile()

    def step(self):
        """One step as in the version's train."""
        if hasattr(self.module, "set_schedules"):
            self.module.set_schedules(self.cfg, self.model, self.optimizers, 0.3, self.n_steps)
        idx, targets = self.batch(self.n_steps)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            _, loss = self.model(idx, targets)
        self.model.zero_grad()
        loss.backward()
        if hasattr(self.cfg, "grad_clip"):
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.grad_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        loss.item()
        self.n_steps += 1

    def batch(self, step):
        """Inputs and targets of a step, (B, T) each."""
        return self.module.get_batch(self.corpus.train, self.cfg, step, self.device)

    def flops(self):
        """Floating-point operations of one step's forward and backward pass, those of matrix products only."""
        idx, targets = self.batch(0)
        with FlopCounterMode(display=False) as counter:
            self.model.forward(idx, targets)[
                1
            ].backward()  # as written, not as compiled: that has other operators
        self.model.zero_grad()
        return counter.get_total_flops()

    def shares(self, steps):
        """{kind of operation: fraction of the time} over some steps."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        activities += [torch.profiler.ProfilerActivity.CUDA] * (self.device.type == "cuda")
        with torch.profiler.profile(activities=activities) as profile:
            for _ in range(steps):
                self.step()
            synchronize(self.device)
        spent, own = (
            Counter(),
            "self_device_time_total" if self.device.type == "cuda" else "self_cpu_time_total",
        )
        for event in profile.events():
            spent[kind_of(event)] += getattr(event, own)
        return {kind: time / sum(spent.values()) for kind, time in spent.items()}


class Peer(Training):
    """nanoGPT's model and optimizer, as its train.py uses them, at a version's layers, heads, width and batches."""

    def __init__(self, name, flags, checkout):
        super().__init__(name, flags, fresh_memory=True)
        cfg, module = self.cfg, load_model_module(checkout)
        shape = {
            key: getattr(cfg, key)
            for key in ("n_layer", "n_head", "n_embd", "block_size", "dropout")
        }
        shape |= {"vocab_size": self.corpus.tokenizer.vocab_size, "bias": False}
        torch.manual_seed(cfg.seed)
        self.model = module.GPT(module.GPTConfig(**shape)).to(self.device)
        self.optimizer = self.model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), self.device.type)
        self.bfloat16 = (
            self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        )  # on a CPU it has float32
        if getattr(cfg, "compile", False):
            self.model.compile()

    def batch(self, step):
        return [part.contiguous() for part in super().batch(step)]

    def step(self):
        idx, targets = self.batch(self.n_steps)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            _, loss = self.model(idx, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.n_steps += 1


def measure(name, flags, steps, fresh_memory, checkout=None):
    """One row for both tables, of a version or of its peer, and the peaks {dtype: GFLOP/s}."""
    training = Peer(name, flags, checkout) if checkout else Training(name, flags, fresh_memory)
    flops = training.flops()
    timed(training.step, training.device, 5)
    row = {
        "name": f"nanoGPT as {name[:2]}" if checkout else f"`{name}.py`",
        "flops": flops,
        "tokens": training.tokens,
    }
    row["parameters"] = sum(p.numel() for p in training.model.parameters())
    row["seconds"] = statistics.median(timed(training.step, training.device, steps))
    row["shares"] = training.shares(steps // 2)
    peaks = {
        name: matrix_peak(getattr(torch, name), training.device) for name in ("float32", "bfloat16")
    }
    return row, peaks


def speed_table(rows, peaks):
    """Rows {name, parameters, tokens, seconds, flops} as rows of cells; peaks: {dtype: GFLOP/s}."""
    cells = [["file", "parameters", "ms/step", "tokens/s", "GFLOP/step", "GFLOP/s"]]
    cells[0] += [f"of the {name} peak, {peak:,.0f}" for name, peak in peaks.items()]
    for row in rows:
        rate = row["flops"] / row["seconds"] / 1e9
        line = [row["name"], f"{row['parameters']:,}", f"{1000 * row['seconds']:.1f}"]
        line += [f"{row['tokens'] / row['seconds']:,.0f}", f"{row['flops'] / 1e9:.2f}"]
        cells.append(line + [f"{rate:,.0f}", *(f"{rate / peak:.0%}" for peak in peaks.values())])
    return cells


def share_table(rows):
    """Rows {name, shares: {kind: fraction}} as rows of cells, in percent."""
    known = (*KINDS, "Muon", "SOAP", "AdamW", "the rest")
    kinds = [kind for kind in known if any(kind in row["shares"] for row in rows)]
    shares = [[row["shares"].get(kind) for kind in kinds] for row in rows]
    shares = [["" if share is None else f"{share:.0%}" for share in line] for line in shares]
    return [["file", *kinds], *([row["name"], *s] for row, s in zip(rows, shares, strict=True))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", default=str(ROOT / "input.txt"), help="the text (default: input.txt)")
    add("--versions", nargs="+", default=[f"v{i}" for i in range(6)], help="prefixes: v0 ... v5")
    add("--steps", type=int, default=20, help="timed steps, after 5 that are not")
    add("--flags", default="", help="further flags for every version, in one string")
    add("--fresh-memory", action="store_true", help="without keep_memory, to see what it gives")
    add("--nanogpt", type=Path, metavar="DIR", help="a checkout, to time after each version")
    add("--out", type=Path, default=RESULTS / "step.json", help="where the result goes")
    args = parser.parse_args()
    flags = ["--data", args.data, *shlex.split(args.flags)]
    names = [path.stem for v in args.versions for path in sorted(ROOT.glob(f"{v}_*.py"))]
    rows, peaks = [], {"float32": 0.0, "bfloat16": 0.0}
    for name, checkout in product(names, [None, args.nanogpt] if args.nanogpt else [None]):
        with get_context("spawn").Pool(1) as pool:  # a process for each, with memory of its own
            job = (name, flags, args.steps, args.fresh_memory, checkout)
            row, reached = pool.apply(measure, job)
        rows.append(row)
        peaks = {dtype: max(peak, reached[dtype]) for dtype, peak in peaks.items()}
        print(f"{row['name']}: {1000 * row['seconds']:.1f} ms/step", file=sys.stderr, flush=True)
    question = (
        "Where does a training step's time go, and how near does it come to the machine's peak?"
    )
    save(args.out, question, [speed_table(rows, peaks), share_table(rows)])


if __name__ == "__main__":
    main()
