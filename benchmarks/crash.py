"""Kill trainings with SIGKILL, resume them to their end, and compare that with an unbroken run, bit for bit.

    python benchmarks/crash.py                                # 200 kills over all versions
    python benchmarks/crash.py --kills 20 --versions v5 --seed 3 --record

Every second kill comes at a random moment; the others wait, from such a moment on, for checkpoint.pt.tmp to appear,
and so fall into the write of a checkpoint. After each the run folder must hold whole files only, a checkpoint among
them once the first was written. This process imports the versions once and forks a child per training, which then
starts in milliseconds; it needs a system that can fork. Exit status 1, and the run folder, if anything was lost.
"""

import argparse
import csv
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch
import torch._dynamo  # as the drawing below: done here once, or every child would have to
from matplotlib.figure import Figure
from memory import add_record_option, record

ROOT = Path(__file__).resolve().parent.parent
WORDS = "a the old fox owl café river saw lost found her his red key map and then, slept. Who knows? Zoë!\n".split(" ")
FILES = ("checkpoint.pt", "best.pt", "metrics.csv", "config.json", "tokenizer.json", "loss.png", "sample.txt")


class Broken(Exception):
    """Something that a kill should not have done."""


def cases(n):
    """The settings to try on version n: each optimizer that it has, in float32 and bfloat16, with dropout."""
    sizes = {"data": "text.txt", "block_size": 8, "batch_size": 2, "evals": 8, "save_seconds": 0.0}
    sizes |= {"max_new_tokens": 5, "device": "cpu"}
    if n >= 1:
        sizes |= {"n_layer": 1, "n_head": 2, "n_embd": 8, "dropout": 0.3, "dropout_schedule": "linear"}
    if n >= 2:
        sizes |= {"vocab_size": 270}
    if n >= 4:
        sizes |= {"n_kv_head": 1, "d_ff": 12}
    kinds = [{}] if n < 4 else [{"optimizer": "adamw"}, {"optimizer": "muon"}]
    kinds += [{"optimizer": "soap", "soap_frequency": 3}] if n == 5 else []
    return [sizes | kind | {"dtype": dtype} for kind in kinds for dtype in ("float32", "bfloat16")]


# ------------------------------------------------------------------------------------------------------------ processes


