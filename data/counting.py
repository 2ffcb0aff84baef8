"""Writes counting.txt, a text that counts: on every line fifty consecutive numbers in words, as in

    seventy nine thousand one hundred and thirty nine seventy nine thousand one hundred and forty ...

British English, one space between all words and nothing else between the numbers, first numbers from 1 to 100,000.
Whoever reads a few of the numbers can write all that follow, so a model's continuation is right or wrong. Beside the
text, counting_test.json holds 50 prompts of three numbers and, for each, the 47 numbers that follow.

    python data/counting.py                         write counting.txt (12 MB) and counting_test.json
    python data/counting.py --seed 7 --out other.txt

From Python, `words(n)` is a number in words and `count(start, length, stride)` a text.

What is held out. Each ten thousand holds three bands of 100 numbers, two for validation and one for the test, and no
training text enters a band: the numbers of validation and test occur nowhere in training. The bands are drawn, so
about one in ten lies across the end of a thousand. A step that is like no other ("nineteen thousand nine hundred and
ninety nine" to "twenty thousand") is never inside a band, for then nothing in training could teach it.

What training sees. Texts begin at every EVENth number, so that no number outside the bands is missed; a text that
would enter a band moves aside until it just touches it. Few texts would hold the hard steps that way, so more lie
across the end of each hundred and thousand (ACROSS), more where a step is like few others (MORE: to 31,000; OFTEN: to
1,000, 10,000, 20,000), and the rest begins below LOW, with as many first numbers from 10 to 99 as from 1,000 to 9,999.

How the text is divided. The versions take the last tenth of the characters as the validation split. That is exactly
the 500 validation texts: there are as many training texts as fill the other nine tenths, one of them chosen by its
length. The training texts, and the validation texts, are shuffled.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from functools import cache
from pathlib import Path

SEED = 1
NUMBERS = 50  # per text
PROMPT = 3  # of which a test shows so many
LAST = 100_000  # the highest number that a text begins with
VALIDATION, TEST = 500, 50  # texts
EVEN = 43  # less than NUMBERS; prime to 100, or all texts would end at the same tens, and models learn to expect that
ACROSS = {100: 1, 1000: 6}  # training texts across the end of each hundred, of each thousand
MORE = {100: 2, 1000: 15}  # where that step has a form of its own: see has_own_form
OFTEN = 45  # training texts across the end of the first thousand and of each ten thousand
LOW = 20_000  # the other training texts begin below it
BAND = 100  # numbers held out together
ROOT = Path(__file__).resolve().parent.parent

# ----------------------------------------------------------------------------------------------------
# Numbers in words

ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen""".split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()


@cache
def words(number):
    """A number from 0 to 999,999 in words: 1,042 is "one thousand and forty two". Raises ValueError outside."""
    if not 0 <= number < 1_000_000:
        raise ValueError(f"{number:,}: only 0 to 999,999 can be said")
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
    """`length` numbers from `start` on, each `stride` after the one before, in words. Raises ValueError."""
    return " ".join(words(start + i * stride) for i in range(length))


def characters(start):
    """Characters of the line that counts from start."""
    return sum(len(words(start + i)) + 1 for i in range(NUMBERS))


# ----------------------------------------------------------------------------------------------------
# Which numbers the texts begin with. Only random() is used, as its sequence is the same in every Python version.


def shuffled(items, uniform):
    """The items in an order drawn with `uniform`, a function that returns numbers from [0, 1)."""
    return sorted(items, key=lambda _: uniform())


def teachable(low):
    """Whether a band from `low` on may be held out: its steps occur in training with other numbers."""
    after = [
        n // 1000 for n in range(low, low + BAND) if n % 1000 == 0
    ]  # 37 where 36,999 is followed by 37,000
    return low > 2000 and all(thousands > 20 and thousands % 10 for thousands in after)


def draw_bands(uniform):
    """First numbers of the bands, for validation (20) and test (10): in each third of each ten thousand lies one."""
    validation, test = [], []
    third, margin = (
        LAST // 30,
        200,
    )  # so bands are 400 apart, and moving aside from one leads into no other
    for first in range(0, 30, 3):
        lows = []
        while len(lows) < 3:
            low = (
                (first + len(lows)) * third + margin + int(uniform() * (third - BAND - 2 * margin))
            )
            lows += [low] * teachable(low)
        chosen = int(uniform() * 3)
        test.append(lows.pop(chosen))
        validation += lows
    return validation, test


