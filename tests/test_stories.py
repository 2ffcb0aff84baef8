"""data/stories.py: its text can be parsed, and the entropy of the grammar is what it says."""

import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from num2words import num2words

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data"))

import stories  # noqa: E402

TEXT = (ROOT / "input.txt").read_bytes().decode()
TALES = TEXT.split(stories.SEPARATOR)


@pytest.fixture(scope="module")
def written():
    return stories.write_corpus()


@pytest.fixture(scope="module")
def small():
    return stories.write_corpus(seed=11, stories=15)


def command(*arguments):
    call = [sys.executable, str(ROOT / "data" / "stories.py"), *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, timeout=60)


def test_input_txt_is_what_the_program_writes(written):
    assert written.text() == TEXT
    facts = stories.describe(TEXT, written, stories.STORIES, stories.SEED)
    described = (json.dumps(facts, indent=2) + "\n").encode()
    assert described == (ROOT / "input.txt.json").read_bytes()


def test_a_reader_finds_what_the_writer_chose(written):
    part = stories.SEPARATOR.join(TALES[:100]) + "\n"
    reader, count = stories.read_corpus(part)
    assert count == 100
    assert reader.steps == written.steps[: len(reader.steps)]
    assert reader.recalls == written.recalls[: len(reader.recalls)]
    end = 0
    for offset, literal, _, _ in reader.steps:  # in order, and each says what the text says
        assert offset >= end and part.startswith(literal, offset)
        end = offset + len(literal)
    assert written.steps[len(reader.steps)].offset > end


# --- entropy


def outcomes(template):
    """All texts of a template, as {text: (probability, sum of the choices' entropies)}."""

    class Scripted(stories.Writer):
        """Takes the alternatives of a script, then the first ones."""

        def pick(self, choice):
            path.append(script[len(path)] if len(path) < len(script) else 0)
            sizes.append(len(choice.literals))
            return path[-1]

    found, scripts = {}, [[]]
    while scripts:
        script, path, sizes = scripts.pop(), [], []
        pen = Scripted(0)
        stories.Story(pen).follow(stories.parse_template(template))
        assert pen.text() not in found  # one parse only
        probability = 2.0 ** -math.fsum(step.bits for step in pen.steps)
        found[pen.text()] = probability, math.fsum(step.entropy for step in pen.steps)
        for place in range(len(script), len(path)):
            scripts += [[*path[:place], other] for other in range(1, sizes[place])]
    return found


def test_entropy_against_enumeration(monkeypatch):
    """By the chain rule, the mean sum of the choices' entropies is the entropy of the whole text."""
    monkeypatch.setitem(stories.GROUPS, "tiny", ["On [weekday]", "In [season=s], [weather@s]"])
    for template in ("[tiny] (yes|no) [few].", "[A:fruit] and (an egg|an egg whisk)."):
        found = outcomes(template)
        assert len(found) > 500
        assert math.fsum(p for p, _ in found.values()) == pytest.approx(1)
        entropy = -math.fsum(p * math.log2(p) for p, _ in found.values())
        assert math.fsum(p * bits for p, bits in found.values()) == pytest.approx(entropy)
        ordered = sorted(found)
        assert not any(b.startswith(a) for a, b in itertools.pairwise(ordered))


def test_probabilities_by_hand():
    """The example of the module's docstring; and a noun has an adjective half the time."""
    found = outcomes("It was [season=now]. (Nobody|Everybody) likes {now}.")
    spring = (1 / 6) / (1 / 6 + 1 / 7 + 1 / 8 + 1 / 9)
    probability, _ = found["It was spring. Nobody likes spring."]
    assert probability == pytest.approx(spring / 2)
    assert f"{-math.log2(spring):.3f}" == "1.711" and "1.711 bits" in stories.__doc__
    bare = [p for text, (p, _) in outcomes("[a:fruit]").items() if text.count(" ") == 1]
    assert len(bare) == 30 and math.fsum(bare) == pytest.approx(0.5)


def test_draws_follow_the_weights():
    choice = stories.Choice(("a", "b", "c"), (1.0, 2.0, 5.0))
    drawn = [choice.draw((i + 0.5) / 8000) for i in range(8000)]
    assert [drawn.count(i) for i in range(3)] == [1000, 2000, 5000]


def test_a_text_that_begins_another_is_refused():
    for literals in (("egg", "a", "egg whisk"), ("egg", "egg")):
        with pytest.raises(ValueError, match="begins another"):
            stories.Choice(literals, [1.0] * len(literals))


def test_bits_of_each_split():
    steps = [stories.Step(offset, "", 9.0, 0.0) for offset in (0, 89, 90)]
    found = stories.floor_bits_per_byte("é" * 90 + "x" * 10, steps)
    assert found == {"train": 18 / 180, "validation": 9 / 10, "all": 27 / 190}


# --- what a short window costs


def recalls(template, **items):
    pen = stories.Writer(0)
    pen.emit("x" * 100)
    story = stories.Story(pen)
    story.items |= items
    story.follow(stories.parse_template(template))
    return [(recall.distance, recall.bits) for recall in pen.recalls]


