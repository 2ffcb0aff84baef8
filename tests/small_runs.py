"""Small runs of any version, by its command line and in this process, and what they wrote."""

import io
import json
import sys
from collections import namedtuple
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from small_models import known

Done = namedtuple("Done", "status out err")


def small(version, **more):
    """Flags of a training that takes a tenth of a second."""
    settings = dict(data="text.txt", block_size=8, batch_size=2, max_steps=6, evals=3, device="cpu")
    settings |= dict(n_layer=1, n_head=2, n_kv_head=1, n_embd=8, d_ff=12, dtype="float32")
    settings = known(version, settings | dict(vocab_size=270, max_new_tokens=5)) | more
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def call(version, *words, encoding="utf-8"):
    """Run a version's command line in this process. An exception that main lets through fails."""
    sys.argv = [f"{version.NAME}.py", *map(str, words)]
    out, err, status = io.TextIOWrapper(io.BytesIO(), encoding), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            version.main()
        except SystemExit as stop:
            status = stop.code or 0
            if isinstance(status, str):
                status = print(status, file=err) or 1
    out.flush()
    return Done(status, out.buffer.getvalue().decode(encoding), err.getvalue())


def train(version, *words, encoding="utf-8", **more):
    """A small training that succeeds; returns what it printed."""
    done = call(version, *small(version, **more), *words, encoding=encoding)
    assert (done.status, done.err) == (0, ""), done
    return done.out


def snapshot(folder="."):
    """The content of every file in a folder."""
    return {str(p): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def load(path):
    """The content of a checkpoint, which stands under the name of its version."""
    (state,) = torch.load(path, weights_only=True).values()
    return state


def results(folder):
    """What two equal runs share to the last bit: all files but config.json, without the clock."""
    found = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    rows = [line.split(b",") for line in found.pop("metrics.csv").splitlines()]
    found["metrics"] = [row[:1] + row[2:] for row in rows]
    del found["config.json"]  # which holds the last command
    for name in {"best.pt", "checkpoint.pt"} & found.keys():
        found[name] = load(Path(folder, name))
    if "checkpoint.pt" in found:
        step, _, losses, _ = found["checkpoint.pt"]["training"]["loop"]
        found["checkpoint.pt"]["training"]["loop"] = step, losses
    return found


def same(a, b):
    """Whether two results are equal, tensors to the last bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def check_whole(folder):
    """Raise an exception if a file of a run, or of the cache, is neither whole nor absent."""
    for path in [*Path(folder).glob("*"), *Path("runs/cache").glob("*")]:
        if path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".npy":
            assert len(np.load(path))
        elif path.suffix == ".csv":
            lines = path.read_text().splitlines(keepends=True)
            assert {(line.count(","), line[-1]) for line in lines} == {(5, "\n")}, path
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".png":
            assert path.read_bytes().endswith((b"a picture", b"IEND\xaeB`\x82")), path
