"""data/stories.py: its text can be parsed, and the entropy of the grammar is what it says."""

import json
import math
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from num2words import num2words

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data"))

import stories  # noqa: E402

TEXT = (ROOT / "input.txt").read_bytes().decode()
TALES = TEXT.split(stories.SEPARATOR)


def test_input_txt_is_what_the_program_writes_and_reads():
    written = stories.write_corpus()
    assert written.text() == TEXT
    facts = stories.describe(TEXT, written, stories.STORIES, stories.SEED)
    assert (ROOT / "input.txt.json").read_text() == json.dumps(facts, indent=2) + "\n"
    part = stories.SEPARATOR.join(TALES[:100]) + "\n"
    reader, count = stories.read_corpus(part)
    assert reader.steps == [step for step in written.steps if step.offset < len(part) - 1]
    assert reader.recalls == [recall for recall in written.recalls if recall.offset < len(part) - 1]
    assert count == 100 and all(part.startswith(s.literal, s.offset) for s in reader.steps)


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
        bits = math.fsum(step.bits for step in pen.steps)
        found[pen.text()] = 2.0**-bits, math.fsum(step.entropy for step in pen.steps)
        for i in range(len(script), len(path)):
            scripts += [[*path[:i], other] for other in range(1, sizes[i])]
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
        assert not any(b.startswith(a) for a, b in pairwise(sorted(found)))


def test_probabilities_by_hand():
    """The example of the module's docstring; and a noun has an adjective half the time."""
    found = outcomes("It was [season=now]. (Nobody|Everybody) likes {now}.")
    spring = (1 / 6) / (1 / 6 + 1 / 7 + 1 / 8 + 1 / 9)
    assert found["It was spring. Nobody likes spring."][0] == pytest.approx(spring / 2)
    assert f"{-math.log2(spring):.3f} bits" in stories.__doc__
    bare = [p for text, (p, _) in outcomes("[a:fruit]").items() if text.count(" ") == 1]
    assert len(bare) == 30 and math.fsum(bare) == pytest.approx(0.5)


def test_a_choice():
    choice = stories.Choice(("a", "b", "c"), (1.0, 2.0, 5.0))
    drawn = [choice.draw((i + 0.5) / 8000) for i in range(8000)]
    assert [drawn.count(i) for i in range(3)] == [1000, 2000, 5000]
    for other in ("egg", "egg whisk"):
        with pytest.raises(ValueError, match="begins another"):
            stories.Choice(("egg", "a", other), (1.0, 1.0, 1.0))


def test_bits_per_byte():
    steps = [stories.Step(offset, "", 9.0, 0.0) for offset in (0, 89, 90)]
    found = stories.floor_bits_per_byte("é" * 90 + "x" * 10, steps)
    assert found == {"train": 18 / 180, "validation": 9 / 10, "all": 27 / 190}
    costs = [stories.Recall(*r) for r in ((950, 64, 5.0), (950, 63, 2.0), (1, 999, 9.0))]
    found = stories.window_cost_bits_per_byte("y" * 900 + "x" * 100, costs)
    assert found == {str(window): 0.05 * (window == 64) for window in stories.WINDOWS}


def test_what_is_paid_again_when_it_returns():
    def recalls(text, template, **items):
        pen = stories.Reader("x" * 100 + text)
        pen.emit("x" * 100)
        story = stories.Story(pen)
        story.items |= items
        story.follow(stories.parse_template(template))
        return [(recall.distance, recall.bits) for recall in pen.recalls]

    Item = stories.Item
    hero = Item("Zoë", 5.0, seen=0, gender=Item("she", 1.0, seen=90))
    assert recalls("Zoë: she her", "{hero}: {he} {him}", hero=hero) == [(100, 5), (2, 1), (1, 1)]
    both = Item("3", sources=[Item("1", 2.0, seen=10), Item("2", 3.0, seen=20)])
    assert recalls("3 3", "{both} {both}", both=both) == [(90, 2), (80, 3), (1, 2), (1, 3)]
    token = Item("d", 5.0, seen=0)  # the choice that it decides has cost 2 bits already
    assert recalls("d", "(a|b|c|{token})", token=token) == [(100, 3)]


def test_the_hero_cannot_change_names():
    text = stories.write_corpus(seed=11, stories=1).text()
    hero = next(name for name in stories.GENDER if text.count(name) > 5)
    first, rest = text.split(hero, 1)
    with pytest.raises(stories.ParseError):
        stories.parse(first + hero + rest.replace(hero, "Greta" if hero == "Wilma" else "Wilma", 1))


def test_sums_products_and_remainders():
    values, n = {num2words(number): number for number in range(100)}, "([a-z-]+)"
    for pattern, right in (
        (f"{n} and {n},? (?:is|which makes) {n}", int.__add__),
        (f"{n} times {n} is {n}", int.__mul__),
        (f"{n} less {n} is {n}", int.__sub__),
    ):
        found = [[*map(values.get, m)] for m in re.findall(pattern, TEXT.lower())]
        found = [numbers for numbers in found if None not in numbers]
        assert len(found) > 10 and all(right(a, b) == c for a, b, c in found)


def test_the_stories():
    wrong = r"\b[Aa] (?!one|uni|use)[aeiouAEIOU]\w*|\b[Aa]n [^aeiouhé\W]\w*|\r|\t|  "
    assert re.findall(wrong, TEXT) == []
    for plot in stories.PLOTS:
        starts = tuple(line.split("[")[0] for line in stories.GROUPS[plot.__name__ + "_title"])
        assert sum(tale.startswith(starts) for tale in TALES) > 30
    assert 400 <= min(map(len, TALES)) and max(map(len, TALES)) < 3000
    lost = [tale for tale in TALES if tale.startswith("The Lost ")]
    assert all(tale.count(tale[9 : tale.index("\n")].lower()) >= 3 for tale in lost)


def test_command_line(tmp_path):
    def command(flags):
        call = [sys.executable, str(ROOT / "data" / "stories.py"), *flags.split()]
        return subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)

    assert command("--stories 3 --seed 5 --out few.txt").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.txt", "few.txt.json"]
    text = (tmp_path / "few.txt").read_bytes().decode()
    assert text == stories.write_corpus(5, 3).text()
    floor = json.loads((tmp_path / "few.txt.json").read_text())["floor_bits_per_byte"]
    checked = command("--check few.txt").stdout.splitlines()[1:]
    assert [line.split()[:2] for line in checked] == [[k, f"{v:.6f}"] for k, v in floor.items()]
    broken = text.replace("* * *", "* + *", 1).encode()
    for name, content in (("broken", broken), ("empty", b""), ("binary", b"\xff")):
        (tmp_path / name).write_bytes(content)
    for flags, complaint in (
        ("--check broken", f"does not parse at character {text.index('* * *') + 2}: expected"),
        ("--check binary", "not UTF-8 at byte 0"),
        ("--check empty", "does not parse at character 0"),
        ("--check missing", "missing: No such file"),
        ("--stories 1 --out no/folder.txt", "no/folder.txt: No such file"),
        ("--stories 0", "--stories"),
    ):
        result = command(flags)
        assert result.returncode == 2 and complaint in result.stderr.splitlines()[-1]