def draw_inside(bands, texts, uniform):
    """First numbers of `texts` different texts, as many in each band."""
    return [
        start
        for low in bands
        for start in sorted(
            shuffled(range(low, low + BAND - NUMBERS + 1), uniform)[: texts // len(bands)]
        )
    ]


def aside(start, bands):
    """The place nearest to start from which a text enters no band."""
    for low in bands:
        before, after = low - NUMBERS, low + BAND
        if before < start < after:
            return before if start - before <= after - start else after
    return start


def has_own_form(end):
    """Whether few other hundreds or thousands end as the one before `end` does."""
    if (
        end % 1000
    ):  # "... thousand and ninety nine" to "... thousand one hundred": there was no hundred before
        return end % 1000 == 100
    return (
        end < 20_000 or end % 10_000 == 1000
    )  # each its own word; "thirty thousand ..." to "thirty one thousand"


def draw_training(bands, size, uniform):
    """First numbers of training texts, in order of drawing, that fill `size` characters or up to 9 fewer."""
    starts = [*range(1, LAST + 1, EVEN)]
    for end in range(100, LAST + 1, 100):
        often = OFTEN if end == 1000 or end % 10_000 == 0 else 0
        texts = often or (MORE if has_own_form(end) else ACROSS)[100 if end % 1000 else 1000]
        starts += [
            end - 1 - int(uniform() * (NUMBERS - 1)) for _ in range(texts)
        ]  # end - 1 and end are both in
    starts = [aside(start, bands) for start in starts]
    left = size - sum(map(characters, starts))

    def draw_low():
        return aside(int(LOW ** uniform()), bands)

    while left > 2 * characters(LOW - 1):
        starts.append(draw_low())
        left -= characters(starts[-1])
    allowed = [start for start in range(1, LOW) if start == aside(start, bands)]
    fitting = []
    while not fitting:  # one more as it comes, and one that fits
        start = draw_low()
        fitting = [s for s in allowed if 0 <= left - characters(start) - characters(s) <= 9]
    return [*starts, start, fitting[0]]


def draw(seed=SEED):
    """First numbers of all texts: (training, validation, test)."""
    uniform = random.Random(seed).random
    validation_bands, test_bands = draw_bands(uniform)
    validation = draw_inside(validation_bands, VALIDATION, uniform)
    test = draw_inside(test_bands, TEST, uniform)
    size = 9 * sum(
        map(characters, validation)
    )  # of training: floor(0.9 * all) is then where it ends
    training = draw_training(validation_bands + test_bands, size, uniform)
    return shuffled(training, uniform), shuffled(validation, uniform), test


# ----------------------------------------------------------------------------------------------------
# Files


def exercise(start, length=NUMBERS - PROMPT, stride=1):
    """A prompt of three numbers and the `length` that follow, as counting_test.json holds them. Raises ValueError."""
    answer = count(start + PROMPT * stride, length, stride)
    return {"start": start, "prompt": count(start, PROMPT, stride), "answer": answer}


def compose(starts):
    """The text: a line for each first number."""
    return "".join(count(start) + "\n" for start in starts)


def write_atomically(path, text):
    """The file is either the old one or the complete new one, never half of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_files(seed, out):
    """Write the text and beside it the test."""
    training, validation, test = draw(seed)
    text = compose(training + validation)
    beside = out.with_name(out.stem + "_test.json")
    write_atomically(out, text)
    write_atomically(beside, json.dumps([exercise(start) for start in test], indent=1) + "\n")
    print(
        f"{out}: {len(training)} texts for training, then {len(validation)} for validation, {len(text):,} characters"
    )
    print(f"{beside}: {len(test)} prompts and answers")


class Arguments(argparse.ArgumentParser):
    """Reports bad arguments in one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments=None):
    parser = Arguments(
        prog="counting.py", description="Write a text that counts, and a test of counting on."
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=ROOT / "counting.txt", metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        write_files(options.seed, options.out)
    except OSError as error:
        return f"{error.filename or options.out}: {error.strerror}"
    return None


if __name__ == "__main__":
    problem = main()
    if problem:
        print(f"counting.py: {problem}", file=sys.stderr)
        sys.exit(2)
