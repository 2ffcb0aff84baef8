"""How much memory does a v4 of some size take in training, and how fast is it?

    python benchmarks/sizes.py                       # estimates; the first two sizes are also trained
    python benchmarks/sizes.py --measured 4          # for a GPU

Estimated for one micro-batch: the weights, their gradients, the optimizers' averages (AdamW two, Muon one), and all
that the forward pass keeps for the backward pass, counted on tensors without memory. On a GPU fused attention keeps
less, and bfloat16 halves most of it. Measured: what a process of its own takes more after three steps than before.
"""

import argparse
import resource
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import torch
from report import RESULTS, ROOT, save
from torch.autograd.graph import saved_tensors_hooks

sys.path.insert(0, str(ROOT))
import v4_gqa_swiglu as v4

V = 4096  # tokens of the vocabulary
SIZES = [
    dict(n_layer=4, n_embd=128, n_head=4, n_kv_head=2, block_size=256),
    dict(n_layer=6, n_embd=256, n_head=8, n_kv_head=4, block_size=256),
    dict(n_layer=8, n_embd=384, n_head=12, n_kv_head=6, block_size=512),
    dict(n_layer=12, n_embd=512, n_head=16, n_kv_head=8, block_size=512),
]


def estimate(cfg):
    """Parameters, and bytes of a training with batches of cfg.batch_size windows, in float32."""
    with torch.device("meta"):
        model = v4.LanguageModel(cfg, V)
        idx = torch.zeros(cfg.batch_size, cfg.block_size, dtype=torch.long)
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logits, loss = model(idx, idx)
    n = sum(p.numel() for p in model.parameters())
    n_matrices = sum(p.numel() for p in model.blocks.parameters() if p.dim() == 2)
    averages = 2 * (n - n_matrices) + n_matrices
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    activations = sum(size for key, size in saved.items() if key not in weights)
    return n, 4 * (2 * n + averages + logits.numel()) + activations  # with the logits' gradient


def peak(device):
    """Bytes that this process has taken at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(cfg):
    """Bytes taken by three steps of training, and tokens/s of the fastest."""
    device, seconds = v4.choose_device(cfg), []
    v4.keep_memory()
    before = peak(device)
    model = v4.LanguageModel(cfg, V).to(device)
    optimizers = v4.make_optimizers(model, cfg)
    idx = torch.randint(V, (cfg.batch_size, cfg.block_size), device=device)
    for step in range(3):
        began = time.perf_counter()
        v4.set_schedules(cfg, model, optimizers, 0.5, step)
        v4.backward(model, idx, idx, cfg).item()
        for optimizer in optimizers:
            optimizer.step()
        seconds.append(time.perf_counter() - began)
    return peak(device) - before, idx.numel() / min(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measured", type=int, default=2, help="of the sizes, the smallest first")
    parser.add_argument("--out", type=Path, default=RESULTS / "sizes.json", help="for the result")
    args = parser.parse_args()
    rows = [["layers x width, heads, context", "windows", "parameters", "memory, estimated"]]
    rows[0] += ["memory, measured", "tokens/s"]
    for i, size in enumerate(SIZES):
        cfg = v4.Config(**size, batch_size=2048 // size["block_size"])
        n, memory = estimate(cfg)
        name = "{n_layer} x {n_embd}, {n_head}/{n_kv_head}, {block_size}".format(**size)
        row = [name, str(cfg.batch_size), f"{n:,}", f"{memory / 2**20:,.0f} MiB"]
        if i < args.measured:
            with get_context("spawn").Pool(1) as pool:  # a process of its own
                taken, speed = pool.apply(measure, (cfg,))
            row += [f"{taken / 2**20:,.0f} MiB", f"{speed:,.0f}"]
        rows.append(row + [""] * (len(rows[0]) - len(row)))
    save(args.out, "How much memory does a size take, and how fast is it?", [rows])


if __name__ == "__main__":
    main()
