"""Have a model count on from three numbers, greedily, and score what it writes; or train versions and score each.

    python data/counting.py                                         # first: write counting.txt and counting_test.json
    python v5_ngpt.py --data counting.txt --max-seconds 120         # and train a model
    python benchmarks/counting.py RUN_FOLDER                        # 50 prompts, the 47 numbers after each
    python benchmarks/counting.py RUN_FOLDER --numbers 500          # the 500 numbers after each
    python benchmarks/counting.py RUN_FOLDER --starts 985 19985     # other prompts: 985 986 987, 19985 19986 19987
    python benchmarks/counting.py RUN_FOLDER --starts 5000 --stride -1      # 5000 4999 4998: never seen in training
    python benchmarks/counting.py --train v1 v2 v3 v4 v5 "v5 --optimizer soap" --seconds 120 --seeds 1 2 3

A text is exact if all its numbers are right and the last one is not followed by a word that would make it another
number. The word error rate (substituted, dropped and added words per word of the answer, all texts together) does not
count the prompt, which no model has to write; a text is compared up to as many words as the answer has. --train takes
versions, each with flags of its own if quoted, and prints a Markdown table.
"""

import argparse
import csv
import importlib
import importlib.util
import json
import shlex
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import jiwer
import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


class Problem(Exception):
    """Ends the command with one line on standard error and exit status 2."""


def load_maker():
    """The module data/counting.py, by its path: by its name this file would import itself."""
    spec = importlib.util.spec_from_file_location("counting_maker", ROOT / "data" / "counting.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = load_maker()


# --- what is asked


def make_exercises(test, starts, numbers, stride):
    """Dicts (start, prompt, answer, numbers) for these starts, or for those in a test file. Raises Problem.

    `numbers` lists those of the answer, and the one after it, which tells where a text's last number ends.
    """
    try:
        starts = starts or [exercise["start"] for exercise in json.loads(test.read_bytes())]
        made = [maker.exercise(start, numbers, stride) for start in starts]
        places = range(maker.PROMPT, maker.PROMPT + numbers + 1)
        return [
            e | {"numbers": [maker.words(e["start"] + i * stride) for i in places]} for e in made
        ]
    except OSError as error:
        raise Problem(
            f"{test}: {error.strerror.lower()}; python data/counting.py writes it"
        ) from None
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError):
        raise Problem(f"{test}: not a test that data/counting.py wrote") from None
    except ValueError as error:
        raise Problem(str(error)) from None


# --- what is written