def test_prices_of_what_returns():
    hero = stories.Item("Zoë", 5.0, seen=0)
    assert recalls("{hero} ... {hero}", hero=hero) == [(100, 5), (5, 5)]
    hero = stories.Item("Zoë", 5.0, seen=0, gender=stories.Item("she", 1.0, seen=90))
    assert recalls("{hero}: {she.he}{him}", hero=hero, she=hero) == [(100, 5), (2, 1), (0, 1)]
    one, two = stories.Item("one", 2.0, seen=10), stories.Item("two", 3.0, seen=20)
    total = stories.Item("three", sources=[one, two])
    assert recalls("{total} {total}", total=total) == [(90, 2), (80, 3), (1, 2), (1, 3)]
    hero = stories.Item("Zoë", 5.0, seen=0)
    assert recalls("({hero}|Tom|Max|Eva)", hero=hero) in ([(100, 3)], [])  # 2 bits are paid


def test_cost_of_each_window():
    costs = [
        stories.Recall(950, 64, 5.0),
        stories.Recall(950, 63, 2.0),
        stories.Recall(1, 999, 9.0),
    ]
    found = stories.window_cost_bits_per_byte("y" * 900 + "x" * 100, costs)
    assert found == {"64": 0.05} | dict.fromkeys(("128", "256", "512", "1024", "2048"), 0)


# --- errors


def test_a_changed_letter_is_noticed(small):
    """The text no longer parses, or it parses at another price."""
    text, price = small.text(), math.fsum(step.bits for step in small.steps)
    letters = [match.start() for match in re.finditer("[a-z]", text)]
    for place in letters[:: len(letters) // 20]:
        letter = "e" if text[place] != "e" else "o"
        try:
            steps = stories.parse(text[:place] + letter + text[place + 1 :])
        except stories.ParseError as error:
            assert 0 <= error.offset <= len(text)
        else:
            assert math.fsum(step.bits for step in steps) != price


def test_the_hero_cannot_be_somebody_else_later(small):
    text = small.text()
    hero = next(name for name in stories.GENDER if text.count(name) > 5)
    place = text.index(hero, text.index(hero) + 1)
    other = "Wilma" if hero != "Wilma" else "Greta"
    with pytest.raises(stories.ParseError):
        stories.parse(text[:place] + other + text[place + len(hero) :])


# --- English and arithmetic


def test_sums_products_and_remainders():
    for number in range(100):
        assert stories.NUMBERS[num2words(number)] == number
    for words, right in (
        ("and {0},? (?:is|which makes)", int.__add__),
        ("times {0} is", int.__mul__),
        ("less {0} is", int.__sub__),
    ):
        pattern = rf"([\w-]+) {words.format('([a-z-]+)')} ([a-z-]+)"
        found = [[stories.NUMBERS.get(w.lower()) for w in m] for m in re.findall(pattern, TEXT)]
        found = [numbers for numbers in found if None not in numbers]
        assert len(found) > 10 and all(right(a, b) == c for a, b, c in found)


def test_articles_and_spaces():
    wrong = r"\b[Aa] (?!one|uni|use)[aeiouAEIOU]\w*|\b[Aa]n [^aeiouhé\W]\w*|\r|\t|  "
    assert re.findall(wrong, TEXT) == []


def test_each_plot_and_its_length():
    for plot in stories.PLOTS:
        starts = tuple(line.split("[")[0] for line in stories.GROUPS[plot.__name__ + "_title"])
        assert sum(tale.startswith(starts) for tale in TALES) > 30
    lengths = sorted(map(len, TALES))
    assert 400 <= lengths[0] and lengths[-1] < 3000
    for tale in TALES:  # what was lost is found
        if tale.startswith("The Lost "):
            assert tale.count(tale.split("\n")[0].removeprefix("The Lost ").lower()) >= 3


# --- command line


def test_command_line(tmp_path):
    out = tmp_path / "few.txt"
    assert command("--stories", 3, "--seed", 5, "--out", out).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.txt", "few.txt.json"]
    assert stories.write_corpus(5, 3).text() == out.read_text(encoding="utf-8")
    floor = json.loads((tmp_path / "few.txt.json").read_text())["floor_bits_per_byte"]
    checked = command("--check", out).stdout.splitlines()[1:]
    assert [line.split() for line in checked] == [
        [k, f"{v:.6f}", "bits/byte"] for k, v in floor.items()
    ]


def test_bad_requests_end_in_a_message(tmp_path, small):
    text = small.text()
    place = text.index("* * *") + 2
    broken = (text[:place] + "+" + text[place + 1 :]).encode()
    contents = {"broken": broken, "binary": b"\xff", "empty": b"", "cut": text[:9000].encode()}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for arguments, complaint in (
        (("--check", tmp_path / "broken"), f"does not parse at character {place}: expected '* *"),
        (("--check", tmp_path / "binary"), "not UTF-8 at byte 0"),
        (("--check", tmp_path / "empty"), "does not parse at character 0"),
        (("--check", tmp_path / "cut"), "does not parse at character"),
        (("--check", tmp_path / "missing"), "No such file"),
        (("--out", tmp_path / "no" / "folder.txt", "--stories", 1), "No such file"),
        (("--stories", 0), "--stories"),
    ):
        result = command(*arguments)
        assert result.returncode == 2 and result.stdout == ""
        assert complaint in result.stderr.splitlines()[-1] and "Traceback" not in result.stderr
