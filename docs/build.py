"""Write the ladder as pages: docs/site/, from the scripts, docs/notes/ and benchmarks/results/.

    python docs/build.py

A version gets its page when both its file and docs/notes/vN.md exist. Nothing depends on the machine:
tests/test_docs.py holds docs/site/ to what this command writes.
"""

import json
import re
import shutil
import sys
from html import escape
from pathlib import Path

import hunks
import pictures
from faults import FAULTS, source
from faults import STEPS as STEPS_OF_FAULTS
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from latex2mathml.converter import convert
from markdown_it import MarkdownIt

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
RESULTS = ROOT / "benchmarks" / "results"
FILES = sorted(path.stem for path in ROOT.glob("v[0-9]_*.py"))
STEPS = [name for name in FILES if (DOCS / "notes" / f"{name[:2]}.md").exists()]
# What each step's picture of single ideas shows: rows of benchmarks/ablations.py.
WORTH = {
    "v2": [
        "+ byte-pair tokens",
        "+ RoPE",
        "+ GELU",
        "+ tied head",
        "+ longer windows, rates and decay: v2",
        "v2, bytes as tokens",
        "v2, a table of positions",
        "v2, ReLU",
        "v2, untied head",
    ],
    "v3": ["v3: ALiBi in place of RoPE"],
    "v4": [
        "+ RMSNorm",
        "+ SwiGLU",
        "+ grouped queries",
        "+ RoPE in place of ALiBi",
        "+ Muon, rates and decay: v4",
        "v4, LayerNorm",
        "v4, GELU in place of SwiGLU",
        "v4, as many key/value heads",
        "v4, ALiBi",
        "v4, AdamW",
    ],
    "v5": ["v4, untied head", "v5", "v5, tied head", "v5, AdamW", "v5, SOAP", "v5, dropout 0.1"],
}
MARKDOWN = MarkdownIt("commonmark").enable("table")


def result(name):
    """One file of benchmarks/results/, or None."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def rows_of(name, table=0):
    """The rows of a result's table, without its header."""
    return result(name)["tables"][table][1:]


def ladder_rows():
    """{version: its row of the ladder's table}."""
    return {row[0].strip("`").removesuffix(".py"): row for row in rows_of("ladder")}


def all_figures():
    """What a note may ask for as {{v4 bits}}: names and figures, all from benchmarks/results/."""
    found = {"entropy": f"{result('ladder')['floor']:.3f}"}
    keys = ("parameters", "bits", "above", "seconds", "wall", "tokens")
    for name, (_, *cells) in ladder_rows().items():
        found |= {f"{name[:2]} {key}": cell for key, cell in zip(keys, cells, strict=True)}
    for name, *cells in rows_of("length"):
        found |= {
            f"{name[1:3]} {n}x": f"{float(c):.3f}" for n, c in zip((1, 2, 4), cells, strict=True)
        }
    two, four = rows_of("generation")
    keys = ("tokens/s", "uncached tokens/s", "ratio", "memory", "share")
    for row, name in ((two, "cache"), (four, "cache of 4 heads")):
        found |= {f"{name} {key}": cell for key, cell in zip(keys, row[1:], strict=True)}
    for row in rows_of("shakespeare"):
        if row[0].startswith("`"):
            found[f"{row[0][1:3]} shakespeare"] = row[2]
    for name, tokens, words, bits in rows_of("mlm"):
        name = name.strip("`").replace("_mlm.py", "").split(" with ")[0]
        found |= {f"{name} tokens right": tokens, f"{name} words": words, f"{name} gaps": bits}
    found |= {name: bits for name, _, bits in rows_of("mlm_starts")}
    for text, name, _, single, _, words, *_ in rows_of("mlm_tokens"):
        found |= {f"{text}, {name}, single": single, f"{text}, {name}, words": words}
    for fault, lines in json.loads((DOCS / "faults.json").read_text()).items():
        for label, points in lines.items():
            found |= {f"{fault}, {label}, {x}": f"{y:.3f}" for x, y in points}
            found[f"{fault}, {label}"] = f"{points[-1][1]:.3f}"
    return found


FIGURES = all_figures()


def markdown(text):
    """Markdown with $equations$ and {{figures}} as HTML."""
    math = []

    def keep(match):
        block, inline = match.groups()
        math.append(convert(block or inline, display="block" if block else "inline"))
        return f"\ue000{len(math) - 1}\ue001"

    text = re.sub(r"\{\{(.+?)\}\}", lambda match: FIGURES[match[1]], text)
    text = re.sub(r"\$\$(.+?)\$\$|\$(.+?)\$", keep, text, flags=re.DOTALL)
    html = MARKDOWN.render(text)
    html = re.sub("\ue000(\\d+)\ue001", lambda match: math[int(match[1])], html)
    html = html.replace("<table>", '<div class="wide"><table>').replace(
        "</table>", "</table></div>"
    )
    html = re.sub(r"\s<em>(Change|Run|Compare):", r"<br><em>\1:", html)
    return re.sub(r"<p><strong>(Shapes|Trap)\.", r'<p class="\1"><strong>\1.', html)


