"""nanoGPT on a text of yours, by its README's command for a CPU: the peer that `ladder.py --nanogpt DIR` runs.

    git clone https://github.com/karpathy/nanoGPT DIR
    python benchmarks/nanogpt.py DIR --data FILE

Its own training script runs, unchanged but for the seed, in a temporary folder, with the text prepared as its
shakespeare_char is: characters, the last tenth for validation. Its log gives the seconds of each step; where a step
also evaluated, the median step stands for it, so that only training is timed. The score is exact: all of the
validation split in windows of its context, with the checkpoint that it kept.
"""

import argparse
import importlib.util
import math
import os
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

FLAGS = {
    "device": "cpu",
    "compile": False,
    "eval_iters": 20,
    "log_interval": 1,
    "block_size": 64,
    "batch_size": 12,
}
FLAGS |= {
    "n_layer": 4,
    "n_head": 4,
    "n_embd": 128,
    "max_iters": 2000,
    "lr_decay_iters": 2000,
    "dropout": 0.0,
}
STEP = re.compile(r"^iter (\d+): loss [\d.]+, time ([\d.]+)ms", re.MULTILINE)
ESTIMATE = re.compile(r"^step (\d+): train loss [\d.]+, val loss ([\d.]+)", re.MULTILINE)


def prepare(data, folder):
    """Write train.bin, val.bin and meta.pkl, as its prepare.py does; returns validation's ids and its UTF-8 bytes."""
    text = Path(data).read_bytes().decode()
    chars = sorted(set(text))
    number = {char: i for i, char in enumerate(chars)}
    cut = len(text) * 9 // 10
    ids = np.array([number[char] for char in text], np.uint16)
    folder.mkdir(parents=True)
    ids[:cut].tofile(folder / "train.bin")
    ids[cut:].tofile(folder / "val.bin")
    meta = {"vocab_size": len(chars), "itos": dict(enumerate(chars)), "stoi": number}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return ids[cut - 1 :], len(
        text[cut:].encode()
    )  # with the last id of training, to predict the first from


def training_seconds(times, evaluated):
    """Seconds of all steps {number: seconds}; the median stands for those that also evaluated."""
    plain = [seconds for step, seconds in times.items() if step not in evaluated]
    return sum(plain) + statistics.median(plain) * (len(times) - len(plain))


def load_model_module(checkout):
    """The checkout's model.py as a module."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.inference_mode()
def score(checkout, path, ids, n_bytes):
    """(parameters, nats/token, bits/byte) of a checkpoint on ids[1:], each once, in windows of its context."""
    module = load_model_module(checkout)
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model = module.GPT(module.GPTConfig(**saved["model_args"])).eval()
    model.load_state_dict(saved["model"])
    nats, size = 0.0, saved["model_args"]["block_size"]
    for start in range(0, len(ids) - 1, size):
        window = torch.from_numpy(ids[start : start + size + 1].astype(np.int64))[None]
        _, loss = model(window[:, :-1], window[:, 1:])
        nats += loss.item() * (window.size(1) - 1)
    return (
        sum(p.numel() for p in model.parameters()),
        nats / (len(ids) - 1),
        nats / math.log(2) / n_bytes,
    )


def run_nanogpt(checkout, data, seed, **flags):
    """Train and score once; returns figures as ladder.run_version does. Raises CalledProcessError if it fails."""
    flags = FLAGS | flags
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        source = (checkout / "train.py").read_text(encoding="utf-8")
        (work / "train.py").write_text(
            source.replace("manual_seed(1337", f"manual_seed({seed}"), encoding="utf-8"
        )
        for part in ("model.py", "configurator.py"):
            shutil.copy(checkout / part, work)
        shutil.copytree(checkout / "config", work / "config")
        ids, n_bytes = prepare(data, work / "data" / "text")
        command = [sys.executable, "-u", "train.py", "config/train_shakespeare_char.py"]
        command += [f"--{key}={value}" for key, value in flags.items()] + [
            "--dataset=text",
            "--out_dir=out",
        ]
        began = time.perf_counter()
        done = subprocess.run(
            command, cwd=work, check=True, stdout=subprocess.PIPE, text=True, env=os.environ
        )
        wall = time.perf_counter() - began
        parameters, nats, bits = score(checkout, work / "out" / "ckpt.pt", ids, n_bytes)
    times = {int(step): float(ms) / 1000 for step, ms in STEP.findall(done.stdout)}
    estimates = {int(step): float(loss) for step, loss in ESTIMATE.findall(done.stdout)}
    bits_per_nat = (len(ids) - 1) / n_bytes / math.log(2)
    rows = [
        {
            "seconds": training_seconds({s: t for s, t in times.items() if s < step}, estimates),
            "val_bits_per_byte": loss * bits_per_nat,
        }
        for step, loss in estimates.items()
        if step
    ]
    return {
        "parameters": parameters,
        "nats": nats,
        "gap": None,
        "wall": wall,
        "bits_per_byte": bits,
        "seconds": training_seconds(times, estimates),
        "tokens": len(times) * flags["batch_size"] * flags["block_size"],
        "rows": rows,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="a clone of nanoGPT")
    parser.add_argument("--data", required=True, help="a UTF-8 text")
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--steps", type=int, default=FLAGS["max_iters"])
    args = parser.parse_args()
    run = run_nanogpt(
        args.checkout, args.data, args.seed, max_iters=args.steps, lr_decay_iters=args.steps
    )
    speed = run["tokens"] / run["seconds"]
    print(
        f"nanoGPT: {run['nats']:.4f} nats/character | {run['bits_per_byte']:.4f} bits/byte",
        end=" | ",
    )
    print(
        f"{run['seconds']:.1f} s of training | {speed:,.0f} tokens/s | {run['parameters']:,} parameters"
    )


if __name__ == "__main__":
    main()