def open_run(folder):
    """(module of the version, its Run) of a run folder. Raises Problem."""
    try:
        name = json.loads((folder / "config.json").read_bytes())["version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Problem(f"{folder}: holds no run") from None
    if name not in [path.stem for path in ROOT.glob("v[1-9]_*.py")]:
        raise Problem(f"{folder}: holds a run of {name}; v1 and later can count")
    version = importlib.import_module(name)
    try:
        return version, version.load_run(folder)
    except version.UserError as error:
        raise Problem(str(error)) from None


def group_by_length(prompts, block_size):
    """Lists of indices of the prompts (lists of ids) that fill a window alike, to be continued together."""
    groups = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(min(len(prompt), block_size), []).append(i)
    return list(groups.values())


def write_on(version, run, exercises):
    """The model's continuation of each prompt, likeliest token by token, as long as the answer and a number more.

    Raises Problem if the model lacks a character of the prompts.
    """
    block_size, encode = run.cfg.block_size, run.tokenizer.encode
    try:
        prompts = [encode(e["prompt"]) for e in exercises]
        lengths = [len(encode(" " + " ".join(e["numbers"]))) for e in exercises]
    except version.UserError as error:
        raise Problem(f"{run.folder}: {error}") from None
    groups = group_by_length(prompts, block_size)
    device, texts = next(run.model.parameters()).device, {}
    steps = [max(lengths[i] for i in group) for group in groups]
    look = "{percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} tokens, {remaining} left"
    with tqdm(total=sum(steps), disable=None, leave=False, bar_format=look) as bar:
        for group, n in zip(groups, steps, strict=True):
            idx, ids = torch.tensor([prompts[i][-block_size:] for i in group], device=device), []
            for next_ids in version.generate(run.model, idx, n, block_size, temperature=0.0):
                ids.append(next_ids)
                bar.update()
            for i, row in zip(group, torch.stack(ids, dim=1).tolist(), strict=True):
                texts[i] = run.tokenizer.decode(row[: lengths[i]])
    return [texts[i] for i in range(len(exercises))]


# --- how good it is


def prolongs(word, following):
    """Whether a number that ends with `word` becomes another number, or none, if `following` comes next."""
    return following in ("and", "hundred", "thousand") or (
        word in maker.TENS[2:] and following in maker.ONES[1:10]
    )


def count_correct(expected, written):
    """How many of the expected numbers stand in their order at the start of a list of words.

    The last of `expected` is not counted, but may follow: "twenty" then "one" is 20 only if "one" begins it.
    """
    place = 0
    for i, (number, after) in enumerate(pairwise(expected)):
        said = number.split(" ")
        end = place + len(said)
        following = written[end] if end < len(written) else after.split(" ")[0]
        if written[place:end] != said or (
            following != after.split(" ")[0] and prolongs(said[-1], following)
        ):
            return i
        place = end
    return len(expected) - 1


def score(exercises, texts):
    """How right texts (continuations of the prompts) are, up to their first line break.

    A dict: `exact` texts of `texts`; for each text the `correct` numbers before its first error, of `numbers`; `wer`;
    and `errors`, a list of (start, place, number expected, words written).
    """
    correct, errors, exact, compared = [], [], 0, []
    for exercise, text in zip(exercises, texts, strict=True):
        text, expected, answer = text.split("\n")[0], exercise["numbers"], exercise["answer"]
        written = text.split()
        compared.append(" ".join(written[: len(answer.split())]))
        correct.append(count_correct(expected, written))
        exact += correct[-1] == len(expected) - 1 and text.startswith(" " + answer)
        if correct[-1] < len(expected) - 1:
            wrong = expected[correct[-1]]
            place = len(" ".join(expected[: correct[-1]]).split())
            found = " ".join(written[place : place + len(wrong.split()) + 1])
            errors.append((exercise["start"], correct[-1] + 1, wrong, found or "the end"))
    figures = {"exact": exact, "texts": len(texts), "correct": correct, "errors": errors}
    figures["numbers"] = len(exercises[0]["numbers"]) - 1
    return figures | {"wer": jiwer.wer([exercise["answer"] for exercise in exercises], compared)}


def describe(figures):
    """The figures in lines for a reader, the first errors among them."""
    correct = figures["correct"]
    lines = [f"exact texts                              {figures['exact']} of {figures['texts']}"]
    mean = f"mean {sum(correct) / len(correct):.2f}, least {min(correct)}"
    lines.append(f"correct numbers before the first error   {mean} (of {figures['numbers']})")
    lines.append(f"word error rate, without the prompt      {figures['wer']:.4f}")
    for start, place, expected, found in figures["errors"][:10]:
        lines.append(
            f'from {start}: number {place} after the prompt is "{expected}", written was "{found}"'
        )
    hidden = len(figures["errors"]) - 10
    return "\n".join(lines + [f"and {hidden} more texts with an error"] * (hidden > 0))


# --- training


def train_and_score(spec, seed, args, exercises, folder):
    """Train one version (spec: its prefix, and flags) in a command of its own; returns its figures. Raises Problem."""
    prefix, *flags = shlex.split(spec)
    script = next(iter(sorted(ROOT.glob(f"{prefix}_*.py"))))
    command = [
        sys.executable,
        str(script),
        "train",
        "--data",
        str(args.data),
        "--out",
        str(folder),
        "--seed",
        str(seed),
    ]
    command += ["--max-seconds", str(args.seconds), "--evals", "2", *flags]
    began = time.perf_counter()
    if status := subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise Problem(f"{shlex.join(command)}: ended with status {status}")
    wall = time.perf_counter() - began
    with open(folder / "metrics.csv", encoding="utf-8") as file:
        row = list(csv.DictReader(file))[-1]
    figures = score(exercises, write_on(*open_run(folder), exercises))
    return figures | {"seconds": float(row["seconds"]), "wall": wall, "tokens": int(row["tokens"])}


def table(results):
    """Markdown: a row per spec, in every cell a figure per seed. results: {spec: [figures]}."""
    some = next(iter(results.values()))[0]
    titles = [
        "version",
        f"exact texts, of {some['texts']}",
        f"numbers before the first error, of {some['numbers']}",
    ]
    titles += ["word error rate", "training, s", "whole command, s", "tokens seen"]
    rows = [titles, ["---"] * len(titles)]
    for spec, runs in results.items():
        means = [f"{sum(r['correct']) / r['texts']:.1f}" for r in runs]
        columns = [[str(r["exact"]) for r in runs], means, [f"{r['wer']:.4f}" for r in runs]]
        columns += [[f"{r[key]:.0f}" for r in runs] for key in ("seconds", "wall")]
        columns += [[f"{r['tokens'] / 1e6:.2f} M" for r in runs]]
        rows.append([f"`{spec}`", *(", ".join(column) for column in columns)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def compare(args, exercises):
    """Train every spec with every seed, seed by seed, and print a line after each run and the table after each seed."""
    results, began, done = {spec: [] for spec in args.train}, time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as temporary:
        for seed in args.seeds:
            for spec in args.train:
                folder = (
                    args.out or Path(temporary)
                ) / f"{'_'.join(shlex.split(spec)).replace('--', '')}_{seed}"
                figures = train_and_score(spec, seed, args, exercises, folder)
                results[spec].append(figures)
                done += 1
                left = (
                    (time.perf_counter() - began)
                    / done
                    * (len(args.train) * len(args.seeds) - done)
                )
                exact = f"{figures['exact']} of {figures['texts']} exact, word error rate {figures['wer']:.4f}"
                print(f"{spec}, seed {seed}: {exact}; about {left / 60:.0f} min left", flush=True)
            print(f"\n{table(results)}\n", flush=True)


class Arguments(argparse.ArgumentParser):
    """Reports bad arguments in one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def parse(arguments):
    parser = Arguments(prog="counting.py", description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN_FOLDER")
    parser.add_argument(
        "--test", type=Path, default=ROOT / "counting_test.json", help="prompts by data/counting.py"
    )
    parser.add_argument(
        "--starts", type=int, nargs="+", help="first numbers of the prompts, in place of the test's"
    )
    parser.add_argument(
        "--numbers", type=int, default=47, help="numbers to write after each prompt (default: 47)"
    )
    parser.add_argument(
        "--stride", type=int, default=1, help="from each number to the next (default: 1)"
    )
    parser.add_argument(
        "--train",
        nargs="+",
        metavar="VERSION",
        help='versions to train: v1 v2 "v5 --optimizer soap"',
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT / "counting.txt", help="the text to train on"
    )
    parser.add_argument(
        "--seconds", type=float, default=120, help="seconds of training (default: 120)"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1], help="a run of every version for each seed"
    )
    parser.add_argument(
        "--out", type=Path, help="folder that keeps the runs trained (default: they are removed)"
    )
    args = parser.parse_args(arguments)
    if bool(args.run) == bool(args.train):
        parser.error("give a run folder to score, or --train and versions")
    if args.numbers < 1:
        parser.error("--numbers: must be 1 or more")
    for spec in args.train or []:
        if not (shlex.split(spec) and len(list(ROOT.glob(f"{shlex.split(spec)[0]}_*.py"))) == 1):
            parser.error(
                f"--train {spec}: give a version as v1, v2, ..., flags after it in the same quotes"
            )
    return args


def main(arguments=None):
    """Run a command line (default: this process's); returns the exit status."""
    args = parse(arguments)
    try:
        exercises = make_exercises(args.test, args.starts, args.numbers, args.stride)
        if args.train:
            compare(args, exercises)
        else:
            version, run = open_run(args.run)
            print(
                f"{version.NAME} | {args.run} | {len(exercises)} prompts, {args.numbers} numbers each, greedy"
            )
            print(describe(score(exercises, write_on(version, run, exercises))))
    except Problem as problem:
        print(f"counting.py: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
