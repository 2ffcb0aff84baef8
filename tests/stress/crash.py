"""Kill trainings with SIGKILL, resume them, and compare the end with an unbroken run, bit for bit.

    python tests/stress/crash.py --kills 100 --seed 1

Every second kill comes at a random moment. The others come inside a write: the training kills
itself when a random share of a random file is written. After each kill every file of the run must
be whole or absent. If anything was lost, the run's folder is kept, and the exit status is 1.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import matplotlib

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from conftest import OPTIMIZERS, TEXT, load_version
from small_runs import check_whole, load, results, same, small

STEPS = 120


def flags(version, kind, dtype):
    """The flags of a run of a second."""
    optimizer = {"optimizer": kind} if version.NAME >= "v4" else {}
    more = dict(max_steps=STEPS, evals=6, dropout=0.2, dropout_schedule="linear", dtype=dtype)
    return small(version, **more, **optimizer)


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


def train(version, words, delay=None, write=0):
    """Train in a fork, killed after a delay or in a write; returns whether it was killed."""
    pid = os.fork()
    if not pid:
        for stream in (1, 2):
            os.dup2(os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        kill_in_write(write)
        sys.argv = [f"{version.NAME}.py", *map(str, words)]
        try:
            version.main()
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


def is_finished(run):
    saved = run / "checkpoint.pt"
    return saved.exists() and load(saved)["training"]["loop"][0] == STEPS


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    args, runs, kills, in_write, unbroken = parser.parse_args(), 0, 0, 0, {}
    matplotlib.rcParams["savefig.dpi"] = 20  # a small picture is drawn faster
    os.chdir(folder := tempfile.mkdtemp(prefix="crash-"))
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    rng = random.Random(args.seed)
    while kills < args.kills:
        i, kind = OPTIMIZERS[runs % len(OPTIMIZERS)]
        version, dtype = load_version(i), ("float32", "bfloat16")[i in (1, 3)]
        words, run = flags(version, kind, dtype), Path(f"run{runs}")
        if (i, kind) not in unbroken:
            start, whole = time.perf_counter(), Path(f"unbroken{runs}")
            train(version, [*words, "--out", whole])
            unbroken[i, kind] = results(whole), time.perf_counter() - start
        expected, seconds = unbroken[i, kind]
        shutil.rmtree("runs", ignore_errors=True)  # so that the ids in the cache are written again
        left = rng.randint(1, 3)  # so many kills are tried
        while not is_finished(run):  # it may also be killed after the last step
            how = {"write": rng.uniform(1, 26)} if kills % 2 else {"delay": rng.uniform(0, seconds)}
            resume = ["--resume"] if (run / "checkpoint.pt").exists() else [*words, "--overwrite"]
            if train(version, [*resume, "--out", run], **(how if left > 0 else {})):
                kills, in_write = kills + 1, in_write + ("write" in how)
            check_whole(run)
            left -= 1
        found = results(run)  # killed after its last step, a run has no sample
        for file in expected.keys() - {"loss.png"} - ({"sample.txt"} - found.keys()):
            assert same(found[file], expected[file]), f"{folder}/{run}/{file}: not as unbroken"
        runs += 1
        print(f"{runs} runs, {kills} kills, {in_write} of them inside a write", flush=True)
    shutil.rmtree(folder)
    print(f"{kills} kills, {in_write} inside a write: {runs} runs ended bit-identical")


if __name__ == "__main__":
    main()
