"""The ladder as a reader meets it: sections, diffs, length, figures, imports, help."""

import ast
import importlib
import io
import json
import re
import subprocess
import sys
import tokenize
from collections import Counter

import pytest
from conftest import NAMES, ROOT

SECTIONS = ["1 CONFIG", "2 TOKENIZER AND DATA", "3 MODEL", "4 OPTIMIZER", "5 EVALUATION"]
SECTIONS += ["6 GENERATION", "7 CHECKPOINT", "8 TRAINING", "9 COMMAND LINE"]
LIBRARIES = {"numpy", "torch", "tyro", "matplotlib", "tqdm"}
STANDARD = {"collections", "contextlib", "ctypes", "dataclasses", "hashlib", "io", "json", "math"}
STANDARD |= {"os", "pathlib", "signal", "sys", "time", "typing"}
TOKENIZER = {"argparse", "array", "collections", "dataclasses", "functools", "gc", "heapq", "json"}
TOKENIZER |= {"itertools", "os", "pathlib", "re", "regex", "sys", "tqdm", "typing", "tyro"}
TOKENIZER |= {"tiktoken", "tokenizers", "warnings"}
OFFERED = {"Config", "train", "load_run", "evaluate", "generate", "LanguageModel"}


def read(name):
    return (ROOT / f"{name}.py").read_text(encoding="utf-8")


def base(name):
    """The file that a file differs from, by its docstring: v5_ngpt for "Same as v5: ..."."""
    version = re.search(r"^Same as (v\d): ", read(name), re.MULTILINE)[1]
    return next(other for other in NAMES if other.startswith(f"{version}_"))


STEPS = [(base(name), name) for name in NAMES[1:]]
USE = dict.fromkeys(NAMES, "sample") | {"v6_mlm": "fill"}
each_version = pytest.mark.parametrize("name", NAMES)
each_step = pytest.mark.parametrize(("old", "new"), STEPS, ids=[new for _, new in STEPS])


def sections(name):
    """{title: text} of a file; `imports` is what stands between the docstring and section 1."""
    source = read(name)
    parts = re.split(r"^(# -+ \d .*)\n", source, flags=re.MULTILINE)
    end = ast.parse(source).body[0].end_lineno
    found = {"imports": "".join(parts[0].splitlines(keepends=True)[end:])}
    titles = [re.sub("^# -+ ", "", banner) for banner in parts[1::2]]
    return found | dict(zip(titles, parts[2::2], strict=True))


def code_lines(name):
    """The lines of a file without docstrings, comments and blank lines."""
    source = read(name)
    lines, docstrings = source.splitlines(), set()
    for node in ast.walk(ast.parse(source)):
        first = getattr(node, "body", None) and isinstance(node.body, list) and node.body[0]
        if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", 0), str):
            docstrings.update(range(first.lineno, first.end_lineno + 1))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    lines = [line.rstrip() for i, line in enumerate(lines, 1) if i not in docstrings]
    return [line for line in lines if line]


