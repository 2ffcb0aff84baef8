"""The story corpus: what is written can be read back, and its entropy is what the JSON file says."""

import json
import math
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data"))

import stories  # noqa: E402


@pytest.fixture(scope="module")
def text():
    return (ROOT / "input.txt").read_bytes().decode()


@pytest.fixture(scope="module")
def facts():
    return json.loads((ROOT / "input.txt.json").read_text())


@pytest.fixture(scope="module")
def small():
    """A Writer that has written a few stories under another seed, checking every set of alternatives."""
    return stories.write_corpus(seed=11, stories=15)


@pytest.fixture(scope="module")
def written():
    return stories.write_corpus()


def command(*arguments):
    call = [sys.executable, str(ROOT / "data" / "stories.py"), *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, timeout=60)


def test_regenerates_byte_for_byte(text, facts, written):
    assert written.text() == text
    assert stories.describe(text, written, stories.STORIES, stories.SEED) == facts
    assert (ROOT / "input.txt.json").read_bytes() == (json.dumps(facts, indent=2) + "\n").encode()


def test_the_whole_file_parses_to_the_same_choices(text, facts, written):
    reader, count = stories.read_corpus(text)
    assert count == facts["stories"]
    assert reader.steps == written.steps
    assert reader.recalls == written.recalls
    floor = stories.floor_bits_per_byte(text, reader.steps)
    assert floor == pytest.approx(facts["floor_bits_per_byte"], abs=1e-6)


def test_floor_is_the_sum_of_the_choices_in_each_split(text, facts, written):
    border = len(text) * 9 // 10
    assert facts["train_characters"] == border
    late = sum(step.bits for step in written.steps if step.offset >= border)
    size = len(text[border:].encode())
    assert facts["floor_bits_per_byte"]["validation"] == pytest.approx(late / size, abs=1e-6)
    assert facts["bytes"] == len(text.encode())
    assert facts["characters"] == len(text)


def test_window_cost_falls_as_the_window_grows(facts):
    costs = list(facts["window_cost_bits_per_byte"].values())
    assert list(facts["window_cost_bits_per_byte"]) == ["64", "128", "256", "512", "1024", "2048"]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 0.25 * facts["floor_bits_per_byte"]["validation"]
    assert costs[0] > 2 * costs[3] > 0


def test_window_cost_of_a_hand_made_story():
    """A name of known price returns at known distances."""
    pen = stories.Writer(0)
    story = stories.Story(pen)
    story.items["hero"] = stories.Item("Zoë", 5.0, seen=0)
    pen.emit("x" * 100)
    story.follow(stories.parse_template("{hero} ... {hero}"))
    assert [(r.distance, r.bits) for r in pen.recalls] == [(100, 5.0), (5, 5.0)]
    text = "y" * 900 + "x" * 100
    late = [recall._replace(offset=950) for recall in pen.recalls]
    cost = stories.window_cost_bits_per_byte(text, late)
    assert cost["64"] == pytest.approx(5.0 / 100) and cost["128"] == 0


class Scripted(stories.Writer):
    """Takes prescribed alternatives, then the first ones, and notes how many there were at each choice."""

    def __init__(self, script):
        super().__init__(0)
        self.script = list(script)
        self.sizes = []

    def pick(self, choice):
        place = len(self.sizes)
        self.sizes.append(len(choice.literals))
        return self.script[place] if place < len(self.script) else 0


def every_outcome(write):
    """All texts of a small grammar with their probabilities, by trying every script."""
    outcomes, pending = [], [()]
    while pending:
        script = pending.pop()
        pen = Scripted(script)
        write(pen)
        outcomes.append((pen.text(), 2.0 ** -sum(step.bits for step in pen.steps)))
        path = list(script) + [0] * (len(pen.sizes) - len(script))
        for place in range(len(script), len(path)):
            pending += [(*path[:place], other) for other in range(1, pen.sizes[place])]
    return outcomes


