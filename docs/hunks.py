"""Two versions of a file as hunks: sections, symbols, lines and words; and their code as HTML."""

import ast
import re
from collections import Counter
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from html import escape

from pygments.lexers import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, String

CONTEXT = 3  # unchanged lines shown around a change
LIKE = 0.5  # the likeness that two lines need to face each other, or to have their words marked
COLORS = {Comment: "c", String: "s", Keyword: "k", Number: "m", Name.Builtin: "b"}
COLORS |= {Name.Function: "f", Name.Class: "f", Name.Decorator: "f"}


@dataclass
class Unit:
    """A top-level statement with the comments above it: lines first to last, counted from 1."""

    names: tuple
    first: int
    last: int


@dataclass
class Change:
    """A symbol in the old and in the new file; one of the two is None if it was added or removed."""

    names: tuple
    old: Unit | None
    new: Unit | None
    same: bool = False
    hunks: list = field(default_factory=list)

    @property
    def kind(self):
        return "added" if not self.old else "removed" if not self.new else "changed"


class Source:
    """A file: its text, its lines, each line's highlighted pieces, and its sections' units."""

    def __init__(self, text):
        self.text, self.lines = text, text.splitlines()
        self.pieces = [[]]
        for kind, value in PythonLexer().get_tokens(text):
            color = next((COLORS[k] for k in COLORS if kind in k), "")
            for i, part in enumerate(value.split("\n")):
                if i:
                    self.pieces.append([])
                if part:
                    self.pieces[-1].append((color, part))
        self.sections = self.find_sections()

    def find_sections(self):
        """{title: units}. What stands before section 1 is called "imports", as in the docstrings."""
        banners = {i: line.lstrip("# -") for i, line in enumerate(self.lines, 1) if is_banner(line)}
        found, title, start = {"imports": []}, "imports", 1
        for node in ast.parse(self.text).body:
            for i in [i for i in banners if start <= i < node.lineno]:
                title, start = banners[i], i + 1
                found[title] = []
            units, names = found[title], names_of(node)
            while not self.lines[start - 1]:
                start += 1
            if self.lines[start - 1].startswith("# Shapes"):
                end = next(i for i in range(start, node.lineno) if self.lines[i][:1] != "#")
                units.append(Unit(("letters",), start, end))
                start = end + 1
            if units and (units[-1].names == names or names == ("if",)):
                units[-1].last = node.end_lineno  # NAME |= ..., and the last lines of a file
            else:
                units.append(Unit(names, start, node.end_lineno))
            start = node.end_lineno + 1
        return found

    def html(self, i, marks=()):
        """Line i, counted from 1, as HTML; marks: ranges of columns that changed."""
        out, at = [], 0
        edges = sorted({edge for mark in marks for edge in mark})
        for color, text in self.pieces[i - 1]:
            cuts = [0, *(e - at for e in edges if at < e < at + len(text)), len(text)]
            for a, b in zip(cuts, cuts[1:], strict=False):
                part = escape(text[a:b], quote=False)
                if color and part.strip():
                    part = f'<i class="{color}">{part}</i>'
                if any(x <= at + a < y for x, y in marks):
                    part = f"<mark>{part}</mark>"
                out.append(part)
            at += len(text)
        return "".join(out).replace("</mark><mark>", "")


def is_banner(line):
    return re.match(r"# -+ \d ", line)