def added_lines(old, new):
    """The number of '+' lines of `git diff --no-index`."""
    command = ["git", "diff", "--no-index", "--numstat", str(old), str(new)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    return int(shown.split()[0])


def test_the_course_is_short(tmp_path, capsys):
    """v0 and the five diffs, in lines and in lines of code."""
    ladder, steps = NAMES[:6], STEPS[:5]
    lines = {name: len(read(name).splitlines()) for name in ladder}
    for name in ladder:
        text = "\n".join(code_lines(name)) + "\n"
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    added = [added_lines(f"{old}.py", f"{new}.py") for old, new in steps]
    code = [added_lines(tmp_path / f"{old}.py", tmp_path / f"{new}.py") for old, new in steps]
    course, course_code = lines[NAMES[0]] + sum(added), len(code_lines(NAMES[0])) + sum(code)
    with capsys.disabled():
        print(f"\nthe course: {course} lines, {course_code} of code; lines {lines}, added {added}")
    assert course <= 1260 and course_code <= 820
    assert lines["v0_bigram"] <= 430 and lines["v5_ngpt"] <= 950


def test_the_branch_is_short():
    """v6 adds at most 120 lines to v5; what --init-from needs is counted apart."""
    old, new = (read(name).splitlines() for name in ("v5_ngpt", "v6_mlm"))
    start = new.index("def init_from(folder, model):")
    length = new[start:].index(
        "# What --resume may change. All other settings, and the text, make the run what it is."
    )
    apart = [line for line in new if "cfg.init_from and" in line or "init_from(source" in line]
    assert length <= 15 and len(apart) == 2
    assert added_lines("v5_ngpt.py", "v6_mlm.py") - length - len(apart) <= 120


@each_version
def test_functions_are_short_and_used(name):
    source = read(name)
    assert "fmt: off" not in source and "fmt: skip" not in source
    assert max(map(len, source.splitlines())) <= 100
    words = Counter(re.findall(r"\w+", "\n".join(code_lines(name))))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert words[node.name] > 1 or node.name in ("__init__", "forward"), node.name
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 45, node.name


@pytest.mark.parametrize("command", (["check"], ["format", "--check"]), ids=" ".join)
def test_ruff_finds_nothing_to_change(command):
    command = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@each_version
def test_sections_and_docstring(name):
    assert list(sections(name)) == ["imports", *SECTIONS]
    doc = ast.get_docstring(ast.parse(read(name)))
    parts = ["New:", "Measured: ", f"Run: python {name}.py [train|{USE[name]}|eval] [--help]"]
    if name != "v0_bigram":
        parts = ["Same as v", parts[0], "Changed sections: ", *parts[1:]]
    assert doc.startswith(f"{name[:2]}: ")
    places = [doc.index(f"\n{part}") for part in parts]
    assert places == sorted(places)


@each_step
def test_only_listed_sections_change(old, new):
    doc = ast.get_docstring(ast.parse(read(new)))
    listed = re.search(r"^Changed sections: ((?:.|\n  )*)", doc, re.MULTILINE)[1]
    before, after = sections(old), sections(new)
    changed = {title for title in before if before[title] != after[title]}
    assert set(re.split(r",\s+", listed)) == changed


@pytest.mark.parametrize("name", NAMES[:6])
def test_measured_is_what_the_benchmark_printed(name):
    ladder = ROOT / "benchmarks" / "results" / "ladder.json"
    figures = json.loads(ladder.read_text(encoding="utf-8"))["figures"][name]
    line = f"Measured: {figures['bits_per_byte']:.3f} bits/byte on input.txt, "
    line += f"{figures['parameters']:,} parameters, {figures['seconds']:.0f} s "
    assert line + "(one seed, two CPU cores)" in read(name)
    if name in NAMES[2:4]:  # who also say what longer windows cost
        table = json.loads((ladder.parent / "length.json").read_text(encoding="utf-8"))["tables"][0]
        (row,) = [row for row in table if row[0] == f"`{name}`"]
        assert ", ".join(f"{float(cell):.3f}" for cell in row[1:]) in read(name)


def test_measured_of_the_branch():
    results = ROOT / "benchmarks" / "results" / "mlm.json"
    found = json.loads(results.read_text(encoding="utf-8"))["figures"]
    line = f"Measured: {100 * found['words']:.0f} % of hidden words right on input.txt, "
    line += f"{found['bits_per_byte']:.3f} bits/byte, {found['parameters']:,} parameters (one seed)"
    assert f"{line}\n" in read("v6_mlm")


@pytest.mark.parametrize("name", [*NAMES, "bpe_tokenizer"])
def test_imports_are_these_and_nothing_unsafe_is_loaded(name):
    """A version imports no module of this project but the tokenizer, and the tokenizer none."""
    allowed = TOKENIZER if name == "bpe_tokenizer" else STANDARD | LIBRARIES
    allowed = allowed | ({"bpe_tokenizer"} if name >= "v2" else set())
    source, found = read(name), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    assert found <= allowed, found - allowed
    assert not re.search(r"(?<![.\w])(__import__|importlib|exec|eval|pickle)\(", source)
    loads = re.findall(r"torch\.load\(.*", source)
    assert all("weights_only=True" in load for load in loads)
    if name != "bpe_tokenizer":
        offered = OFFERED - ({"generate"} if name == "v6_mlm" else set())
        assert loads and offered <= vars(importlib.import_module(name)).keys()


@each_version
def test_help_shows_every_flag_and_default(name, capsys, monkeypatch):
    module = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        module.main()
    shown = capsys.readouterr().out
    words = re.sub(r"[\s│]+", " ", shown)
    assert ended.value.code == 0 and max(map(len, shown.splitlines()[4:])) <= 80
    for field, default in vars(module.Config()).items():
        if field != "command":
            flag = f"--{field.replace('_', '-')}"
            text = words[words.index(flag) :]
            assert f"(default: {default!r})" in text or f"(default: {default})" in text, field
    assert "{muon,adamw,soap}" in words or name != "v5_ngpt"
