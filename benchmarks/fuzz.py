"""Random command lines and random files against every version: no traceback, no hang, one line for every error.

    python benchmarks/fuzz.py                                 # a minute
    python benchmarks/fuzz.py --seconds 3600 --versions v4 v5 --record
    python benchmarks/fuzz.py --seed 7 --case 123             # again, one case of an earlier run

A case is a command line with random flags (train), or a finished run of which one file has been damaged and then the
command that reads it: the text, the tokenizer, config.json, a checkpoint. It must end with status 0 and an empty
standard error, or with status 1, 2, 130 or 143 and one line there. Every case derives from the seed and its number
alone. Each runs in a child that this process forks, with a limit on its memory; it needs a system that can fork.
Exit status 1, and the command line and folder of each, if anything else happened.
"""

import argparse
import copy
import importlib
import io
import json
import math
import os
import random
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from dataclasses import fields
from pathlib import Path

import torch
import torch._dynamo  # as the drawing below: done here once, or every child would have to
from matplotlib.figure import Figure
from memory import add_record_option, record

ROOT = Path(__file__).resolve().parent.parent
WORDS = "a the old fox owl café river saw lost found her his red key map and then, slept. Who knows? Zoë!\n".split(" ")
TEXT = " ".join(random.Random(1).choices(WORDS, k=400))
MEMORY = 4 * 2**30  # bytes of address space that a child may have
SMALL = {"data": "text.txt", "block_size": 8, "batch_size": 2, "n_layer": 1, "n_head": 2, "n_embd": 8, "n_kv_head": 1}
SMALL |= {"d_ff": 12, "vocab_size": 270, "evals": 2, "device": "cpu", "max_steps": 3, "max_new_tokens": 3}
BUDGET = ["--max-steps", "4", "--max-new-tokens", "3"]  # comes last, where it counts
SLOW = {"compile", "preset"}  # flags that a small case has no time for

INTEGERS = [0, 1, 2, 3, 4, 7, 8, 16, 255, 256, 300, -1, -8, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400]
FLOATS = [0.0, 1.0, 0.5, 0.1, 2.0, -1.0, 1e-45, 1e-320, 1e38, 1e308, math.nan, math.inf, -math.inf, 0.999, 1e-6]
STRINGS = ["", " ", "run", "text.txt", "bad.txt", "nowhere", "no/where", "run/best.pt", "run/tokenizer.json", "."]
STRINGS += [
    "a\nb",
    "x" * 300,
    "ж",
    "🦊\u200d",
    "\udcff",
    "-",
    "--",
    "nan",
    "1e3",
    "0x10",
    "١",
    "1_0",
    "\0",
    "%s{}",
    "'",
]
DEVICES = ["auto", "cpu", "cuda", "cuda:9", "mps", "meta", "cpu:1", "cpu:-1", "xla", "hpu", "xpu", "vulkan", "", "cpu "]
CHOICES = ["float32", "bfloat16", "float16", "adamw", "muon", "soap", "constant", "linear"]


# -------------------------------------------------------------------------------------------------------------- damage


def random_text(rng):
    """Text or bytes that someone might pass as a text file."""
    n = int(10 ** rng.uniform(0, 4))
    ranges = [(0, 128), (32, 127), (0, 256), (0x300, 0x370), (0x400, 0x500), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF)]
    parts = []
    for _ in range(rng.randint(1, 3)):
        low, high = rng.choice(ranges)
        parts.append("".join(chr(rng.randrange(low, high)) for _ in range(n)))
    parts += [TEXT, "a" * n, "\r\n" * n, "\ufeff" + TEXT, "ab\0" * n, " \t" * n, "\u2028x" * n]
    content = "".join(rng.sample(parts, rng.randint(1, 3)))
    if rng.random() < 0.2:
        return content.encode(rng.choice(["utf-16", "utf-32", "cp1252", "utf-7"]), "replace")
    raw = content.encode()
    return rng.choice([raw, raw, raw[: rng.randrange(len(raw) + 1)], damage_bytes(raw, rng), rng.randbytes(n)])


def damage_bytes(raw, rng):
    """Bytes with a few of them changed, cut out, doubled, put in, or cut off."""
    raw = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        at = rng.randrange(len(raw) + 1)
        end = min(len(raw), at + int(10 ** rng.uniform(0, 3)))
        how = rng.randrange(6)
        if how == 0:
            del raw[at:end]
        elif how == 1:
            raw[at:at] = raw[at:end]
        elif how == 2:
            raw[at:at] = rng.randbytes(end - at)
        elif how == 3:
            del raw[at:]
        elif at < len(raw):
            raw[at] ^= 1 << rng.randrange(8)
    return bytes(raw)