@pytest.mark.parametrize(
    "template",
    [
        "[weekday] (yes|no) [few].",
        "[A:fruit] and (an egg|an egg whisk).",
        "A [colour] [weekday=day], {day}, (hot|cold[season]).",
        '"[proverb_like]," she said.',
    ],
)
def test_small_grammars_are_normalised_and_unambiguous(template, monkeypatch):
    lines = ["Never on [weekday]", "Always [few] times", "In [season] only"]
    monkeypatch.setitem(stories.GROUPS, "proverb_like", lines)

    def write(pen):
        stories.Story(pen).follow(stories.parse_template(template))

    outcomes = every_outcome(write)
    assert len(outcomes) > 10
    assert math.fsum(probability for _, probability in outcomes) == pytest.approx(1.0, abs=1e-9)
    texts = [outcome for outcome, _ in outcomes]
    assert len(set(texts)) == len(texts)
    assert stories.prefix_clash(tuple(texts)) is None


def test_mean_surprise_equals_mean_entropy():
    """bits - entropy has mean zero at each choice, given the past: a martingale, so its sum over a story has
    mean zero too. Over independent stories the mean lies within 4 standard errors (one chance in 15,000)."""
    gaps = []
    for seed in range(1000, 1150):
        pen = stories.Writer(seed)
        stories.write_story(pen)
        gaps.append(math.fsum(step.bits - step.entropy for step in pen.steps))
    error = statistics.stdev(gaps) / math.sqrt(len(gaps))
    assert abs(statistics.mean(gaps)) < 4 * error
    assert error < 4  # the test would notice one percent of a story's bits or so


def test_draws_follow_the_weights():
    choice = stories.Choice(("a", "b", "c"), (1.0, 2.0, 5.0))
    drawn = [choice.draw((index + 0.5) / 8000) for index in range(8000)]
    assert [drawn.count(index) for index in range(3)] == [1000, 2000, 5000]
    assert choice.bits == pytest.approx([3.0, 2.0, math.log2(8 / 5)])
    assert choice.entropy == pytest.approx(1 / 8 * 3 + 2 / 8 * 2 + 5 / 8 * math.log2(8 / 5))


def test_alternatives_that_begin_one_another_are_refused():
    with pytest.raises(ValueError, match="begins another"):
        stories.Choice(("egg", "egg whisk"), (1.0, 1.0))
    with pytest.raises(ValueError, match="begins another"):
        stories.Choice(("egg", "egg"), (1.0, 1.0))


def test_every_set_met_is_prefix_free(monkeypatch):
    """Independently of the program's own check, and without its sorting."""
    met = []
    choose = stories.Pen.choose

    def noting(pen, literals, weights):
        met.append(tuple(literals))
        return choose(pen, literals, weights)

    monkeypatch.setattr(stories.Pen, "choose", noting)
    stories.write_corpus(seed=12, stories=12)
    assert len(met) > 500
    for literals in set(met):
        for short in literals:
            assert sum(long.startswith(short) for long in literals) == 1


def replaced(text, old, new):
    assert old in text
    return text.replace(old, new, 1)


