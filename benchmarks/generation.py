"""What the key/value cache and grouped queries give to generation: v4, 448 tokens after a prompt of 64.

    python benchmarks/generation.py
    python benchmarks/generation.py --version v5 --flags "--n-layer 8 --n-embd 256"

The context holds all 512 tokens. They are generated with the cache and without it, in turns, and must be the same ones;
then with as many key/value heads as query heads, as multi-head attention has them. Tokens/s are medians; the cache's
memory is that of its tensors after the last token. The weights are as drawn at the start: no figure here depends on
what a model has learned.
"""

import argparse
import importlib
import shlex
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
import tyro
from report import RESULTS, ROOT, save
from tqdm import tqdm

sys.path.insert(0, str(ROOT))


def generate(module, model, prompt, n, cached):
    """The n tokens that follow a prompt (1, T), the seconds that took, and the bytes of the caches at the end."""
    seen, forward = [], model.forward

    def spy(idx, targets=None, caches=None):
        seen[:] = caches or []
        return forward(idx, targets, caches)

    began = time.perf_counter()
    with mock.patch.object(model, "forward", spy):
        ids = [
            i.item() for i in module.generate(model, prompt, n, prompt.size(1) + n, cached=cached)
        ]
    seconds = time.perf_counter() - began
    return ids, seconds, sum(part.nbytes for cache in seen for part in cache)


def measure(module, cfg, prompt_length, n, repeats):
    """{cached: (median tokens/s, bytes of the caches)} for True and False. Raises SystemExit if the tokens differ."""
    torch.manual_seed(cfg.seed)
    model = module.LanguageModel(cfg, cfg.vocab_size).eval()
    prompt = torch.randint(cfg.vocab_size, (1, prompt_length))
    rates, size, written = {True: [], False: []}, {}, {}
    for _ in tqdm(range(repeats), desc=f"{cfg.n_kv_head} key/value heads", disable=None):
        for cached in rates:
            written[cached], seconds, size[cached] = generate(module, model, prompt, n, cached)
            rates[cached].append(n / seconds)
        if written[True] != written[False]:
            sys.exit("the cache changes what is generated")
    return {cached: (statistics.median(rates[cached]), size[cached]) for cached in rates}


def table(results):
    """Rows of cells for {n_kv_head: what measure returned}, the last with one per query head."""
    whole = [found[True][1] for found in results.values()][-1]
    rows = [["key/value heads", "tokens/s", "without the cache", "ratio", "the cache's memory"]]
    rows[0].append("of multi-head's")
    for heads, found in results.items():
        (fast, size), (slow, _) = found[True], found[False]
        row = [str(heads), f"{fast:,.0f}", f"{slow:,.0f}", f"{fast / slow:.1f}"]
        rows.append([*row, f"{size / 1024:,.0f} KiB", f"{size / whole:.2f}"])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--version", default="v4", choices=("v4", "v5"))
    add("--prompt-length", type=int, default=64, help="tokens")
    add("--tokens", type=int, default=448, help="to generate")
    add("--repeats", type=int, default=5)
    add("--flags", default="", help="further flags for the model, in one string")
    add("--out", type=Path, default=RESULTS / "generation.json", help="where the result goes")
    args = parser.parse_args()
    module = importlib.import_module(next(ROOT.glob(f"{args.version}_*.py")).stem)
    flags, default = shlex.split(args.flags), module.Config(vocab_size=4096)
    cfg = tyro.cli(module.Config, args=flags, default=default)
    cfg = replace(cfg, block_size=args.prompt_length + args.tokens)
    whole = replace(cfg, n_kv_head=cfg.n_head)  # multi-head attention
    results = {
        c.n_kv_head: measure(module, c, args.prompt_length, args.tokens, args.repeats)
        for c in (cfg, whole)
    }
    note = f"{module.__name__}, {args.tokens} tokens after a prompt of {args.prompt_length}, the same tokens in both "
    note += "columns. With as many key/value heads as query heads it is multi-head attention."
    question = "What do the cache and grouped queries give to generation?"
    save(args.out, question, [table(results)], note)


if __name__ == "__main__":
    main()