def places(value):
    """Every (container, key) inside nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield value, key
        yield from places(part)


def damage_value(value, rng, more=()):
    """Nested data with a few parts replaced by others, removed or added."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        found = list(places(value))
        if not found:
            return value
        container, key = rng.choice(found)
        other = rng.choice([*INTEGERS[:-1], *FLOATS, *STRINGS, None, True, [], {}, [[1, 2]], *more])
        how = rng.randrange(6)
        if how == 0:
            del container[key]
        elif how == 1:
            container[key] = copy.deepcopy(container[rng.choice([k for c, k in found if c is container])])
        elif how == 2 and isinstance(container, dict):
            container[rng.choice(STRINGS)] = other
        else:
            container[key] = other
    return value


def damage_json(raw, rng):
    if rng.random() < 0.3:
        return damage_bytes(raw, rng)
    return json.dumps(damage_value(json.loads(raw), rng)).encode()


def damage_checkpoint(raw, rng):
    """Damage to the file, to a record of it with its checksum made good, or to what it holds."""
    how = rng.randrange(3)
    if how == 0:
        return damage_bytes(raw, rng)
    result = io.BytesIO()
    if how == 1:
        with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(result, "w") as new:
            chosen = rng.choice([name for name in old.namelist() if "/data" in name])
            for name in old.namelist():
                new.writestr(name, damage_bytes(old.read(name), rng) if name == chosen else old.read(name))
        return result.getvalue()
    tensors = [torch.zeros(1), torch.zeros(3, 5), torch.full((2,), math.nan), torch.zeros(1).expand(2**45)]
    tensors += [torch.zeros(4, dtype=torch.int64), torch.empty(2**45, device="meta"), torch.eye(3).to_sparse()]
    state = torch.load(io.BytesIO(raw), weights_only=True)
    state = damage_value({**state, "model": dict(state["model"])}, rng, tensors)
    if rng.random() < 0.3 and isinstance(state.get("model"), dict):  # weights as large as they get, or no numbers
        for key, weight in state["model"].items():
            if (
                isinstance(weight, torch.Tensor)
                and weight.dim() == 2
                and not weight.is_sparse
                and weight.numel() < 10**6
            ):
                state["model"][key] = torch.full_like(
                    weight, rng.choice([1e38, -1e20, math.nan, math.inf]), device="cpu"
                )
    torch.save(state, result)
    return result.getvalue()


# --------------------------------------------------------------------------------------------------------------- cases


def flags_of(settings):
    return [word for key, value in settings.items() for word in ("--" + key.replace("_", "-"), str(value))]


def random_flag(field, rng):
    """A flag with a value that may suit it, or not."""
    flag = "--" + field.name.replace("_", "-")
    if isinstance(field.default, bool):
        return [flag]
    pool = {int: INTEGERS, float: FLOATS, str: STRINGS + CHOICES}[type(field.default)]
    pool = DEVICES if field.name == "device" else pool
    if field.metadata["high"] < 10**4:
        pool = [*pool, field.metadata["low"], field.metadata["high"] * 2]
    value = rng.choice(pool if rng.random() < 0.8 else [*STRINGS, *INTEGERS, *FLOATS])
    text = str(value) if not isinstance(value, int) or value < 10**300 else "9" * 400
    return rng.choice(
        [[flag, text], [f"{flag}={text}"], [flag, text], [flag[:-1], text] if rng.random() < 0.1 else [flag]]
    )


def random_flags(module, rng):
    chosen = [f for f in fields(module.Config) if f.name not in SLOW]
    words = [word for f in rng.sample(chosen, rng.choice([0, 1, 1, 2, 3, 6])) for word in random_flag(f, rng)]
    if rng.random() < 0.1:
        words.insert(
            rng.randrange(len(words) + 1), rng.choice([*STRINGS, "train", "eval", "--help", "-h", "--no", "@x"])
        )
    return [word.replace("\0", "0") for word in words]  # a command line cannot hold a NUL


def make_case(module, rng):
    """Damage the files here and choose a command line; returns the kind of case, its flags and the bytes damaged."""
    kind = rng.choice(["flags", "text", "tokenizer", "config", "checkpoint", "checkpoint"])
    command = rng.choice([["--resume"], ["sample"], ["eval"]]) + ["--out", "run"]
    file = {"text": "bad.txt", "tokenizer": "run/tokenizer.json", "config": "run/config.json"}.get(kind)
    sizes = {key: value for key, value in SMALL.items() if key in {f.name for f in fields(module.Config)}}
    if kind == "text":
        content = random_text(rng)
        resumed = [*command, "--data", file]
        command = rng.choice(
            [resumed, ["train", *flags_of(sizes), "--data", file], ["train", *flags_of(sizes), "--data", file]]
        )
    elif kind == "flags":
        content = b""
        train = ["train", *flags_of(sizes)]
        command = rng.choice([train, train, command]) + random_flags(module, rng)
    elif kind == "checkpoint":
        file = "run/checkpoint.pt" if command[0] == "--resume" else "run/best.pt"
        content = damage_checkpoint(Path(file).read_bytes(), rng)
    else:
        content = damage_json(Path(file).read_bytes(), rng)
        if kind == "tokenizer" and hasattr(module, "BPETokenizer") and rng.random() < 0.3:
            command = ["train", *flags_of(sizes), "--tokenizer", file]
    if file:
        Path(file).write_bytes(content)
    if kind != "flags" and rng.random() < 0.2:
        command += random_flags(module, rng)
    return kind, command + BUDGET, len(content)