def names_of(node):
    """The names that a top-level statement defines; for others a word for what it is."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return (node.name,)
    if isinstance(node, ast.Assign | ast.AugAssign):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        return tuple(name.id for name in ast.walk(target) if isinstance(name, ast.Name))
    if isinstance(node, ast.Expr):
        return ("docstring",)
    return ("if",) if isinstance(node, ast.If) else ("imports",)


def is_symbol(names):
    return names not in (("docstring",), ("imports",), ("letters",))


def compare(old, new):
    """{title: changes} of two Sources; old is None for the first version."""
    found = {}
    for title, units in new.sections.items():
        before = old.sections[title] if old else []
        keys = [unit.names for unit in before], [unit.names for unit in units]
        changes = []
        for tag, a, b, c, d in SequenceMatcher(None, *keys, autojunk=False).get_opcodes():
            if tag == "equal":
                changes += [
                    pair(old, new, *units) for units in zip(before[a:b], units[c:d], strict=True)
                ]
                continue
            changes += [Change(unit.names, unit, None) for unit in before[a:b]]
            changes += [Change(unit.names, None, unit) for unit in units[c:d]]
        found[title] = changes
    return found


def pair(old, new, a, b):
    """The Change of one symbol that both files have."""
    before, after = old.lines[a.first - 1 : a.last], new.lines[b.first - 1 : b.last]
    change = Change(b.names, a, b, before == after)
    if not change.same:
        change.hunks = list(hunks(old, new, a.first, b.first, before, after))
    return change


def hunks(old, new, i, j, before, after):
    """(kind, first old line, first new line, old rows, new rows), the kinds being same, fold, change.

    A row is a line of HTML, or None where the other column has a line without a partner.
    """
    codes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    for n, (tag, a, b, c, d) in enumerate(codes):
        if tag != "equal":
            yield "change", i + a, j + c, *rows(old, new, range(i + a, i + b), range(j + c, j + d))
            continue
        head, tail = CONTEXT * (n > 0), CONTEXT * (n < len(codes) - 1)
        if b - a <= head + tail + 2:
            head, tail = b - a, 0
        cuts = [a, a + head, b - tail, b]
        for kind, x, y in zip(("same", "fold", "same"), cuts, cuts[1:], strict=False):
            if x < y:
                lines = [new.html(j + c - a + k) for k in range(x, y)]
                yield kind, i + x, j + c - a + x, lines, lines


def rows(old, new, before, after):
    """The rows of two columns: lines that have most words in common face each other."""
    left, right = [], []
    for i, j in align([old.lines[i - 1] for i in before], [new.lines[j - 1] for j in after]):
        i, j = i is not None and before[i], j is not None and after[j]
        marks = changed_words(old.lines[i - 1], new.lines[j - 1]) if i and j else ((), ())
        left.append(old.html(i, marks[0]) if i else None)
        right.append(new.html(j, marks[1]) if j else None)
    return left, right


def words(line):
    return re.findall(r"\w+|\s+|[^\w\s]", line)


def likeness(a, b):
    """The share of words that two lines have in common, 0 to 1."""
    a, b = (Counter(word for word in words(line) if not word.isspace()) for line in (a, b))
    return 2 * (a & b).total() / max(1, a.total() + b.total())


def same_start(a, b):
    return words(a.strip())[:1] == words(b.strip())[:1] != []


def align(before, after):
    """[(i or None, j or None), ...]: the order-preserving pairs with the most words in common."""
    best = [[0.0] * (len(after) + 1) for _ in range(len(before) + 1)]
    score = [
        [max(0.0, likeness(a, b) + 0.5 * same_start(a, b) - LIKE) for b in after] for a in before
    ]
    for i in reversed(range(len(before))):
        for j in reversed(range(len(after))):
            both = score[i][j] + best[i + 1][j + 1] if score[i][j] else 0
            best[i][j] = max(both, best[i + 1][j], best[i][j + 1])
    i = j = 0
    pairs = []
    while i < len(before) or j < len(after):
        left, right = i < len(before), j < len(after)
        if left and right and score[i][j] and best[i][j] == score[i][j] + best[i + 1][j + 1]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif left and (not right or best[i][j] == best[i + 1][j]):
            pairs.append((i, None))
            i += 1
        else:
            pairs.append((None, j))
            j += 1
    return close(pairs)


def close(pairs):
    """Lines without a partner, between two pairs, share their rows: fewer gaps."""
    out, alone = [], ([], [])
    for i, j in [*pairs, (-1, -1)]:
        if i is not None and j is not None:
            size = max(map(len, alone))
            fill = [side + [None] * (size - len(side)) for side in alone]
            out += [("left", a, b) for a, b in zip(*fill, strict=True)]
            out.append(("pair", i, j))
            alone = ([], [])
        elif j is None:
            alone[0].append(i)
        else:
            alone[1].append(j)
    return [(i, j) for _, i, j in out[:-1]]


def changed_words(a, b):
    """The ranges of columns that differ in two lines; none where little is the same."""
    if likeness(a, b) < LIKE:
        return (), ()
    left, right = words(a), words(b)
    starts = [[sum(map(len, side[:n])) for n in range(len(side) + 1)] for side in (left, right)]
    marks = ([], [])
    for tag, *spans in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag != "equal":
            for side in (0, 1):
                first, last = (starts[side][n] for n in spans[2 * side : 2 * side + 2])
                if first < last:
                    marks[side].append((first, last))
    return marks
