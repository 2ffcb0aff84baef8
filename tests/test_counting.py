"""Counting: the text is what it says it is, held-out numbers stay out of training, and answers are scored rightly."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from num2words import num2words

ROOT = Path(__file__).resolve().parent.parent
SHA256 = "8308e51d6870045ce40c31e9c679273dcf3d88ee8612b6aac2c9807a5cfaebc5"  # of the two files, one after the other


def load(folder):
    """The module counting.py of a folder; two have this name, so neither can be imported by it."""
    spec = importlib.util.spec_from_file_location(f"{folder}_counting", ROOT / folder / "counting.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = load("data")


@pytest.fixture(scope="module", params=[maker.SEED, 2, 3])
def starts(request):
    return maker.draw(request.param)


def numbers(starts):
    """All numbers that the texts from these starts hold."""
    return {number for start in starts for number in range(start, start + 50)}


def command(*arguments):
    call = [sys.executable, str(ROOT / "data" / "counting.py"), *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, timeout=60)


# --- words


def test_every_number_as_num2words_says_it():
    for number in [*range(100_101), *range(100_101, 1_000_000, 7919), 999_999]:
        said = num2words(number, lang="en_GB").replace(",", "").replace("-", " ")
        assert maker.words(number) == said


def test_known_numbers():
    assert maker.words(79_139) == "seventy nine thousand one hundred and thirty nine"
    assert maker.words(20_005) == "twenty thousand and five"
    assert maker.words(100_100) == "one hundred thousand one hundred"
    for number in (-1, 1_000_000):
        with pytest.raises(ValueError, match="999,999"):
            maker.words(number)


def test_counting_up_down_and_in_steps():
    assert maker.count(9, 4) == "nine ten eleven twelve"
    assert maker.count(1001, 3, -1) == "one thousand and one one thousand nine hundred and ninety nine"
    assert maker.count(95, 3, 5) == "ninety five one hundred one hundred and five"
    for start in (1, 98, 999, 19_980, 99_990):
        assert maker.characters(start) == len(maker.count(start) + "\n")


# --- which numbers


def test_no_training_text_enters_a_band(starts):
    training, validation, test = map(numbers, starts)
    assert not training & validation
    assert not training & test
    assert not validation & test
    assert min(validation | test) > 2000


def test_sizes_and_variety(starts):
    training, validation, test = starts
    assert (len(validation), len(test)) == (500, 50)
    assert len(set(validation)) == 500 and len(set(test)) == 50
    assert 4500 < len(training) < 5500
    assert 1 <= min(training) and max(training) <= 100_000
    for held_out in (validation, test):  # as many in every ten thousand
        assert {sum(start // 10_000 == i for start in held_out) for i in range(10)} == {len(held_out) // 10}
    neighbours = [abs(a - b) for a, b in zip(training, training[1:], strict=False)]
    assert sum(neighbours) / len(neighbours) > 25_000  # shuffled: a sorted text would learn its end last


def test_training_misses_nothing_else(starts):
    training, validation, test = starts
    seen, held_out = numbers(training), numbers(validation + test)
    missed = set(range(1, 100_001)) - seen
    bands = [number for number in missed if number - 1 not in missed]
    assert len(bands) == 30 and missed == {low + i for low in bands for i in range(100)}
    assert held_out <= missed
    for low in bands:  # a band belongs to one of the two
        assert (
            len({name for name, split in (("v", validation), ("t", test)) for s in split if low <= s < low + 100}) == 1
        )


def test_every_step_that_is_like_no_other_is_trained(starts):
    pairs = {(number - 1, number) for start in starts[0] for number in range(start + 1, start + 50)}
    ends = [end for end in range(1000, 100_001, 1000) if (end - 1, end) not in pairs]
    assert len(ends) < 10
    assert all(end // 1000 > 20 and end // 1000 % 10 for end in ends)
    assert {(number - 1, number) for number in range(2, 1500)} <= pairs


# --- files


def test_the_splits_meet_between_two_texts(starts):
    training, validation, _ = starts
    text = maker.compose(training + validation)
    border = len(text) * 9 // 10  # as the versions cut
    assert text[:border] == maker.compose(training)
    assert text[border:] == maker.compose(validation)


def test_command_line_writes_the_same_files_every_time(tmp_path):
    out = tmp_path / "counting.txt"
    done = command("--out", out)
    assert done.returncode == 0 and "500 for validation" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counting.txt", "counting_test.json"]
    test = (tmp_path / "counting_test.json").read_bytes()
    assert hashlib.sha256(out.read_bytes() + test).hexdigest() == SHA256
    lines = out.read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    training, validation, tested = maker.draw()
    assert lines == [" ".join(maker.words(start + i) for i in range(50)) for start in training + validation]
    assert [maker.exercise(start) for start in tested] == json.loads(test)


def test_the_test_asks_for_47_of_50_numbers():
    for start in (7, 38_990):
        exercise = maker.exercise(start)
        assert exercise["prompt"] == " ".join(maker.words(start + i) for i in range(3))
        assert exercise["answer"] == " ".join(maker.words(start + i) for i in range(3, 50))
    assert maker.exercise(13, 2, -3) == {"start": 13, "prompt": "thirteen ten seven", "answer": "four one"}


def test_command_line_errors(tmp_path):
    for arguments, complaint in (
        (("--out", tmp_path / "no" / "such" / "folder.txt"), "No such file"),
        (("--seed", "many"), "--seed"),
        (("--nonsense",), "--nonsense"),
    ):
        result = command(*arguments)
        assert result.returncode == 2, arguments
        assert complaint in result.stderr
        assert len(result.stderr.splitlines()) == 1 and result.stdout == ""