def execute(module, argv, timeout):
    """Run a command line in a child; returns its exit status (None: too slow), and its standard error."""
    pid = os.fork()
    if not pid:
        status = 99
        try:
            for number, name in ((1, "out.log"), (2, "err.log")):
                os.dup2(os.open(f"../{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
            status = module.main(argv)
        except SystemExit as error:
            status = error.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    until, done = time.monotonic() + timeout, 0
    while not done and time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0 if done else 0.002)
    if not done:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    error = Path("../err.log").read_text(encoding="utf-8", errors="replace")
    return (os.waitstatus_to_exitcode(status) if done else None), error


def verdict(name, status, error):
    """What is wrong with how a command ended; an empty text if nothing is."""
    lines = error.splitlines()
    if status is None:
        return "hangs"
    if status == 0:
        return f"status 0, but standard error says: {error}" if lines else ""
    if status not in (1, 2, 130, 143):
        return f"status {status}: {error}"
    return "" if len(lines) == 1 and lines[0].startswith(f"{name}: ") else f"status {status}, not one line: {error}"


# ------------------------------------------------------------------------------------------------------------- the run


def prepare(names):
    """A folder with a finished run of each version, to be damaged; returns the modules by name."""
    modules = {name: importlib.import_module(name) for name in names}
    for name, module in modules.items():
        Path(name).mkdir()
        os.chdir(name)
        Path("text.txt").write_bytes(TEXT.encode())
        sizes = {key: value for key, value in SMALL.items() if key in {f.name for f in fields(module.Config)}}
        status, error = execute(module, [*flags_of(sizes), "--out", "run"], 600)
        os.chdir("..")
        if status != 0:
            raise SystemExit(f"{name} does not train: status {status}\n{error}")
    return modules


def run_case(number, args, modules):
    """One case; returns the version, its kind, the exit status, the bytes damaged, what is wrong and the command."""
    rng = random.Random(f"{args.seed} {number}")
    name = rng.choice(list(modules))
    desk = Path(f"case{number}")
    shutil.copytree(name, desk)
    os.chdir(desk)
    try:
        kind, argv, n_bytes = make_case(modules[name], rng)
        status, error = execute(modules[name], argv, args.timeout)
    finally:
        os.chdir("..")
    wrong = verdict(name, status, error)
    if not wrong:
        shutil.rmtree(desk)
    return name, kind, status, n_bytes, wrong, shlex.join(["python", f"{name}.py", *argv])


def table(counts, n_bytes):
    """Cases by kind and exit status, as Markdown."""
    lines = [
        "| what is random | cases | refused (2) | failed (1) | went well (0) | bytes |",
        "|---|---|---|---|---|---|",
    ]
    for kind in sorted(n_bytes):
        figures = [counts[kind, status] for status in (2, 1, 0)]
        lines.append(f"| {kind} | {sum(figures)} | {' | '.join(map(str, figures))} | {n_bytes[kind]:,} |")
    return "\n".join([*lines, f"| all | {sum(counts.values())} | | | | {sum(n_bytes.values()):,} |"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="stop after")
    parser.add_argument("--count", type=int, default=10**9, help="stop after so many cases")
    parser.add_argument("--versions", nargs="+", default=[f"v{i}" for i in range(6)], help="prefixes: v0 ... v5")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="default: another one every time")
    parser.add_argument("--case", type=int, help="run this case only")
    parser.add_argument("--timeout", type=float, default=120, help="seconds that a case may take")
    add_record_option(parser)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    torch.set_num_threads(1)
    Figure().savefig(os.devnull, format="png")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    os.chdir(folder)
    modules = prepare([path.stem for v in args.versions for path in sorted(ROOT.glob(f"{v}_*.py"))])
    print(f"seed {args.seed}, in {folder}", file=sys.stderr)
    began, number, found, counts, n_bytes = time.monotonic(), args.case or 0, 0, Counter(), Counter()
    until = number + (args.count if args.case is None else 1)
    while number < until and time.monotonic() - began < args.seconds:
        name, kind, status, size, wrong, command = run_case(number, args, modules)
        counts[kind, status] += 1
        n_bytes[kind] += size
        if wrong:
            found += 1
            print(f"\ncase {number}, {kind}, in {folder / f'case{number}'}:\n{command}\n{wrong}", file=sys.stderr)
        number += 1
        elapsed = time.monotonic() - began
        print(f"\r{number} cases, {found} found, {elapsed:.0f} of {args.seconds:.0f} s ", end="", file=sys.stderr)
    print(file=sys.stderr)
    print(table(counts, n_bytes))
    if args.record:
        tried = f"{counts.total():,}, {found} of them with a traceback, a hang or more than one line"
        record(args.record, {"bad inputs tried": tried, "bytes fuzzed": f"{sum(n_bytes.values()):,}, seed {args.seed}"})
    if not found:
        shutil.rmtree(folder)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