class Notes:
    """docs/notes/vN.md: a title and an idea; a part for each symbol; questions, exercises, papers."""

    def __init__(self, name):
        self.text = (DOCS / "notes" / f"{name[:2]}.md").read_text(encoding="utf-8")
        head, *parts = re.split(r"^## (.*)\n", self.text, flags=re.MULTILINE)
        self.title, idea = head.split("\n", 1)
        self.title, self.idea = self.title.removeprefix("# "), markdown(idea)
        self.symbols, self.parts = {}, {}
        for heading, body in zip(parts[::2], parts[1::2], strict=True):
            if names := re.findall(r"`(\w+)`", heading):
                self.symbols[tuple(names)] = markdown(body)
            else:
                self.parts[heading] = body

    def folded(self, heading):
        """[(title, HTML)] of the ### parts under a heading."""
        parts = re.split(r"^### (.*)\n", self.parts[heading], flags=re.MULTILINE)[1:]
        titles = (
            markdown(title).strip().removeprefix("<p>").removesuffix("</p>") for title in parts[::2]
        )
        return list(zip(titles, map(markdown, parts[1::2]), strict=True))

    @property
    def papers(self):
        return markdown(self.parts["Papers"])


def column(kind, first, rows, hidden=False):
    """Lines of code; None is a line that only the other column has."""
    lines = [
        f"<span>{row}</span>" if row is not None else '<span class="g"></span>' for row in rows
    ]
    hide = ' aria-hidden="true"' if hidden else ""
    return f'<pre class="{kind}" style="--n:{first - 1}"{hide}>{"".join(lines)}</pre>'


def hunk_html(hunk):
    kind, i, j, left, right = hunk
    if kind == "fold":
        lines = f"{len(right)} unchanged lines"
        return (
            f'<details class="fold"><summary>{lines}</summary>{column("same", j, right)}</details>'
        )
    if kind == "same":
        columns = column("old same", i, left, hidden=True) + column("new same", j, right)
        return f'<div class="hunk">{columns}</div>'
    alone = "" if any(row is not None for row in left) else " empty"
    columns = column(f"old del{alone}", i, left)
    alone = "" if any(row is not None for row in right) else " empty"
    return f'<div class="hunk">{columns}{column(f"new add{alone}", j, right)}</div>'


def unit_html(file, unit, kind):
    rows = [file.html(i) for i in range(unit.first, unit.last + 1)]
    return column(kind, unit.first, rows)


def section_html(changes, old, new, notes, plain):
    """The parts of a section as dicts for the template: folds, and changes with their notes.

    plain: the first version, whose code is not marked as added.
    """
    parts, seen = [], set()
    for change in changes:
        if change.same:
            if not parts or parts[-1]["kind"] != "fold":
                parts.append({"kind": "fold", "names": [], "lines": 0, "code": ""})
            parts[-1]["names"] += change.names
            parts[-1]["lines"] += change.new.last - change.new.first + 1
            parts[-1]["code"] += unit_html(new, change.new, "same")
            continue
        heading = next((names for names in notes.symbols if change.names[0] in names), change.names)
        if change.kind == "changed":
            code = "".join(map(hunk_html, change.hunks))
        elif change.kind == "added":
            code = unit_html(new, change.new, "new same" if plain else "new add")
        else:
            code = unit_html(old, change.old, "old del")
        last = parts[-1] if parts else {}
        if last.get("heading") == heading and last["kind"] == change.kind:
            last["code"] += code
            continue
        note = notes.symbols.get(heading, "") if heading not in seen else ""
        again = heading in seen and hunks.is_symbol(heading)
        folded = change.names == ("docstring",)
        part = {"kind": change.kind, "heading": heading, "note": note, "code": code, "again": again}
        parts.append(part | {"folded": folded, "symbol": hunks.is_symbol(heading)})
        seen.add(heading)
    return parts


def base_of(name):
    """The version that a version is built on, None for the first."""
    at = FILES.index(name)
    return FILES[at - 1] if at else None


def read(name):
    return (ROOT / f"{name}.py").read_text(encoding="utf-8")


def changed_symbols(name):
    """The names that differ between a version and the one before it; all names of the first."""
    new, base = hunks.Source(read(name)), base_of(name)
    found = hunks.compare(base and hunks.Source(read(base)), new)
    changes = [change for changes in found.values() for change in changes if not change.same]
    return {n for change in changes if hunks.is_symbol(change.names) for n in change.names}


def worth(name):
    """The picture of what each idea alone is worth, and its caption; nothing if it is not measured."""
    found = result("ablations")
    tables = {table[0][0]: table for table in found["tables"]} if found else {}
    title = next((t for t in tables if t.startswith("input.txt, ") and t.endswith("tokens")), None)
    if not title or name[:2] not in WORTH:
        return None
    changes = {row[0]: row[4] for row in tables[title][1:]}
    rows = [(row, float(changes[row])) for row in WORTH[name[:2]] if changes.get(row)]
    budget = title.removeprefix("input.txt, ")
    runs = [key.split(" | ") for key in found["runs"] if key.startswith(f"{budget} | input.txt | ")]
    seeds = {key[3] for key in runs}
    words = f"{budget} each, {len(seeds)} seed{'s' * (len(seeds) > 1)}"
    return rows and {"picture": pictures.bars(rows), "budget": words}


