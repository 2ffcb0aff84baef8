"""nGPT against the block before it (v5, v4), each with AdamW, Muon and SOAP: equal tuning, equal seconds, equal steps.

    python benchmarks/optimizers.py --data input.txt tinyshakespeare.txt --seconds 60 --seeds 3 --jobs 2
    python benchmarks/optimizers.py --only "v5 soap" "v5 soap betas=0.9,0.99 frequency=5 warmup=100" --seeds 0

For each text every contestant first tries the same factors on its default step sizes (--factors), with one seed, on the
text without its validation split: what is learned about step sizes, is learned from the training split. The best factor
then trains on the whole text, --seeds times for the same seconds, and as often for the same steps: as many as the
slowest contestant made. Medians, lowest and highest in brackets; the whole validation split; four blocks, whatever the
seconds. With --seeds 0 only the factors are tried, to choose among settings of SOAP, several of which --only can name.
With --jobs above 1 runs go side by side, one thread each.

v4 with SOAP is what no version has: v5's SOAP in Muon's place, with v4's weight decay, and v5's default step size.
AdamW for all weights starts from the step size that v2's AdamW has, in v4 and v5 alike.
"""

import argparse
import contextlib
import importlib
import io
import math
import os
import shlex
import statistics
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

MODULES = {"v4": "v4_gqa_swiglu", "v5": "v5_ngpt"}
CONTESTANTS = [
    f"{version} {optimizer}" for version in MODULES for optimizer in ("adamw", "muon", "soap")
]
SOAP = {
    "betas": "0.8,0.95",
    "frequency": "10",
    "warmup": "0",
}  # warmup: steps in which its own rate rises


def with_soap(make_optimizers, lr, soap):
    """A version's make_optimizers, with v5's SOAP in the place of Muon."""
    v5 = importlib.import_module("v5_ngpt")

    class DecayedSOAP(v5.SOAP):
        """Weight decay before each update, as AdamW and Muon have it, and a warm-up."""

        def update(self, p, G, state, group):
            lr = group["lr"] * min(1.0, (state["step"] + 1) / max(1, soap["warmup"]))
            p.mul_(1 - lr * group["weight_decay"])
            super().update(p, G, state, group | {"lr": lr})

    def make(model, cfg):
        adamw, muon = make_optimizers(model, cfg)
        kept = {name: muon.param_groups[0][name] for name in ("params", "weight_decay")}
        optimizer = DecayedSOAP(
            [kept | {"initial_lr": lr}], lr, soap["betas"], frequency=soap["frequency"]
        )
        if hasattr(model, "normalize_matrices"):  # v5
            optimizer.register_step_post_hook(lambda *_: model.normalize_matrices())
        return [adamw, optimizer]

    return make


def read_soap(pairs):
    """SOAP's settings from NAME=VALUE, betas as two numbers with a comma between them; raises ValueError."""
    soap = SOAP | dict(pair.split("=") for pair in pairs)
    if soap.keys() != SOAP.keys():
        raise ValueError(f"{pairs}: not of {list(SOAP)}")
    beta1, beta2 = map(float, soap["betas"].split(","))
    return {
        "betas": (beta1, beta2),
        "frequency": int(soap["frequency"]),
        "warmup": int(soap["warmup"]),
    }


def contestant(name):
    """A name such as `v5 soap` or `v5 soap frequency=5`, if it is one; raises ArgumentTypeError."""
    try:
        version, optimizer, *settings = name.split()
        if f"{version} {optimizer}" not in CONTESTANTS or (settings and optimizer != "soap"):
            raise ValueError(name)
        read_soap(settings)
    except ValueError:
        known = f"{', '.join(CONTESTANTS)}; SOAP also with {', '.join(f'{k}={v}' for k, v in SOAP.items())}"
        raise argparse.ArgumentTypeError(f"{name!r}: must be one of {known}") from None
    return name


def fit(name, data, seed, factor, budget):
    """Train a contestant without its usual output: {bits_per_byte of the validation split, steps, seconds}."""
    version, optimizer, *settings = name.split()
    module, v5 = (importlib.import_module(m) for m in (MODULES[version], "v5_ngpt"))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        cfg = module.Config(
            data=str(data), out=str(Path(folder) / "run"), seed=seed, evals=2, n_layer=4, **budget
        )
        cfg.optimizer = "adamw" if optimizer == "adamw" else "muon"
        for rate in ("learning_rate", "muon_learning_rate", "adamw_learning_rate"):
            setattr(cfg, rate, factor * getattr(cfg, rate))
        make = module.make_optimizers
        if optimizer == "soap":
            make = with_soap(make, factor * v5.Config().soap_learning_rate, read_soap(settings))
        try:
            with mock.patch.object(module, "make_optimizers", make):
                run = module.load_run(module.train(cfg))
        except module.UserError:  # a loss that is no number
            return {"bits_per_byte": math.inf, "steps": 0, "seconds": 0.0}
        names, *_, last = (
            line.split(",") for line in (run.folder / "metrics.csv").read_text().splitlines()
        )
        corpus = module.load_corpus(run.cfg, run.tokenizer)
        _, bits = module.evaluate(run.model, corpus.val, run.tokenizer, run.cfg.block_size)
    last = dict(zip(names, map(float, last), strict=True))
    return {"bits_per_byte": bits, "steps": int(last["step"]), "seconds": last["seconds"]}