def test_a_changed_letter_is_noticed(small):
    """At twenty places: the text no longer parses, or it parses at another price."""
    text = small.text()
    price = math.fsum(step.bits for step in small.steps)
    letters = [match.start() for match in re.finditer(r"[a-z]", text)]
    for place in letters[:: len(letters) // 20]:
        letter = "e" if text[place] != "e" else "o"
        try:
            steps = stories.parse(text[:place] + letter + text[place + 1 :])
        except stories.ParseError as error:
            assert 0 <= error.offset <= len(text)
        else:
            assert math.fsum(step.bits for step in steps) != price


def test_an_inconsistent_name_does_not_parse(small):
    """The hero of the last line cannot be somebody else."""
    text = small.text()
    hero = next(name for name in stories.GENDER if text.count(name) > 5)
    place = text.index(hero, text.index(hero) + 1)
    other = "Wilma" if hero != "Wilma" else "Greta"
    with pytest.raises(stories.ParseError):
        stories.parse(text[:place] + other + text[place + len(hero) :])


def test_forced_text_and_choices_cover_the_text(small):
    """Choices are in order, do not overlap and say what stands in the text."""
    text, end = small.text(), 0
    for offset, literal, bits, entropy in stories.parse(text):
        assert offset >= end and text.startswith(literal, offset)
        assert bits > 0 and entropy > 0
        end = offset + len(literal)


NUMBER = "(" + "|".join(sorted(stories.NUMBERS, key=len, reverse=True)) + ")"


def values(words):
    tens = "twenty thirty forty fifty sixty seventy eighty ninety".split()
    ones = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
        sixteen seventeen eighteen nineteen""".split()
    return [
        sum(
            ones.index(part) if part in ones else 20 + 10 * tens.index(part)
            for part in word.lower().split("-")
        )
        for word in words
    ]


def test_sums_add_up(text):
    found = [
        values(match)
        for match in re.findall(rf"\b([\w-]+) and {NUMBER},? (?:is|which makes) {NUMBER}\b", text)
    ]
    assert len(found) > 20
    assert all(a + b == c for a, b, c in found)


def test_products_and_remainders_are_right(text):
    found = [values(m) for m in re.findall(rf"\b([\w-]+) times {NUMBER} is {NUMBER}\b", text)]
    assert len(found) > 20
    assert all(a * b == c for a, b, c in found)
    found = [values(m) for m in re.findall(rf"\b([\w-]+) less {NUMBER} is {NUMBER}\b", text)]
    assert len(found) > 10
    assert all(a - b == c for a, b, c in found)


def test_what_was_lost_is_what_is_found(text):
    tales = [tale for tale in text.split(stories.SEPARATOR) if tale.startswith("The Lost ")]
    assert len(tales) > 50
    for tale in tales:
        thing = tale.split("\n")[0].removeprefix("The Lost ").lower()
        assert tale.count(thing) >= 3


def test_vocabulary_and_letters(text, facts):
    words = re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*", text.casefold())
    assert facts["distinct_words"] == len(set(words)) >= 1500
    assert {"zoë", "søren", "josé", "café"} <= set(words)
    assert facts["bytes"] > facts["characters"]
    assert "\r" not in text and "\t" not in text and "  " not in text


def test_articles(text):
    wrong = re.findall(r"\b[Aa] (?!one|uni|use)[aeiouAEIOU]\w*|\b[Aa]n [^aeiouhé\W]\w*", text)
    assert wrong == []


def test_story_lengths(text, facts):
    lengths = sorted(len(tale) for tale in text.split(stories.SEPARATOR))
    assert len(lengths) == facts["stories"]
    assert lengths[0] >= 400
    assert lengths[len(lengths) // 2] < 1700
    assert lengths[len(lengths) * 95 // 100] <= 2100
    assert lengths[-1] < 3000


def test_every_plot_is_told(text):
    titles = [tale.split("\n")[0] for tale in text.split(stories.SEPARATOR)]
    for plot in stories.PLOTS:
        beginnings = [line.split("[")[0] for line in stories.GROUPS[plot.__name__ + "_title"]]
        assert sum(any(title.startswith(start) for start in beginnings) for title in titles) > 30


def test_command_line_writes_and_checks(tmp_path):
    out = tmp_path / "few.txt"
    assert command("--stories", 3, "--seed", 5, "--out", out).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.txt", "few.txt.json"]
    figures = json.loads((tmp_path / "few.txt.json").read_text())
    checked = command("--check", out)
    assert checked.returncode == 0
    assert f"{figures['floor_bits_per_byte']['validation']:.6f}" in checked.stdout
    assert stories.write_corpus(5, 3).text() == out.read_text(encoding="utf-8")


def test_command_line_errors(tmp_path, small):
    broken = tmp_path / "broken.txt"
    text = small.text()
    place = text.index("* * *") + 2
    broken.write_bytes((text[:place] + "+" + text[place + 1 :]).encode())
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe")
    empty = tmp_path / "empty.txt"
    empty.write_bytes(b"")
    cut = tmp_path / "cut.txt"
    cut.write_bytes(text[: len(text) // 2].encode())
    for arguments, complaint in (
        (("--check", broken), f"character {place}"),
        (("--check", binary), "UTF-8"),
        (("--check", empty), "character 0"),
        (("--check", cut), "does not parse at character"),
        (("--check", tmp_path / "missing.txt"), "No such file"),
        (("--out", tmp_path / "no" / "such" / "folder.txt", "--stories", 1), "No such file"),
        (("--stories", 0), "--stories"),
        (("--stories", "many"), "--stories"),
        (("--nonsense",), "--nonsense"),
    ):
        result = command(*arguments)
        assert result.returncode == 2, arguments
        assert complaint in result.stderr
        assert len(result.stderr.splitlines()) == 1 and result.stdout == ""
