"""docs/site/ is what docs/build.py writes, and the notes are true: symbols, quoted lines, figures, links."""

import dataclasses
import html
import html.parser
import importlib
import json
import re
import statistics
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, load_version
from small_models import make_model

sys.path.insert(0, str(ROOT / "docs"))
sys.path.insert(0, str(ROOT / "benchmarks"))

import build
import faults
import hunks
import pictures
import surprise
import tokens

SITE = ROOT / "docs" / "site"
PAGES = sorted(path.name for path in SITE.glob("*.html"))
each_step = pytest.mark.parametrize("name", build.STEPS)
each_page = pytest.mark.parametrize("page", PAGES)


@pytest.fixture(scope="module")
def site():
    return build.render()


class Page(html.parser.HTMLParser):
    """The ids, links and addresses of a page; fails at a tag that is closed in the wrong order."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.open, self.prose = [], [], [], ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[key] for key in ("href", "src", "srcset", "action") if key in found]
        if tag not in ("meta", "link", "input", "br", "hr", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.remove(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if not {"pre", "code", "script", "math", "svg"} & set(self.open):
            self.prose += data


def prose(text):
    """A note without code, equations and {{figures}}."""
    return re.sub(
        r"\$\$.+?\$\$|\$.+?\$|``.+?``|`.+?`|\{\{.+?\}\}|\]\(.+?\)", " ", text, flags=re.DOTALL
    )


def test_the_site_is_what_the_command_writes(site):
    assert {path.name for path in SITE.iterdir()} == set(site)
    for name, text in site.items():
        assert (SITE / name).read_text(encoding="utf-8") == text, f"{name}: python docs/build.py"


def test_the_same_on_another_machine(site, tmp_path):
    """Another process, folder, locale and order of hashes."""
    code = "import build; print(__import__('json').dumps(build.render()))"
    settings = {
        "PYTHONPATH": str(ROOT / "docs"),
        "PYTHONHASHSEED": "7",
        "PYTHONIOENCODING": "utf-8",
    }
    settings |= {"LC_ALL": "C", "PATH": "", "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-X", "utf8", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, check=True)
    assert json.loads(done.stdout) == site


@each_step
def test_each_changed_symbol_has_a_note_and_each_note_a_changed_symbol(name):
    noted = [symbol for names in build.Notes(name).symbols for symbol in names]
    assert sorted(noted) == sorted(build.changed_symbols(name))


@each_step
def test_quoted_code_is_in_the_file(name):
    """`code` stands in the file or the one before it, is a flag, or is a command or file that exists."""
    text = (ROOT / "docs" / "notes" / f"{name[:2]}.md").read_text(encoding="utf-8")
    base = build.base_of(name)
    known = build.read(name) + (build.read(base) if base else "")
    flags = {field.name for field in dataclasses.fields(importlib.import_module(name).Config)}
    for quoted in re.findall(r"(?<!`)`([^`]+)`(?!`)", text):
        first, *words = quoted.split()
        if first == "python":
            path = words[1:] if words[0] == "-m" else words
            files = [word for word in path if "/" in word or word.endswith(".py")]
            assert all((ROOT / file).exists() for file in files), quoted
            used = [word for word in words if word.startswith("--")]
        elif first.startswith("--"):
            used = [first]
        else:
            assert quoted in known or (ROOT / quoted).is_file(), quoted
            continue
        if "benchmarks" not in quoted:
            assert {flag[2:].replace("-", "_") for flag in used} <= flags, quoted


@each_step
def test_figures_come_from_the_results(name):
    """A measured figure is written as {{v4 bits}}: nothing with three decimals is typed by hand."""
    text = (ROOT / "docs" / "notes" / f"{name[:2]}.md").read_text(encoding="utf-8")
    assert not re.findall(r"\d\.\d{3,}(?!\d*\s*(?:x|\())\s*bits", prose(text))
    assert all(key in build.FIGURES for key in re.findall(r"\{\{(.+?)\}\}", text))
    notes = build.Notes(name)
    shown = notes.idea + "".join(body for _, body in notes.folded("Questions"))
    assert "{{" not in shown and len(notes.folded("Questions")) == 5
    exercises = notes.folded("Exercises")
    assert len(exercises) == 2 and notes.papers.count("<li>") >= 1
    for _, body in exercises:
        steps = re.findall(r"<em>(Predict|Change|Run|Compare):</em>", body)
        assert steps == ["Predict", "Change", "Run", "Compare"]


def test_figures_are_those_of_the_ladder():
    figures = json.loads((ROOT / "benchmarks/results/ladder.json").read_text())["figures"]
    for name in build.FILES:
        if name in figures:
            assert build.FIGURES[f"{name[:2]} bits"] == f"{figures[name]['bits_per_byte']:.3f}"
            page = (SITE / f"{name[:2]}.html").read_text(encoding="utf-8")
            assert f"{figures[name]['bits_per_byte']:.3f} bits/byte" in page
            assert f"{figures[name]['parameters']:,} parameters" in page


@each_page
def test_links_and_anchors_lead_somewhere(page):
    found = Page((SITE / page).read_text(encoding="utf-8"))
    assert len(found.ids) == len(set(found.ids)), sorted(found.ids)
    for link in found.links:
        if link.startswith(("https://", "data:,")):
            continue
        file, _, anchor = link.partition("#")
        assert (SITE / (file or page)).is_file(), link
        ids = (
            Page((SITE / file).read_text(encoding="utf-8")).ids
            if file.endswith("html")
            else found.ids
        )
        assert not anchor or anchor in ids, link


@each_page
def test_pages_are_small_and_ask_no_other_host(page):
    text = (SITE / page).read_text(encoding="utf-8")
    assert len(text.encode()) < 500_000
    loaded = re.findall(
        r'<(?:link|script|img|iframe|source|video|audio)[^>]*(?:href|src)="([^"]*)"', text
    )
    assert set(loaded) == {"style.css", "page.js", "data:,"}
    assert "\\" not in re.sub(
        r"(?s)<(script|pre|code|details)\b.*?</\1>", "", text
    )  # no TeX is left
    for name in ("style.css", "page.js"):
        other = (SITE / name).read_text(encoding="utf-8")
        assert not re.search(
            r"https?:|//\w|@import|url\(|fetch\(|XMLHttp|import\(", other.replace("// ", "")
        )


def test_the_words_of_the_pages():
    """Words that this project does not use, and British spelling."""
    unwanted = r"knob|Halt|likeliest|oftener|learned by heart|colour|neighbour|behaviour|normalis|initialis"
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.toml")]
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "notes").glob("*.md")]
    for text in texts:
        assert not re.findall(rf"\b(?:{unwanted})\w*", text)
    assert all("TODO" not in text.upper() for text in texts)


def contrast(a, b):
    """The ratio of WCAG 2 between two colors given as #rrggbb."""

    def light(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast_is_aa(theme):
    css = (ROOT / "docs" / "style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    colors = {}
    for block in blocks[: theme + 1]:
        colors |= dict(re.findall(r"--([\w-]+): (#\w{6});", block))
        heat = [int(n) for n in re.search(r"--heat: (\d+), (\d+), (\d+)", block).groups()]
    grounds = ("back", "panel", "add", "del", "add-word", "del-word")
    for text in ("text", "keyword", "string", "comment", "name", "number"):
        for ground in grounds:
            assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
    for text in ("link", "trap", "text", "soft"):
        assert contrast(colors[text], colors["back"]) >= 4.5, text
        assert contrast(colors[text], colors["panel"]) >= 4.5, text
    for ground in ("add", "del"):  # behind the numbers of lines
        assert contrast(colors["soft"], colors[ground]) >= 4.5, ground
    for line in [f"n{n}" for n in range(7)] + ["good", "bad"]:
        assert contrast(colors[line], colors["back"]) >= 3, line  # of pictures
    back = [int(colors["back"][i : i + 2], 16) for i in (1, 3, 5)]
    for share in map(
        float, re.findall(r"\.t\d \{ background: rgba\(var\(--heat\), (\.\d+)\)", css)
    ):
        mixed = [round(share * h + (1 - share) * b) for h, b in zip(heat, back, strict=True)]
        ground = "#" + "".join(f"{c:02x}" for c in mixed)
        assert contrast(colors["text"], ground) >= 4.5, share


# --- the diffs
@each_step
def test_a_diff_shows_every_line_once(name):
    """Right column: the whole new file; left column: every line of the old one, changed or not."""
    base = build.base_of(name)
    old, new = base and hunks.Source(build.read(base)), hunks.Source(build.read(name))
    plain = {
        side and side.text: [side.html(i) for i in range(1, len(side.lines) + 1)]
        for side in (old, new)
        if side
    }
    for title, changes in hunks.compare(old, new).items():
        right, left = [], []
        for change in changes:
            if change.kind == "changed" and not change.same:
                for kind, i, j, before, after in change.hunks:
                    for side, first, rows, file in ((left, i, before, old), (right, j, after, new)):
                        if kind != "change" and file is old:
                            rows = [old.html(i + n) for n in range(len(rows))]
                        rows = [re.sub("</?mark>", "", row) for row in rows if row is not None]
                        texts = [strip(row) for row in rows]
                        assert texts == file.lines[first - 1 : first - 1 + len(rows)]
                        side += range(first, first + len(rows))
            else:
                right += range(change.new.first, change.new.last + 1) if change.new else []
                left += range(change.old.first, change.old.last + 1) if change.old else []
        for side, file in ((right, new), (left, old)):
            if file:
                lines = [n for n in section_lines(file, title) if file.lines[n - 1].strip()]
                assert [n for n in side if file.lines[n - 1].strip()] == lines
    assert plain


def strip(row):
    return html.unescape(re.sub("<[^>]+>", "", row))


def section_lines(file, title):
    """The numbers of a section's lines, without its banner."""
    banners = [n for n, line in enumerate(file.lines, 1) if hunks.is_banner(line)]
    starts = {"imports": 1} | {file.lines[n - 1].lstrip("# -"): n + 1 for n in banners}
    ends = [n for n in [*banners, len(file.lines) + 1] if n >= starts[title]]
    return range(starts[title], ends[0])


def test_rows_of_a_small_diff():
    old, new = (
        hunks.Source("def f(a):\n    x = a + 1\n    return x\n"),
        hunks.Source("def f(a):\n    b = 2\n    x = a + b\n    return x\n"),
    )
    (change,) = hunks.compare(old, new)["imports"]
    kinds = [(kind, i, j) for kind, i, j, _, _ in change.hunks]
    assert kinds == [("same", 1, 1), ("change", 2, 2), ("same", 3, 4)]
    left, right = change.hunks[1][3:]
    assert left == [None, '    x = a + <mark><i class="m">1</i></mark>']
    assert right == ['    b = <i class="m">2</i>', "    x = a + <mark>b</mark>"]


def test_symbols_of_a_small_diff():
    old = hunks.Source(
        '"""One."""\n\nimport os\n\nA, B = 1, 2\n\n\ndef f():\n    pass\n\n\n# why\nC = 3\nC |= 4\n'
    )
    new = hunks.Source(
        '"""Two."""\n\nimport os\n\nA, B = 1, 2\n\n\ndef g():\n    pass\n\n\n# why not\nC = 3\nC |= 4\n'
    )
    changes = hunks.compare(old, new)["imports"]
    found = [(change.names, change.kind, change.same) for change in changes]
    assert found == [
        (("docstring",), "changed", False),
        (("imports",), "changed", True),
        (("A", "B"), "changed", True),
        (("f",), "removed", False),
        (("g",), "added", False),
        (("C",), "changed", False),
    ]
    assert (changes[-1].new.first, changes[-1].new.last) == (12, 14)


# --- the pictures, the tokens, the faults
def test_worth_is_what_the_ablations_say(tmp_path, monkeypatch):
    """Rows have the benchmark's names; without its file the page has no such picture."""
    source = (ROOT / "benchmarks" / "ablations.py").read_text(encoding="utf-8")
    names = set(re.findall(r'Row\("[^"]+", "([^"]+)"', source))
    assert {row for rows in build.WORTH.values() for row in rows} <= names
    table = [["input.txt, 800,000 tokens", "parameters", "ms/step", "bits/byte", "change"]]
    table += [["v5", "1", "2", "0.3", "-0.0310"], ["v5, SOAP", "1", "2", "0.3", "+0.0020"]]
    runs = {f"800,000 tokens | input.txt | v5 | {seed}": {} for seed in (1, 2)}
    runs["800,000 tokens | other.txt | v5 | 3"] = {}
    other = [["input.txt, 45 seconds", *table[0][1:]], ["v5", "1", "2", "0.3", "-9.0"]]
    found = {"tables": [other, table], "runs": runs}
    (tmp_path / "ablations.json").write_text(json.dumps(found))
    monkeypatch.setattr(build, "RESULTS", tmp_path)
    found = build.worth("v5_ngpt")
    assert found["budget"] == "800,000 tokens each, 2 seeds"
    assert "-0.0310" in found["picture"] and "+0.0020" in found["picture"]
    assert build.worth("v4_gqa_swiglu") == []
    (tmp_path / "ablations.json").unlink()
    assert build.worth("v5_ngpt") is None


def test_the_blocks_have_the_same_symbols():
    for name, items in pictures.BLOCKS.items():
        assert {symbol for symbol, _ in items} <= {
            "map",
            "norm",
            "op",
            "sum",
            "move",
            "fork",
            "state",
        }
        assert len([s for s, _ in items if s == "fork"]) == len(
            [s for s, _ in items if s in ("sum", "move")]
        )
        assert len([s for s, _ in items if s == "fork"]) == (0 if name == "v0" else 2)


def test_tokens_are_those_of_one_story():
    path = ROOT / "docs" / "tokens.json"
    stories = json.loads(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 1_000_000 and set(stories) == {"v1_transformer", "v5_ngpt"}
    texts = {"".join(token[0] for token in story) for story in stories.values()}
    text = (ROOT / "input.txt").read_text(encoding="utf-8")
    assert len(texts) == 1 and texts.pop() in text[len(text) * 9 // 10 :]
    for story in stories.values():
        for token, bits, top in story:
            percents = [percent for _, percent in top]
            assert (
                len(top) == 10
                and percents == sorted(percents, reverse=True)
                and sum(percents) < 101
            )
            for word, percent in top:
                if word == token and percent >= 1:  # two roundings
                    assert 100 * 2**-bits == pytest.approx(percent, abs=0.06 + 0.004 * percent)


def test_what_the_front_page_says_of_the_tokens():
    """The hero is nearly free for v5 in most places, the clock is not; v1 pays for the hero."""
    stories = json.loads((ROOT / "docs" / "tokens.json").read_text(encoding="utf-8"))
    v5 = {word: [t[1] for t in stories["v5_ngpt"] if t[0] == word] for word in (" Zoë", " clock")}
    assert statistics.median(v5[" Zoë"]) < 0.1 and len(v5[" Zoë"]) > 10
    assert min(v5[" clock"]) > 3 and len(v5[" clock"]) > 5
    text = "".join(token[0] for token in stories["v1_transformer"])
    bits = [token[1] for token in stories["v1_transformer"]]
    assert min(sum(bits[m.start() : m.end()]) for m in re.finditer("Zoë", text)) > 3


def test_surprise_is_that_of_the_benchmark():
    """The same bits as benchmarks/surprise.py, which is tested by itself; the ten are the largest."""
    version = load_version(5)
    text = (ROOT / "input.txt").read_text(encoding="utf-8")
    story = next(
        s for s in tokens.validation_stories(text, 20) if s.isascii()
    )  # no token is half a letter
    tokenizer = version.BPETokenizer.train(text[:20_000], 300, progress=False)
    model = make_model(version, std=0.1, vocab_size=tokenizer.vocab_size)
    run = SimpleNamespace(cfg=SimpleNamespace(block_size=32), tokenizer=tokenizer, model=model)
    found = tokens.surprises(run, story)
    bits = [bits for _, bits in surprise.token_bits(model, tokenizer, story, 32)]
    assert "".join(token[0] for token in found) == story
    assert [token[1] for token in found] == pytest.approx(bits, abs=0.006)
    logits = model(torch.tensor([tokenizer.encode(tokens.maker.SEPARATOR)]))[0][0, -1]
    assert found[0][2][0][0] == tokenizer.decode([logits.argmax().item()])


def test_faults_can_be_planted_and_were_measured():
    figures = json.loads((ROOT / "docs" / "faults.json").read_text(encoding="utf-8"))
    assert [fault["id"] for fault in faults.FAULTS] == list(figures) and len(figures) == 8
    for fault in faults.FAULTS:
        assert faults.source(fault) != faults.source(fault, planted=False)
        compile(faults.source(fault), fault["id"], "exec")
        labels = [run["label"] for run in fault.get("runs", faults.RUNS)]
        assert list(figures[fault["id"]]) == labels
        file, _, test = fault["test"].partition("::")
        assert f"def {test}(" in (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")
        assert f"`{fault['test']}`" in fault["curve"]
        used = re.findall(r"\{\{(.+?)\}\}", fault["curve"])
        assert used and all(key in build.FIGURES for key in used)
        assert not re.findall(r"\d\.\d{3}", prose(fault["curve"] + fault["line"]))
