"""Kill trainings with SIGKILL, resume them, and compare the end with an unbroken run, bit for bit.

    python benchmarks/crash.py --kills 100 --seed 1

Every second kill comes at a random moment. The others come inside a write: the training kills
itself when a random share of a random file is written. After each kill every file of the run must
be whole or absent. If anything was lost, the run's folder is kept, and the exit status is 1.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch._dynamo  # imported by the first optimizer, which would happen in every fork

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
WORDS = "a the old fox owl café river saw lost found her red key map. Who knows? Zoë!\n".split(" ")
SMALL = "--data text.txt --max-steps 120 --evals 6 --max-new-tokens 5 --device cpu"
SMALL += " --block-size 8 --batch-size 2 --n-layer 1 --n-head 2 --n-embd 8"
SMALL += " --dropout 0.2 --dropout-schedule linear"
BPE = SMALL + " --vocab-size 270 --dtype"
GQA = BPE.replace("--dtype", "--n-kv-head 1 --optimizer")
NEW = {"training": {"loop": [0]}}  # a run that was never saved
CASES = [("v1_transformer", f"{SMALL} --dtype {dtype}") for dtype in ("float32", "bfloat16")]
CASES += [("v2_bpe_rope", f"{BPE} float32"), ("v3_alibi", f"{BPE} bfloat16")]
CASES += [("v4_gqa_swiglu", f"{GQA} {kind} --dtype float32") for kind in ("muon", "adamw")]
CASES += [("v5_ngpt", f"{GQA} {kind} --dtype float32") for kind in ("muon", "adamw", "soap")]


def kill_in_write(at):
    """Let this process die in its write number int(at), when a part of the content is written."""
    write_bytes, writes = Path.write_bytes, []

    def write_and_die(path, content):
        writes.append(path)
        if len(writes) != int(at):
            return write_bytes(path, content)
        write_bytes(path, bytes(content)[: int(1.2 * (at % 1) * len(content))])  # or all of it
        os.kill(os.getpid(), signal.SIGKILL)

    Path.write_bytes = write_and_die


def train(name, flags, delay=None, write=0):
    """Train in a fork, killed after a delay or in a write; returns whether it was killed."""
    pid = os.fork()
    if not pid:
        for stream in (1, 2):
            os.dup2(os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        kill_in_write(write)
        sys.argv = [f"{name}.py", *flags.split()]
        try:
            importlib.import_module(name).main()
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    if delay is not None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]  # 0, or the number of the signal
    assert status in (0, signal.SIGKILL), Path("log.txt").read_text()
    return status != 0


def read_run(folder):
    """All that a run wrote, without the clock; raises an exception if a file is not whole."""
    found, paths = {}, [*folder.glob("*"), *Path("runs/cache").glob("*")]
    for path in (path for path in paths if path.suffix != ".tmp"):
        if path.suffix == ".pt":
            (found[path.name],) = torch.load(path, weights_only=True).values()
        elif path.suffix == ".npy":
            assert len(np.load(path))
        elif path.suffix == ".png":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82"), path
        elif path.suffix == ".csv":
            lines = [line.split(",") for line in path.read_text().split("\n")]
            assert lines.pop() == [""] and len(set(map(len, lines))) == 1, path
            found[path.name] = [[line[0], *line[2:]] for line in lines]
        else:
            found[path.name] = path.read_text() if path.suffix == ".txt" else json.load(path.open())
    found.pop("config.json", None)  # it knows of --resume and --overwrite
    if "checkpoint.pt" in found:
        step, _, losses, rows = found["checkpoint.pt"]["training"]["loop"]
        found["checkpoint.pt"]["training"]["loop"] = (
            step,
            losses,
            [row | {"seconds": 0} for row in rows],
        )
    return found


def same(a, b):
    """Whether two results of read_run are equal, tensors to the last bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    args, runs, kills, in_write, unbroken = parser.parse_args(), 0, 0, 0, {}
    torch.set_num_threads(1)
    matplotlib.rcParams["savefig.dpi"] = 20  # a small picture is drawn faster
    os.chdir(folder := tempfile.mkdtemp(prefix="crash-"))
    rng = random.Random(args.seed)
    Path("text.txt").write_text(" ".join(rng.choices(WORDS, k=600)), encoding="utf-8")
    while kills < args.kills:
        name, flags = case = CASES[runs % len(CASES)]
        if case not in unbroken:
            start = time.perf_counter()
            train(name, f"{flags} --out unbroken{runs}")
            unbroken[case] = read_run(Path(f"unbroken{runs}")), time.perf_counter() - start
        expected, seconds = unbroken[case]
        shutil.rmtree("runs", ignore_errors=True)  # so that the ids in the cache are written again
        run, left = Path(f"run{runs}"), rng.randint(1, 3)  # so many kills are tried
        while True:
            resume = (run / "checkpoint.pt").exists()
            words = f"--resume --out {run}" if resume else f"{flags} --out {run} --overwrite"
            how = {"write": rng.uniform(1, 26)} if kills % 2 else {"delay": rng.uniform(0, seconds)}
            if train(name, words, **(how if left > 0 else {})):
                kills, in_write = kills + 1, in_write + ("write" in how)
            found, left = read_run(run), left - 1
            if found.get("checkpoint.pt", NEW)["training"]["loop"][0] == 120:
                break  # to the end, or killed after the last step
        for file in expected.keys() - ({"sample.txt"} - found.keys()):
            assert same(found[file], expected[file]), f"{folder}/{run}/{file}: not as unbroken"
        runs += 1
        print(f"{runs} runs, {kills} kills, {in_write} of them inside a write", flush=True)
    shutil.rmtree(folder)
    figure = f"{kills}, {in_write} of them inside a write; {runs} runs, all ended bit-identical"
    print(f"| kills survived | {figure} | `python {' '.join(sys.argv)}` |")


if __name__ == "__main__":
    main()
