"""Writes counting.txt, a text that counts: each line holds fifty consecutive numbers in words, as in

    seventy nine thousand one hundred and thirty nine seventy nine thousand one hundred and forty ...

    python data/counting.py             write counting.txt (12 MB) and counting_test.json

The numbers are in British English, with one space between all words, so nothing marks where a number ends. The first
number of a line is at most 100,000. A few numbers determine all that follow, so a model's continuation is right or
wrong. counting_test.json holds 50 prompts of three numbers, each with the 47 numbers that follow.

What is held out. Each ten thousand holds three bands of 100 numbers, two for validation and one for the test, and no
training line enters a band, so the numbers of validation and test occur nowhere in training. The bands are drawn at
random; about one in ten crosses the end of a thousand. A step that is unlike all others, such as "nineteen thousand
nine hundred and ninety nine" to "twenty thousand", is never inside a band, because no training line could teach it.

What training sees. One line begins at every 43rd number (EVEN), so that no number outside the bands is missed; a line
that would enter a band is moved next to it. Few of these lines hold the hard steps, those to the next hundred or
thousand. So more lines cross these (ACROSS), and still more where few other steps are alike (MORE: to 31,000; OFTEN:
to 1,000, 10,000, 20,000). The rest begins below LOW, with as many first numbers from 10 to 99 as from 1,000 to 9,999.

How the text is divided. The versions take the last tenth of the characters as the validation split. Here that is
exactly the 500 validation lines: training lines are added until they fill the other nine tenths, and the last one is
chosen by its length.
"""

import argparse
import json
import os
import random
from functools import cache
from pathlib import Path

SEED = 1
NUMBERS = 50  # in a line
PROMPT = 3  # of which a test shows this many
LAST = 100_000  # the highest first number of a line
VALIDATION, TEST = 500, 50  # lines
EVEN = 43  # below NUMBERS; shares no divisor with 100, so that lines end at all tens and ones
ACROSS = {100: 1, 1000: 6}  # training lines across the end of each hundred, of each thousand
MORE = {100: 2, 1000: 15}  # where that step has a form of its own: see has_own_form
OFTEN = 45  # training lines across the end of the first thousand and of each ten thousand
LOW = 20_000  # the other training lines begin below it
BAND = 100  # numbers held out together
MARGIN = 200  # so two bands are 400 apart: a line that moves away from one cannot enter the next
ROOT = Path(__file__).resolve().parent.parent