def training_split(path, folder):
    """A copy of a text without its validation split, so that its own last tenth can judge step sizes."""
    text = Path(path).read_bytes().decode()  # line ends as they are
    copy = Path(folder) / Path(path).name
    copy.write_text(text[: len(text) * 9 // 10], encoding="utf-8", newline="")
    return copy


def spread(runs):
    """Median bits/byte, and its range where there are several."""
    values = [run["bits_per_byte"] for run in runs]
    text = f"{statistics.median(values):.3f}"
    return text if len(values) == 1 else f"{text} ({min(values):.3f} to {max(values):.3f})"


def table(tuned, same_seconds, same_steps):
    """Results of one text as Markdown: {name: {factor: run}}, {name: [runs]}, {name: [runs]}, or two empty ones."""
    head = ["", *(f"x {factor:g}" for factor in next(iter(tuned.values())))]
    if same_steps:
        steps = next(iter(same_steps.values()))[0]["steps"]
        head += [
            "same seconds, bits/byte",
            "steps in them",
            f"same steps ({steps:,}), bits/byte",
            "seconds for them",
        ]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in tuned.items():
        best = best_factor(row)
        cells = [
            f"**{run['bits_per_byte']:.3f}**" if f == best else f"{run['bits_per_byte']:.3f}"
            for f, run in row.items()
        ]
        for runs, unit in [(same_seconds, "steps"), (same_steps, "seconds")] if same_steps else []:
            cells += [
                spread(runs[name]),
                f"{statistics.median(run[unit] for run in runs[name]):,.0f}",
            ]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def best_factor(row):
    """The factor that ended lowest; a run that diverged has none."""
    return min(row, key=lambda factor: row[factor]["bits_per_byte"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", nargs="+", default=[str(ROOT / "input.txt")], help="texts (default: input.txt)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=CONTESTANTS,
        type=contestant,
        metavar="NAME",
        help="as 'v5 soap frequency=5'",
    )
    parser.add_argument(
        "--factors",
        nargs="+",
        type=float,
        default=[0.5, 1.0, 2.0],
        help="of the default step sizes",
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, for each run")
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        help="runs per contestant at its best factor; 0: only find it",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at once; with more than one each has one thread"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results" / "optimizers.md",
        help="where the tables go",
    )
    args = parser.parse_args()
    seeds, seconds = range(1337, 1337 + args.seeds), {"max_seconds": args.seconds}
    command = ("python benchmarks/optimizers.py " + shlex.join(sys.argv[1:])).strip()
    report = f"# v4 and v5 with AdamW, Muon and SOAP, {args.seconds:g} seconds\n\n`{command}`\n"
    if args.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    with get_context("spawn").Pool(args.jobs) as pool, tempfile.TemporaryDirectory() as folder:

        def race(jobs):
            """Runs for a list of (name, data, seed, factor, budget), in its order."""
            pending = [pool.apply_async(fit, job) for job in jobs]
            runs = []
            for (name, data, seed, factor, _), job in zip(jobs, pending, strict=True):
                runs.append(job.get())
                figures = ", ".join(f"{value:.6g} {what}" for what, value in runs[-1].items())
                print(
                    f"{name}, {Path(data).name}, x {factor:g}, seed {seed}: {figures}", flush=True
                )
            return runs

        for data in args.data:
            grid = [(factor, name) for factor in args.factors for name in args.only]
            part = training_split(data, folder)
            found = dict(
                zip(grid, race([(name, part, 1337, f, seconds) for f, name in grid]), strict=True)
            )
            tuned = {
                name: {factor: found[factor, name] for factor in args.factors} for name in args.only
            }
            final = [
                (name, data, seed, best_factor(tuned[name])) for seed in seeds for name in args.only
            ]

            def by_name(budget, final=final):
                runs = {name: [] for name in args.only}
                for (name, *_), run in zip(
                    final, race([(*job, budget) for job in final]), strict=True
                ):
                    runs[name].append(run)
                return runs

            same_seconds, same_steps = by_name(seconds) if seeds else {}, {}
            if seeds:
                steps = min(
                    run["steps"] for runs in same_seconds.values() for run in runs if run["steps"]
                )
                same_steps = by_name({"max_steps": steps})
            found = table(tuned, same_seconds, same_steps)
            report += f"\n{Path(data).name}:\n\n{found}\n"
            args.out.write_text(report, encoding="utf-8")
            print(found)
        pool.close()
        pool.join()


if __name__ == "__main__":
    main()