def spawn(module, settings):
    """Start a training in a child of this process; returns its process number. What it prints goes to child.log."""
    flags = [word for key, value in settings.items() for word in ("--" + key.replace("_", "-"), str(value))]
    flags = [word for word in flags if word != "True"]
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        log = os.open("child.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        status = module.main(flags)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def ended(pid):
    """Wait for a child; returns its exit status, or minus the signal that killed it. Raises Broken for an error."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise Broken(f"a training ended with status {status}: {Path('child.log').read_text()[-2000:]}")
    return status


def stamp(path):
    """When a file was last written, in ns; None if it is not there."""
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return None


def strike(pid, run, delay, patience):
    """Kill a child after `delay` seconds; with patience, wait up to so many more for a write of the checkpoint.

    Returns the names of the files in whose writing the kill fell.
    """
    before = {name: stamp(run / f"{name}.tmp") for name in FILES}  # an earlier kill may have left some
    time.sleep(delay)
    until = time.monotonic() + patience
    target, old = str(run / "checkpoint.pt.tmp"), before["checkpoint.pt"]
    while time.monotonic() < until and stamp(target) in (None, old):
        pass
    os.kill(pid, signal.SIGKILL)
    if ended(pid) == 0:
        return None
    return [name for name in FILES if stamp(run / f"{name}.tmp") not in (None, before[name])]


# -------------------------------------------------------------------------------------------------------------- judging


def load(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def read_metrics(run):
    """The rows of metrics.csv without the clock. Raises Broken if one is torn, doubled or out of order."""
    content = (run / "metrics.csv").read_text()
    rows = list(csv.DictReader(content.splitlines()))
    steps = [int(row["step"]) for row in rows]
    whole = content.endswith("\n") and all(None not in [*row, *row.values()] for row in rows)
    if not whole or not rows or steps != sorted(set(steps)):
        raise Broken(f"metrics.csv: torn, doubled or missing rows:\n{content}")
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def same(a, b):
    """Whether two checkpoints, or parts of them, are equal to the last bit; the clock aside."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        keys = a.keys() - {"seconds"}
        return keys == b.keys() - {"seconds"} and all(same(a[key], b[key]) for key in keys)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def inspect(run, saved):
    """Look at what a kill left; returns whether there is a checkpoint. `saved`: there was one before. Raises Broken."""
    for name in ("checkpoint.pt", "best.pt"):
        if (run / name).exists():
            try:
                load(run / name)
            except Exception as error:
                raise Broken(f"{name} cannot be loaded: {error}") from error
    if (run / "metrics.csv").exists():
        read_metrics(run)
    exists = (run / "checkpoint.pt").exists()
    if saved and not exists:
        raise Broken("checkpoint.pt is gone")
    return exists


def compare(run, whole):
    """Raises Broken unless a run that was killed ended as the unbroken one."""
    if read_metrics(run) != read_metrics(whole):
        raise Broken(f"metrics.csv differs from that of the unbroken run, {whole}")
    for name in ("checkpoint.pt", "best.pt"):
        if not same(load(run / name), load(whole / name)):
            raise Broken(f"{name} differs from that of the unbroken run, {whole}")
    left = {path.name for path in run.iterdir() if path.suffix != ".tmp"}
    if left != set(FILES):
        raise Broken(f"the run folder holds {sorted(left)}")


# -------------------------------------------------------------------------------------------------------------- the run


def torment(module, settings, kills, rng, tell):
    """Train, kill, resume, compare, again and again until `kills` are dealt; returns counts. Raises Broken."""
    whole, counts = Path("whole"), Counter()
    began = time.monotonic()
    ended(spawn(module, settings | {"out": whole}))
    took = time.monotonic() - began
    while counts["kills"] < kills:
        run, saved, finished = Path("killed"), False, False
        shutil.rmtree(run, ignore_errors=True)
        while not finished:
            pid = spawn(module, settings | {"out": run} | ({"resume": True} if saved else {"overwrite": True}))
            hit = None
            if counts["kills"] < kills:
                hit = strike(pid, run, took * rng.random() ** 2, took if counts["kills"] % 2 else 0.0)
            else:
                ended(pid)
            finished = hit is None
            if not finished:
                saved = inspect(run, saved)
                counts.update(["kills", *(["inside a write"] if hit else []), *hit])
                tell()
        compare(run, whole)
        counts["runs"] += 1
    return counts


def table(results):
    """The counts of all cases, and their sum, as a Markdown table."""
    lines = ["| file | optimizer | dtype | kills | inside a write | of the checkpoint | runs compared, all identical |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for case, counts in (results | {("all", "", ""): sum(results.values(), Counter())}).items():
        figures = [counts[key] for key in ("kills", "inside a write", "checkpoint.pt", "runs")]
        lines.append(f"| {' | '.join([*case, *map(str, figures)])} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="over all versions and settings")
    parser.add_argument("--versions", nargs="+", default=[f"v{i}" for i in range(6)], help="prefixes: v0 ... v5")
    parser.add_argument("--steps", type=int, default=40, help="of each training")
    parser.add_argument("--seed", type=int, default=1, help="the kills' moments derive from it")
    add_record_option(parser)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    torch.set_num_threads(1)
    Figure().savefig(os.devnull, format="png")
    names = [path.stem for v in args.versions for path in sorted(ROOT.glob(f"{v}_*.py"))]
    jobs = [(name, settings) for name in names for settings in cases(int(name[1]))]
    rng, began, done, results = random.Random(args.seed), time.monotonic(), [0], {}
    folder = Path(tempfile.mkdtemp(prefix="crash-"))
    os.chdir(folder)
    Path("text.txt").write_text(" ".join(random.Random(1).choices(WORDS, k=600)), encoding="utf-8", newline="")

    def tell():
        done[0] += 1
        left = (time.monotonic() - began) / done[0] * (args.kills - done[0])
        print(f"\r{done[0]} of {args.kills} kills survived, about {left:.0f} s left ", end="", file=sys.stderr)

    for i, (name, settings) in enumerate(jobs):
        kills = args.kills * (i + 1) // len(jobs) - args.kills * i // len(jobs)
        shutil.rmtree("whole", ignore_errors=True)
        case = name, settings.get("optimizer", "adamw"), settings["dtype"]
        if kills:
            try:
                module = importlib.import_module(name)
                results[case] = torment(module, settings | {"max_steps": args.steps}, kills, rng, tell)
            except Broken as error:
                print(f"\n{' '.join(case)}: {error}\nseed {args.seed}; the run is in {folder}", file=sys.stderr)
                return 1
    shutil.rmtree(folder)
    print(f"\n{time.monotonic() - began:.0f} s, seed {args.seed}", file=sys.stderr)
    print(table(results))
    if args.record:
        counts = sum(results.values(), Counter())
        more = f"{counts['inside a write']} of them inside a write; {counts['runs']} runs compared, all bit-identical"
        record(args.record, {"kills survived": f"{counts['kills']}, {more}"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