def step_page(name):
    base, notes = base_of(name), Notes(name)
    old, new = base and hunks.Source(read(base)), hunks.Source(read(name))
    sections = [
        {
            "title": title,
            "id": re.sub(r"\W+", "-", title.lower()),
            "same": all(change.same for change in changes),
            "parts": section_html(changes, old, new, notes, not base),
        }
        for title, changes in hunks.compare(old, new).items()
    ]
    at, drawn = STEPS.index(name), name[:2] in pictures.BLOCKS
    return {
        "name": name,
        "base": base,
        "notes": notes,
        "figures": ladder_rows().get(name),
        "sections": sections,
        "worth": worth(name),
        "drawing": drawn and pictures.before_and_after(base and base[:2], name[:2]),
        "before": STEPS[at - 1] if at else None,
        "after": STEPS[at + 1] if at + 1 < len(STEPS) else None,
    }


def token_html(n, token):
    """A token whose background shows its surprise, in one of eight classes."""
    words, bits, _ = token
    level = sum(bits >= edge for edge in (0.05, 0.2, 0.5, 1, 2, 4, 7))
    shown = escape(words, quote=False).replace("\n", "↵\n")
    return f'<span class="t t{level}" data-n="{n}" title="{bits:.2f} bits">{shown}</span>'


def story(name, tokens):
    bits, size = sum(t[1] for t in tokens), len("".join(t[0] for t in tokens).encode())
    return {
        "name": name,
        "html": "".join(token_html(n, token) for n, token in enumerate(tokens)),
        "data": json.dumps([t[1:] for t in tokens], ensure_ascii=False, separators=(",", ":")),
        "tokens": f"{len(tokens):,}",
        "bits": f"{bits:,.0f}",
        "per_byte": f"{bits / size:.2f}",
    }


def front_page():
    found = result("ladder")
    lines = {
        name: [(p["seconds"], p["val_bits_per_byte"]) for p in runs[0]]
        for name, runs in found["curves"].items()
    }
    order = [name for name in (*FILES, "nanoGPT") if name in lines]
    logs, floor = (True, True), ("entropy of the text", found["floor"])
    picture = pictures.curves(
        {name: lines[name] for name in order}, "seconds of training", "bits/byte", logs, floor
    )
    stories = json.loads((DOCS / "tokens.json").read_text(encoding="utf-8"))
    stories = [story(name, stories[name]) for name in reversed(stories)]
    rungs = [
        {"name": name, "notes": Notes(name), "sample": found["samples"].get(name)} for name in STEPS
    ]
    return {
        "picture": picture,
        "rungs": rungs,
        "rows": ladder_rows(),
        "stories": stories,
        "machine": found["machine"],
    }


def fault_page():
    """Each fault: its diff, as it would be reviewed, and what it does."""
    figures, faults = json.loads((DOCS / "faults.json").read_text(encoding="utf-8")), []
    for fault in FAULTS:
        old, new = (hunks.Source(source(fault, planted)) for planted in (False, True))
        changes = [c for cs in hunks.compare(old, new).values() for c in cs if not c.same]
        code = [{"names": c.names, "html": "".join(map(hunk_html, c.hunks))} for c in changes]
        axes = ("tokens in the prompt", "bits of the next token", (True, False))
        if fault["id"] != "cache":
            axes = ("step", "validation loss as printed, bits/byte", (False, False))
        picture = pictures.curves(figures[fault["id"]], *axes)
        text = {key: markdown(fault[key]) for key in ("story", "line", "curve", "seen")}
        faults.append(fault | text | {"code": code, "picture": picture})
    return {"faults": faults, "steps_of": STEPS_OF_FAULTS}


def render():
    """{file name: text} of the whole site."""
    env = Environment(
        loader=FileSystemLoader(DOCS / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.globals |= {"steps": STEPS}
    pages = {
        "index.html": ("index.html", front_page()),
        "faults.html": ("faults.html", fault_page()),
    }
    pages |= {f"{name[:2]}.html": ("step.html", step_page(name)) for name in STEPS}
    site = {
        page: env.get_template(template).render(page=page, **found)
        for page, (template, found) in pages.items()
    }
    for name in ("style.css", "page.js"):
        site[name] = (DOCS / name).read_text(encoding="utf-8")
    return site


def main():
    site = render()
    shutil.rmtree(DOCS / "site", ignore_errors=True)
    (DOCS / "site").mkdir()
    for name, text in site.items():
        (DOCS / "site" / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"{len(text.encode()):>9,} bytes  docs/site/{name}", file=sys.stderr)


if __name__ == "__main__":
    main()
