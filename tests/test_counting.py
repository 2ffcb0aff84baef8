"""Counting: the text is what it says it is, held-out numbers stay out of training, and answers are scored rightly."""

import hashlib
import importlib
import importlib.util
import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from num2words import num2words

ROOT = Path(__file__).resolve().parent.parent
SHA256 = "7b5403b6e0826705b5fcc5ccd8dea27605ac4f6fd1cd344bbdb47fcd789feefd"


def load(folder):
    """The module counting.py of a folder; two have this name, so neither can be imported by it."""
    spec = importlib.util.spec_from_file_location(
        f"{folder}_counting", ROOT / folder / "counting.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker, benchmark = load("data"), load("benchmarks")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    assert (
        maker.count(1001, 3, -1) == "one thousand and one one thousand nine hundred and ninety nine"
    )
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
        assert {sum(start // 10_000 == i for start in held_out) for i in range(10)} == {
            len(held_out) // 10
        }
    neighbours = [abs(a - b) for a, b in zip(training, training[1:], strict=False)]
    assert (
        sum(neighbours) / len(neighbours) > 25_000
    )  # shuffled: a sorted text would learn its end last


def test_training_misses_nothing_else(starts):
    training, validation, test = starts
    seen, held_out = numbers(training), numbers(validation + test)
    missed = set(range(1, 100_001)) - seen
    bands = [number for number in missed if number - 1 not in missed]
    assert len(bands) == 30 and missed == {low + i for low in bands for i in range(100)}
    assert held_out <= missed
    for low in bands:  # a band belongs to one of the two
        assert (
            len(
                {
                    name
                    for name, split in (("v", validation), ("t", test))
                    for s in split
                    if low <= s < low + 100
                }
            )
            == 1
        )


def test_every_step_that_is_like_no_other_is_trained(starts):
    pairs = {(number - 1, number) for start in starts[0] for number in range(start + 1, start + 50)}
    ends = [end for end in range(1000, 100_001, 1000) if (end - 1, end) not in pairs]
    assert len(ends) < 10
    assert all(end // 1000 > 20 and end // 1000 % 10 for end in ends)
    assert {(number - 1, number) for number in range(2, 1500)} <= pairs


def test_steps_with_a_form_of_their_own_are_trained_more(starts):
    """The step to "thirty one thousand" brings a word in, which happens at ten ends of 100."""
    seen = Counter(
        number
        for start in starts[0]
        for number in range(start + 1, start + 50)
        if number % 1000 == 0
    )
    usual = [seen[end] for end in range(22_000, 100_000, 1000) if end % 10_000 > 1000]
    assert 5 <= sorted(usual)[len(usual) // 2] <= 10
    assert (
        sorted(seen[end] for end in range(11_000, 100_000, 10_000))[1] > 12
    )  # one may lie in a band's way


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
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "counting.txt",
        "counting_test.json",
    ]
    test = (tmp_path / "counting_test.json").read_bytes()
    assert hashlib.sha256(out.read_bytes() + test).hexdigest() == SHA256
    lines = out.read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    training, validation, tested = maker.draw()
    assert lines == [
        " ".join(maker.words(start + i) for i in range(50)) for start in training + validation
    ]
    assert [maker.exercise(start) for start in tested] == json.loads(test)


def test_the_test_asks_for_47_of_50_numbers():
    for start in (7, 38_990):
        exercise = maker.exercise(start)
        assert exercise["prompt"] == " ".join(maker.words(start + i) for i in range(3))
        assert exercise["answer"] == " ".join(maker.words(start + i) for i in range(3, 50))
    assert maker.exercise(13, 2, -3) == {
        "start": 13,
        "prompt": "thirteen ten seven",
        "answer": "four one",
    }


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


# --- scoring


def ask(*starts, numbers=5, stride=1):
    return benchmark.make_exercises(None, list(starts), numbers, stride)


def test_right_answers_score_fully():
    exercises = benchmark.make_exercises(None, [1, 18, 960, 19_960, 38_980, 99_960], 47, 1)
    assert [len(e["answer"].split()) for e in exercises] == [
        len(" ".join(e["numbers"][:47]).split()) for e in exercises
    ]
    for goes_on in ("", "\nsix", " sixty"):
        figures = benchmark.score(
            exercises, [" " + e["answer"] + goes_on for e in exercises[:1]] + texts(exercises[1:])
        )
        assert (figures["exact"], figures["texts"], figures["correct"]) == (6, 6, [47] * 6)
        assert figures["wer"] == 0 and figures["errors"] == []


def texts(exercises):
    """Right continuations that go on, as a model's do."""
    return [" " + " ".join(exercise["numbers"]) for exercise in exercises]


@pytest.mark.parametrize(
    "text, correct, exact, wer",
    [  # the answer: twelve thirteen fourteen fifteen sixteen
        (" twelve thirteen fourteen fifteen sixteen", 5, 1, 0.0),
        (
            " twelve thirteen fourteen fifteen sixteen sixteen",
            5,
            1,
            0.0,
        ),  # what comes later was not asked
        ("  twelve thirteen fourteen fifteen sixteen", 5, 0, 0.0),  # one space between all words
        ("twelve thirteen fourteen fifteen sixteen", 5, 0, 0.0),
        (
            " twelve thirteen fourteen fifteen seventeen",
            4,
            0,
            0.2,
        ),  # one word of five put in another's place
        (" eleven twelve thirteen fourteen fifteen", 0, 0, 0.4),  # one added, one dropped
        (" twelve thirteen fifteen sixteen seventeen", 2, 0, 0.4),
        (" twelve thirteen", 2, 0, 0.6),  # three dropped
        (" twelve thirteen\n fourteen fifteen sixteen", 2, 0, 0.6),
        ("", 0, 0, 1.0),
        (" twelve thirteen fourteen hundred sixteen", 2, 0, 0.2),  # 1,400 is not 14
        (" twelve thirteen fourteen fifteen sixteen thousand", 4, 0, 0.0),
        (" a b c d e", 0, 0, 1.0),
    ],
)
def test_wrong_answers(text, correct, exact, wer):
    figures = benchmark.score(ask(9), [text])
    assert (figures["correct"], figures["exact"], figures["numbers"]) == ([correct], exact, 5)
    assert figures["wer"] == pytest.approx(wer)
    assert len(figures["errors"]) == (correct < 5)


def test_a_number_that_goes_on_is_another_number():
    for start, text, correct in (
        (16, " nineteen twenty one", 1),  # 19 21
        (16, " nineteen twenty twenty one", 3),
        (996, " nine hundred and ninety nine one thousand and one", 1),
        (98, " one hundred and one one hundred and two one hundred and three", 3),
        (97, " one hundred one hundred and one", 2),
        (
            99_997,
            " one hundred thousand one hundred thousand and one one hundred thousand and two",
            3,
        ),
        (19_996, " nineteen thousand nine hundred and ninety nine nineteen thousand", 1),
        (37, " forty fifty one", 1),  # 40 51: 40 was right
        (37, " forty one", 0),
    ):
        exercises = ask(start, numbers=3)
        assert benchmark.score(exercises, [text])["correct"] == [correct], text
    figures = benchmark.score(ask(985), [" nine hundred and eighty nine and so on"])
    assert figures["errors"] == [
        (985, 1, "nine hundred and eighty eight", "nine hundred and eighty nine and")
    ]


def test_other_strides():
    assert ask(5, numbers=2, stride=-1)[0]["numbers"] == ["two", "one", "zero"]
    assert (
        ask(10, numbers=2, stride=100)[0]["answer"] == "three hundred and ten four hundred and ten"
    )
    with pytest.raises(benchmark.Problem, match="999,999"):
        ask(5, stride=-1)


def edits(a, b):
    """The fewest words to substitute, drop and add to make b of a, by the textbook's table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def test_word_error_rate_of_several_texts():
    """All edits over all words: longer answers weigh more than shorter ones."""
    rng, exercises = random.Random(0), ask(1, 20, 995, 54_321)
    for _ in range(20):
        said = [e["answer"].split() for e in exercises]
        for words in said:
            for _ in range(rng.randrange(6)):
                words[rng.randrange(len(words))] = rng.choice(("one", "and", "six seven"))
        wanted = [e["answer"].split() for e in exercises]
        cut = [" ".join(words).split()[: len(w)] for words, w in zip(said, wanted, strict=True)]
        rate = sum(map(edits, wanted, cut)) / sum(map(len, wanted))
        assert benchmark.score(exercises, [" " + " ".join(words) for words in said])[
            "wer"
        ] == pytest.approx(rate)


# --- models


class Reciter(nn.Module):
    """Stands in for a model: knows texts (lists of ids) by heart, and after any window of one says what follows it."""

    def __init__(self, texts, vocab_size):
        super().__init__()
        self.weight, self.vocab_size = nn.Parameter(torch.zeros(1)), vocab_size
        self.texts = [bytes(ids) + bytes(100) for ids in texts]

    def forward(self, idx, targets=None):
        after = []
        for window in map(bytes, idx.tolist()):
            text = next(text for text in self.texts if window in text)
            after.append(text[text.index(window) + len(window)])
        return F.one_hot(torch.tensor(after), self.vocab_size)[:, None].float(), None


def recite(exercises, texts, block_size=160):
    """What a model writes that continues the prompts with these texts, byte by byte."""
    version = importlib.import_module("v2_bpe_rope")
    tokenizer = version.BPETokenizer()
    known = [tokenizer.encode(e["prompt"] + text) for e, text in zip(exercises, texts, strict=True)]
    run = version.Run(
        None,
        version.Config(block_size=block_size),
        tokenizer,
        Reciter(known, tokenizer.vocab_size),
        1,
    )
    return benchmark.write_on(version, run, exercises)


def test_a_model_that_knows_the_answers_scores_fully_and_one_that_errs_once_does_not():
    exercises = ask(
        981, 12_345, 991, 54_321, 99_995, numbers=7
    )  # two prompts of one length, others between
    figures = benchmark.score(exercises, recite(exercises, texts(exercises)))
    assert (figures["exact"], figures["correct"], figures["wer"]) == (5, [7] * 5, 0)
    answers = texts(exercises)
    answers[3] = answers[3].replace("twenty seven", "twenty eight", 1)
    figures = benchmark.score(exercises, recite(exercises, answers))
    assert (figures["exact"], figures["correct"]) == (4, [7, 7, 7, 3, 7])
    assert figures["wer"] == pytest.approx(1 / sum(len(e["answer"].split()) for e in exercises))
    assert figures["errors"][0][:3] == (54_321, 4, maker.words(54_327))


@pytest.fixture(scope="module", params=["v1_transformer", "v3_alibi", "v5_ngpt"])
def untrained(request, tmp_path_factory):
    """The folder of a run of one step, of a small model."""
    folder = tmp_path_factory.mktemp("untrained")
    (folder / "text.txt").write_text(
        "".join(maker.count(i) + "\n" for i in (1, 990, 30_000)), encoding="utf-8"
    )
    version = importlib.import_module(request.param)
    sizes = dict(
        n_layer=2,
        n_head=2,
        n_embd=32,
        block_size=40,
        batch_size=4,
        max_steps=1,
        evals=1,
        device="cpu",
    )
    if version.NAME != "v1_transformer":
        sizes["vocab_size"] = 280
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return version.train(version.Config(data="text.txt", out=str(folder / "run"), **sizes))


def test_prompts_continued_together_and_one_by_one_are_the_same(untrained):
    exercises = ask(7, 20, 995, 30_001, 30_017, 31_000, numbers=2)
    version, run = benchmark.open_run(untrained)
    written = benchmark.write_on(version, run, exercises)
    for exercise, text in zip(exercises, written, strict=True):
        n = len(run.tokenizer.encode(" " + " ".join(exercise["numbers"])))
        cfg = replace(run.cfg, prompt=exercise["prompt"], max_new_tokens=n, temperature=0.0)
        assert text == version.print_sample(run._replace(cfg=cfg)).removeprefix(exercise["prompt"])


def test_scoring_a_run_from_the_command_line(untrained, tmp_path, capsys):
    test = tmp_path / "test.json"
    test.write_text(json.dumps([maker.exercise(start) for start in (30_001, 5)]), encoding="utf-8")
    assert benchmark.main([str(untrained), "--test", str(test), "--numbers", "3"]) == 0
    shown = capsys.readouterr().out
    assert (
        "2 prompts, 3 numbers each" in shown
        and "0 of 2" in shown
        and "from 30001: number 1" in shown
    )


def test_a_model_that_lacks_a_letter():
    version = importlib.import_module("v1_transformer")
    run = version.Run("runs/x", version.Config(), version.CharTokenizer("one two"), None, 1)
    with pytest.raises(benchmark.Problem, match="runs/x: not in the training text"):
        benchmark.write_on(version, run, ask(1))


def test_training_and_scoring_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(maker.count(1) + "\n" + maker.count(50), encoding="utf-8")
    spec = "v1 --max-steps 2 --n-layer 1 --n-embd 8 --n-head 2 --block-size 16"
    arguments = [
        "--train",
        spec,
        "--data",
        "text.txt",
        "--starts",
        "5",
        "60",
        "--numbers",
        "2",
        "--seeds",
        "4",
    ]
    assert benchmark.main([*arguments, "--out", "runs"]) == 0
    shown = capsys.readouterr().out
    assert f"| `{spec}` | 0 | 0.0 | " in shown
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.name != "cache")
    assert json.loads((folder / "config.json").read_bytes())["seed"] == 4


def test_bad_requests_end_in_one_line(tmp_path, capsys):
    for name, config in (
        ("empty", None),
        ("v0", '{"version": "v0_bigram"}'),
        ("evil", '{"version": "os"}'),
    ):
        (tmp_path / name).mkdir()
        if config:
            (tmp_path / name / "config.json").write_text(config)
    for arguments, complaint in (
        ([tmp_path / "empty", "--starts", "5"], "holds no run"),
        ([tmp_path / "v0", "--starts", "5"], "v1 and later"),
        ([tmp_path / "evil", "--starts", "5"], "v1 and later"),
        ([tmp_path / "v0", "--test", tmp_path / "none.json"], "data/counting.py writes it"),
        ([tmp_path / "v0", "--test", tmp_path / "v0" / "config.json"], "not a test"),
        ([tmp_path / "v0", "--starts", "3", "--stride", "-1"], "999,999"),
        (["--train", "v9"], "--train v9"),
        (["--train", ""], "--train"),
        ([tmp_path / "v0", "--numbers", "0"], "--numbers"),
        ([], "run folder"),
    ):
        try:
            status = benchmark.main([str(argument) for argument in arguments])
        except SystemExit as left:
            status = left.code
        error = capsys.readouterr().err
        assert status == 2 and complaint in error and len(error.splitlines()) == 1, arguments
