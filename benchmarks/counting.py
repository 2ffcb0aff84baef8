"""Does a model that read the text of data/counting.py count on without an error? Scores a trained run.

    python data/counting.py                                 # writes counting.txt and counting_test.json
    python v5_ngpt.py --data counting.txt --max-seconds 120 --out runs/count
    python benchmarks/counting.py runs/count                # 50 prompts, the 47 numbers after each
    python benchmarks/counting.py runs/count --numbers 500              # the 500 numbers after each
    python benchmarks/counting.py runs/count --starts 985 19985         # other prompts: 985 986 987, ...
    python benchmarks/counting.py runs/count --starts 5000 --stride -1  # downward, which no training text has

The model always writes its most likely token. A number is right if its words are right and also the first word of the
next number, because only that shows where a number ends: 20 and then 1 would read as 21. A text is exact if all its
numbers are right. The word error rate is that of all texts together: substituted, dropped and added words per word of
the answers. A text is compared up to as many words as its answer has; the prompt does not count. What is printed is
also written to benchmarks/results/counting.json.
"""

import argparse
import importlib
import importlib.util
import json
import sys
from itertools import accumulate, takewhile
from pathlib import Path

import jiwer
import torch
from report import RESULTS, ROOT, save
from tqdm import tqdm

sys.path.insert(0, str(ROOT))
BAR = "{percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} tokens, {remaining} left"


def load_maker():
    """The module data/counting.py. It has this file's name, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("counting_maker", ROOT / "data" / "counting.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = load_maker()


def read_starts(test):
    """The first numbers of the prompts in a test file. Exits with a message if it is none."""
    try:
        return [exercise["start"] for exercise in json.loads(test.read_bytes())]
    except OSError as error:
        sys.exit(f"{test}: {error.strerror}; python data/counting.py writes it")
    except (KeyError, TypeError, ValueError):
        sys.exit(f"{test}: not a test that data/counting.py wrote")


def make_exercises(starts, numbers, stride):
    """For each start a dict: start, prompt, answer, and its numbers and the one after them in words. Raises ValueError."""
    exercises = []
    for start in starts:
        first = start + maker.PROMPT * stride
        said = [maker.words(first + i * stride) for i in range(numbers + 1)]
        exercises.append(maker.exercise(start, numbers, stride) | {"numbers": said})
    return exercises


def open_run(folder):
    """(module of the version, its Run) of a run folder. Exits with a message if there is none."""
    try:
        name = json.loads((folder / "config.json").read_bytes())["version"]
    except (OSError, ValueError, KeyError, TypeError):
        sys.exit(f"{folder}: not the folder of a run")
    if name not in [path.stem for path in ROOT.glob("v[1-9]_*.py")]:
        sys.exit(f"{folder}: a run of {name}, but only v1 and later can count")
    version = importlib.import_module(name)
    try:
        return version, version.load_run(folder)
    except version.UserError as error:
        sys.exit(str(error))


def continue_prompts(version, run, exercises):
    """What the model writes after each prompt: as many tokens as the answer and one number more would have.

    Prompts of the same length go through the model together. Exits with a message if it lacks a character.
    """
    try:
        prompts = [run.tokenizer.encode(e["prompt"]) for e in exercises]
        lengths = [len(run.tokenizer.encode(" " + " ".join(e["numbers"]))) for e in exercises]
    except version.UserError as error:
        sys.exit(f"{run.folder}: {error}")
    block_size, device = run.cfg.block_size, next(run.model.parameters()).device
    groups, texts = {}, {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(len(prompt), []).append(i)
    total = sum(max(lengths[i] for i in group) for group in groups.values())
    with tqdm(total=total, disable=None, leave=False, bar_format=BAR) as bar:
        for group in groups.values():
            idx = torch.tensor([prompts[i][-block_size:] for i in group], device=device)
            n, ids = max(lengths[i] for i in group), []
            for next_ids in version.generate(run.model, idx, n, block_size, temperature=0.0):
                ids.append(next_ids)
                bar.update()
            for i, row in zip(group, torch.stack(ids, dim=1).tolist(), strict=True):
                texts[i] = run.tokenizer.decode(row[: lengths[i]])
    return [texts[i] for i in range(len(exercises))]


def score(exercises, texts):
    """How right these continuations are, up to their first line break.

    A dict: `correct`, for each text the right numbers before the first error; `exact`, how many texts have no error;
    `wer`, the word error rate; `errors`, a message for each text that is not exact.
    """
    correct, errors, compared = [], [], []
    for exercise, text in zip(exercises, texts, strict=True):
        *numbers, after = exercise["numbers"]
        answer = exercise["answer"].split(" ")
        expected = ["", *answer, after.split(" ")[0]]  # text begins with a space
        line = text.split("\n")[0]
        pairs = zip(expected, line.split(" "), strict=False)
        same = len([*takewhile(lambda pair: pair[0] == pair[1], pairs)]) - 1  # words that are right
        ends = [*accumulate(len(number.split(" ")) for number in numbers)]
        correct.append(sum(end < same for end in ends))
        compared.append(" ".join(line.split()[: len(answer)]))
        if correct[-1] < len(numbers):
            wrong = numbers[correct[-1]]
            begin = ends[correct[-1]] - len(wrong.split(" "))
            found = " ".join(line.split()[begin : ends[correct[-1]] + 1])
            place = f"from {exercise['start']}, number {correct[-1] + 1}"
            errors.append(f"{place}: expected {wrong!r}, written {found!r}")
    wer = jiwer.wer([exercise["answer"] for exercise in exercises], compared)
    exact = len(texts) - len(errors)
    return {"correct": correct, "exact": exact, "wer": wer, "errors": errors}


def table(figures, numbers):
    """The figures as rows of cells."""
    correct = figures["correct"]
    right = f"mean {sum(correct) / len(correct):.2f}, least {min(correct)}, of {numbers}"
    rows = [["exact texts", "right numbers before the first error", "word error rate"]]
    return [*rows, [f"{figures['exact']} of {len(correct)}", right, f"{figures['wer']:.4f}"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--test", type=Path, default=ROOT / "counting_test.json", help="prompts")
    parser.add_argument("--starts", type=int, nargs="+", help="first numbers of other prompts")
    parser.add_argument("--numbers", type=int, default=47, help="to write after each prompt (47)")
    parser.add_argument("--stride", type=int, default=1, help="from number to number (1)")
    default = RESULTS / "counting.json"
    parser.add_argument("--out", type=Path, default=default, help="where the figures go")
    args = parser.parse_args()
    if args.numbers < 1:
        parser.error("argument --numbers: must be 1 or more")
    starts = args.starts or read_starts(args.test)
    try:
        exercises = make_exercises(starts, args.numbers, args.stride)
    except ValueError as error:
        parser.error(f"these numbers leave the range: {error}")
    version, run = open_run(args.run)
    figures = score(exercises, continue_prompts(version, run, exercises))
    question = "Does a model that read numbers in words count on without an error?"
    note = f"{version.NAME}, {args.numbers} numbers after each prompt, the most probable tokens."
    save(args.out, question, [table(figures, args.numbers)], note)
    print("\n".join(figures["errors"][:10]), end="")


if __name__ == "__main__":
    main()