# ----------------------------------------------------------------------------------------------------
# Numbers in words

ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen""".split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()


@cache
def words(number):
    """A number from 0 to 999,999: 1,042 is "one thousand and forty two". Raises ValueError outside."""
    if not 0 <= number < 1_000_000:
        raise ValueError(f"{number:,} is outside 0 to 999,999")
    if number < 20:
        return ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens] + (f" {ONES[ones]}" if ones else "")
    unit, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    high, low = divmod(number, unit)
    link = "" if low == 0 else " and " if low < 100 else " "
    return f"{words(high)} {name}{link}{words(low) if low else ''}"


def count(start, length=NUMBERS, stride=1):
    """`length` numbers in words: start, start + stride, ... Raises ValueError."""
    return " ".join(words(start + i * stride) for i in range(length))


def exercise(start, length=NUMBERS - PROMPT, stride=1):
    """A dict as in counting_test.json: a prompt of three numbers, and the `length` that follow. Raises ValueError."""
    answer = count(start + PROMPT * stride, length, stride)
    return {"start": start, "prompt": count(start, PROMPT, stride), "answer": answer}


def characters(start):
    """Characters of the line that counts from start, with its line break."""
    return sum(len(words(start + i)) + 1 for i in range(NUMBERS))


# ----------------------------------------------------------------------------------------------------
# First numbers of the lines. `uniform` returns numbers from [0, 1): random() has the same sequence in every Python.


def shuffled(items, uniform):
    """The items in random order."""
    return sorted(items, key=lambda _: uniform())


def teachable(low):
    """Whether the band from `low` may be held out: training has steps like each of its steps."""
    crossed = [n // 1000 for n in range(low, low + BAND) if n % 1000 == 0]
    return low > 2000 and all(thousands > 20 and thousands % 10 for thousands in crossed)


def draw_bands(uniform):
    """First numbers of the bands, (20 of validation, 10 of the test): one in each third of each ten thousand."""
    validation, test = [], []
    third = LAST // 30
    for first in range(0, 30, 3):
        lows = []
        while len(lows) < 3:
            low = (first + len(lows)) * third + MARGIN
            low += int(uniform() * (third - BAND - 2 * MARGIN))
            if teachable(low):
                lows.append(low)
        test.append(lows.pop(int(uniform() * 3)))
        validation += lows
    return validation, test


def draw_inside(bands, lines, uniform):
    """First numbers of different lines, the same number of them in each band."""
    starts = []
    for low in bands:
        inside = shuffled(range(low, low + BAND - NUMBERS + 1), uniform)
        starts += sorted(inside[: lines // len(bands)])
    return starts


def aside(start, bands):
    """The first number nearest to start whose line enters no band."""
    for low in bands:
        before, after = low - NUMBERS, low + BAND
        if before < start < after:
            return before if start - before <= after - start else after
    return start


def has_own_form(end):
    """Whether few steps are like the one to `end`: at 3,100 a "hundred" appears, at 31,000 a "one"."""
    if end % 1000:
        return end % 1000 == 100
    return end < 20_000 or end % 10_000 == 1000


def draw_training(bands, size, uniform):
    """First numbers of training lines that fill `size` characters, or up to 9 fewer."""
    starts = [*range(1, LAST + 1, EVEN)]
    for end in range(100, LAST + 1, 100):
        often = OFTEN if end == 1000 or end % 10_000 == 0 else 0
        lines = often or (MORE if has_own_form(end) else ACROSS)[100 if end % 1000 else 1000]
        for _ in range(lines):  # end - 1 and end are both in the line
            starts.append(end - 1 - int(uniform() * (NUMBERS - 1)))
    starts = [aside(start, bands) for start in starts]
    left = size - sum(map(characters, starts))
    while left > 2 * characters(LOW - 1):
        starts.append(aside(int(LOW ** uniform()), bands))
        left -= characters(starts[-1])
    allowed = [start for start in range(1, LOW) if start == aside(start, bands)]
    fitting = []
    while not fitting:  # two more lines: any one, and one that fills the rest
        start = aside(int(LOW ** uniform()), bands)
        fitting = [s for s in allowed if 0 <= left - characters(start) - characters(s) <= 9]
    return [*starts, start, fitting[0]]


def draw(seed=SEED):
    """First numbers of all lines: (training, validation, test)."""
    uniform = random.Random(seed).random
    validation_bands, test_bands = draw_bands(uniform)
    validation = draw_inside(validation_bands, VALIDATION, uniform)
    test = draw_inside(test_bands, TEST, uniform)
    size = 9 * sum(map(characters, validation))  # so that floor(0.9 * all) is where training ends
    training = draw_training(validation_bands + test_bands, size, uniform)
    return shuffled(training, uniform), shuffled(validation, uniform), test


# ----------------------------------------------------------------------------------------------------
# Command line


def main():
    parser = argparse.ArgumentParser(description="Write a text that counts, and a test of it.")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=ROOT / "counting.txt", metavar="FILE")
    args = parser.parse_args()
    training, validation, test = draw(args.seed)
    text = "".join(count(start) + "\n" for start in training + validation)
    exercises = json.dumps([exercise(start) for start in test], indent=1) + "\n"
    test_path = args.out.with_name(args.out.stem + "_test.json")
    try:
        for path, content in ((args.out, text), (test_path, exercises)):
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            temporary.write_bytes(content.encode())
            temporary.replace(path)  # under its own name, a file is whole
    except OSError as error:
        parser.error(f"{args.out}: {error.strerror}")
    print(f"{args.out}: {len(training):,} training lines, then {len(validation)} for validation")
    print(f"{test_path}: {len(test)} prompts and answers")


if __name__ == "__main__":
    main()
