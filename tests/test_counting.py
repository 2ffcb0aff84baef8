"""data/counting.py keeps held-out numbers out of training; benchmarks/counting.py scores rightly."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import load_version, versions
from num2words import num2words
from small_models import make_config

ROOT = Path(__file__).resolve().parent.parent
SHA256 = "7b5403b6e0826705b5fcc5ccd8dea27605ac4f6fd1cd344bbdb47fcd789feefd"

# Two files have the name counting.py, so the benchmark loads the other by its path, as is done here.
spec = importlib.util.spec_from_file_location("benchmark", ROOT / "benchmarks" / "counting.py")
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)
maker = benchmark.maker


def numbers(starts):
    return [number for start in starts for number in range(start, start + 50)]


def test_words_against_num2words():
    for number in [*range(100_101), *range(100_101, 1_000_000, 7919), 999_999]:
        said = num2words(number, lang="en_GB").replace(",", "").replace("-", " ")
        assert maker.words(number) == said
    for number in (-1, 1_000_000):
        with pytest.raises(ValueError, match="999,999"):
            maker.words(number)


@pytest.mark.parametrize("seed", (1, 2))
def test_which_numbers_are_where(seed):
    training, validation, test = maker.draw(seed)
    missed = set(range(1, 100_001)) - set(numbers(training))
    bands = [number for number in missed if number - 1 not in missed]
    assert missed == {low + i for low in bands for i in range(100)} and min(missed) > 2000
    assert not set(numbers(validation)) & set(numbers(test))
    for starts, size, n in ((validation, 500, 20), (test, 50, 10)):
        assert len(set(starts)) == len(starts) == size and missed.issuperset(numbers(starts))
        assert len({low for low in bands for start in starts if low <= start < low + 100}) == n
        assert set(Counter(start // 10_000 for start in starts).values()) == {size // 10}
    assert training != sorted(training)  # which would teach the end last
    steps = Counter(number for start in training for number in range(start + 1, start + 50))
    for end in range(1000, 100_001, 1000):  # a step that is not trained has others like it
        assert steps[end] or end // 1000 > 20 and end // 1000 % 10


def test_the_files(tmp_path):
    call = [sys.executable, str(ROOT / "data" / "counting.py"), "--out"]
    assert subprocess.run([*call, str(tmp_path / "c.txt")], capture_output=True).returncode == 0
    text, test = (tmp_path / "c.txt").read_bytes(), (tmp_path / "c_test.json").read_bytes()
    assert hashlib.sha256(text + test).hexdigest() == SHA256
    training, validation, tested = maker.draw()
    lines = [" ".join(map(maker.words, range(n, n + 50))) + "\n" for n in training + validation]
    assert text.decode() == "".join(lines)
    border = len(text) * 9 // 10  # where the versions split it
    assert text[border:].decode() == "".join(lines[len(training) :])
    for start, exercise in zip(tested, json.loads(test), strict=True):
        said = [maker.words(number) for number in range(start, start + 50)]
        assert [*exercise.values()] == [start, " ".join(said[:3]), " ".join(said[3:])]
    done = subprocess.run([*call, str(tmp_path / "no" / "c.txt")], capture_output=True, text=True)
    assert done.returncode == 2 and "c.txt: No such file" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "start, text, correct, wer",
    (  # after 2 3 4: five six seven eight nine; and ten, which shows where nine ends
        (2, " five six seven eight nine ten", 5, 0),
        (2, " five six seven eight nine ten\nthree", 5, 0),
        (2, " five six seven eight nine thousand", 4, 0),
        (2, "five six seven eight nine ten", 0, 0),  # the space is missing
        (2, " five six eight nine ten", 1, 0.4),  # one dropped, one added
        (2, " five six\n seven eight nine ten", 1, 0.6),
        (2, "", 0, 1),
        (17, " twenty one twenty two", 0, 5 / 9),  # 21 is not 20
        (97, " one hundred one hundred and one one hundred and two", 2, 8 / 18),
    ),
)
def test_scores_by_hand(start, text, correct, wer):
    figures = benchmark.score(benchmark.make_exercises([start], 5, 1), [text])
    assert (figures["correct"], figures["exact"]) == ([correct], correct == 5)
    assert len(figures["errors"]) == (correct < 5)
    assert figures["wer"] == pytest.approx(wer)


def test_a_model_that_errs_once():
    exercises = benchmark.make_exercises([981, 12_345, 991, 54_321, 99_995], 7, 1)
    texts = [f"{e['prompt']} {' '.join(e['numbers'])}{99 * '.'}" for e in exercises]
    v1 = load_version(1)
    tokenizer, model = v1.CharTokenizer("".join(texts)), torch.nn.Linear(1, 1)
    run = v1.Run("runs/x", v1.Config(block_size=160), tokenizer, model, 1)

    def generate(model, idx, n, block_size, temperature):
        """After each window come the next n characters of the text that holds it."""
        windows = map(tokenizer.decode, idx.tolist())
        after = [next(t.split(w, 1)[1][:n] for t in texts if w in t) for w in windows]
        return torch.tensor([tokenizer.encode(text) for text in after]).T

    version = SimpleNamespace(generate=generate, UserError=v1.UserError)
    for correct in ([7] * 5, [7, 7, 7, 3, 7]):
        figures = benchmark.score(exercises, benchmark.continue_prompts(version, run, exercises))
        wrong, words = correct.count(3), sum(len(e["answer"].split()) for e in exercises)
        assert (figures["correct"], figures["exact"]) == (correct, 5 - wrong)
        assert figures["wer"] == pytest.approx(wrong / words)  # of all texts together
        texts[3] = texts[3].replace("twenty seven", "twenty eight")
    said = "fifty four thousand three hundred and twenty"
    error = f"from 54321, number 4: expected '{said} seven', written '{said} eight fifty'"
    assert figures["errors"] == [error]
    with pytest.raises(SystemExit, match="runs/x: not in the training text"):
        benchmark.continue_prompts(version, run, [{"prompt": "?"}])


@versions(1, 5)
def test_scoring_a_run(version, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("".join(maker.count(i) + "\n" for i in (1, 990, 30_000)))
    Path("test.json").write_text(json.dumps([maker.exercise(start) for start in (7, 30_001)]))
    settings = dict(data="text.txt", out="run", block_size=40, max_steps=1, vocab_size=280)
    run = version.load_run(version.train(make_config(version, **settings)))
    exercises = benchmark.make_exercises([7, 20, 30_001, 30_017], 2, -1)
    assert exercises[0]["prompt"] == "seven six five" and exercises[0]["answer"] == "four three"
    together = benchmark.continue_prompts(version, run, exercises)
    for exercise, text in zip(exercises, together, strict=True):
        n = len(run.tokenizer.encode(" " + " ".join(exercise["numbers"])))
        alone = replace(run.cfg, prompt=exercise["prompt"], max_new_tokens=n, temperature=0.0)
        assert exercise["prompt"] + text == version.print_sample(run._replace(cfg=alone))
    flags = "run --test test.json --numbers 3 --out figures.json".split()
    monkeypatch.setattr(sys, "argv", ["counting.py", *flags])
    capsys.readouterr()
    benchmark.main()
    shown = capsys.readouterr().out
    assert "| 0 of 2 | mean 0.00, least 0, of 3 |" in shown and "from 30001, number 1" in shown
    table = json.loads(Path("figures.json").read_text(encoding="utf-8"))["tables"][0]
    assert table[1][:2] == ["0 of 2", "mean 0.00, least 0, of 3"]


def test_bad_requests_end_in_a_message(tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text('{"version": "v0_bigram"}')
    for run, flags, complaint in (
        ("none", "--starts 5", "none: not the folder of a run"),
        (tmp_path, "--starts 5", "only v1 and later"),
        (tmp_path, "--test none.json", "python data/counting.py writes it"),
        (tmp_path, f"--test {tmp_path}/config.json", "not a test"),
        (tmp_path, "--starts 3 --stride -1", "999,999"),
        (tmp_path, "--numbers 0", "--numbers"),
    ):
        monkeypatch.setattr(sys, "argv", ["counting.py", str(run), *flags.split()])
        with pytest.raises(SystemExit) as stop:
            benchmark.main()
        assert complaint in f"{stop.value}{capsys.readouterr().err}"
