"""The ladder as a reader meets it: sections, diffs, length, imports, help."""

import ast
import hashlib
import importlib
import io
import json
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in ROOT.glob("v[0-9]_*.py"))
STEPS = list(zip(NAMES, NAMES[1:], strict=False))
SECTIONS = [
    "1 CONFIG",
    "2 TOKENIZER AND DATA",
    "3 MODEL",
    "4 OPTIMIZER",
    "5 EVALUATION",
    "6 GENERATION",
    "7 CHECKPOINT",
    "8 TRAINING",
    "9 COMMAND LINE",
]
LIBRARIES = {"numpy", "torch", "tyro", "matplotlib", "tqdm"}
STANDARD = {"collections", "contextlib", "ctypes", "dataclasses", "hashlib", "io", "json", "math"}
STANDARD |= {"os", "pathlib", "signal", "sys", "time", "typing"}
OFFERED = {"Config", "train", "load_run", "evaluate", "generate", "LanguageModel"}

each_version = pytest.mark.parametrize("name", NAMES)
each_step = pytest.mark.parametrize(("old", "new"), STEPS, ids=[new for _, new in STEPS])


def read(name):
    return (ROOT / f"{name}.py").read_text(encoding="utf-8")


def sections(name):
    """{title: text} of a file; `imports` is what stands between the docstring and section 1."""
    source = read(name)
    parts = re.split(r"^(# -+ \d .*)\n", source, flags=re.MULTILINE)
    end = ast.parse(source).body[0].end_lineno
    found = {"imports": "".join(parts[0].splitlines(keepends=True)[end:])}
    return found | {
        re.sub("^# -+ ", "", banner): text
        for banner, text in zip(parts[1::2], parts[2::2], strict=True)
    }


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
    return [
        line.rstrip() for i, line in enumerate(lines, 1) if i not in docstrings and line.strip()
    ]


def added_lines(old, new):
    """The number of '+' lines of `git diff --no-index --numstat`."""
    command = ["git", "diff", "--no-index", "--numstat", str(old), str(new)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    return int(shown.split()[0])


def test_the_course_is_short(tmp_path, capsys):
    lines = {name: len(read(name).splitlines()) for name in NAMES}
    for name in NAMES:
        text = "\n".join(code_lines(name)) + "\n"
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    added = [added_lines(f"{old}.py", f"{new}.py") for old, new in STEPS]
    code = [added_lines(tmp_path / f"{old}.py", tmp_path / f"{new}.py") for old, new in STEPS]
    course, course_code = lines[NAMES[0]] + sum(added), len(code_lines(NAMES[0])) + sum(code)
    with capsys.disabled():
        print(f"\nthe course: {course} lines, {course_code} of code; lines {lines}, added {added}")
    assert course <= 1200 and course_code <= 820
    assert lines["v0_bigram"] <= 430 and lines["v5_ngpt"] <= 950


@each_version
def test_no_function_is_long(name):
    functions = [n for n in ast.walk(ast.parse(read(name))) if isinstance(n, ast.FunctionDef)]
    assert not [f.name for f in functions if f.end_lineno - f.lineno + 1 > 45]


@each_version
def test_formatted_by_ruff(name):
    assert "fmt: off" not in read(name) and "fmt: skip" not in read(name)
    assert max(map(len, read(name).splitlines())) <= 100
    command = [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "100"]
    assert subprocess.run([*command, ROOT / f"{name}.py"], capture_output=True).returncode == 0


@each_version
def test_sections(name):
    assert list(sections(name)) == ["imports", *SECTIONS]


@each_step
def test_only_listed_sections_change(old, new):
    doc = ast.get_docstring(ast.parse(read(new)))
    listed = re.search(r"^Changed sections: ((?:.|\n  )*)", doc, re.MULTILINE)[1]
    before, after = sections(old), sections(new)
    changed = {title for title in before if before[title] != after[title]}
    assert set(re.split(r",\s+", listed)) == changed


@each_version
def test_docstring(name):
    doc = ast.get_docstring(ast.parse(read(name)))
    parts = ["New:", "Measured: ", f"Run: python {name}.py [train|sample|eval] [--help]"]
    if name != "v0_bigram":
        parts = ["Same as v", parts[0], "Changed sections: ", *parts[1:]]
    assert doc.startswith(f"{name[:2]}: ")
    places = [doc.index(f"\n{part}") for part in parts]
    assert places == sorted(places)


@each_version
def test_measured_is_what_the_benchmark_printed(name):
    measured = json.loads(
        (ROOT / "benchmarks" / "results" / "ladder.json").read_text(encoding="utf-8")
    )
    figures = measured["figures"][name]
    line = f"Measured: {figures['bits_per_byte']:.3f} bits/byte on input.txt, "
    line += f"{figures['parameters']:,} parameters, {figures['seconds']:.0f} s (one seed, two CPU cores)"
    assert line in read(name)


@pytest.mark.parametrize("name", ["v2_bpe_rope", "v3_alibi"])
def test_longer_windows_are_what_the_benchmark_printed(name):
    table = json.loads((ROOT / "benchmarks" / "results" / "length.json").read_text())["tables"][0]
    (row,) = [row for row in table if row[0] == f"`{name}`"]
    assert ", ".join(f"{float(cell):.3f}" for cell in row[1:]) in read(name)


@each_version
def test_imports(name):
    allowed = STANDARD | LIBRARIES | ({"bpe_tokenizer"} if name >= "v2" else set())
    found = set()
    for node in ast.walk(ast.parse(read(name))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    assert found <= allowed
    assert not re.search(r"(?<![.\w])(__import__|importlib|exec|eval|pickle)\(", read(name))


def test_nothing_imported_is_unsafe():
    for name in NAMES:
        loads = re.findall(r"torch\.load\(.*", read(name))
        assert loads and all("weights_only=True" in load for load in loads)


@each_version
def test_offers_the_same_names(name):
    assert OFFERED <= vars(importlib.import_module(name)).keys()


@each_version
def test_help_shows_every_flag_and_default(name, capsys, monkeypatch):
    module = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        module.main()
    shown = capsys.readouterr().out
    words = re.sub(r"[\s│]+", " ", shown)
    assert ended.value.code == 0
    assert max(map(len, shown.splitlines()[4:])) <= 80
    for field, default in vars(module.Config()).items():
        if field != "command":
            flag = f"--{field.replace('_', '-')}"
            text = words[words.index(flag) :]
            assert f"(default: {default!r})" in text or f"(default: {default})" in text, field
    if name >= "v5":
        assert "{muon,adamw,soap}" in words


# Lines of v5 that need what this machine may lack, or a state that a short run does not reach.
UNREACHED = (
    "if q.is_cuda:",
    "mask = None if T == S",
    "return F.scaled_dot_product_attention(",
    "q, k, v, mask, is_causal",
    "return torch.cuda.is_bf16",
    "return create_folder(cfg, tokenizer)",
    "received.append(number)",
    "signal.signal(number, signal.SIG_DFL)",
    "again = f",
    'raise UserError(f"stopped and saved',
    "save_progress(folder, cfg, corpus, model, optimizers, step, seconds, losses, rows)",
    'raise UserError("the weights are not finite',
    'print("The validation loss rose again',
    "raise",
    'sys.exit(f"{NAME}: out of memory',
    "if isinstance(error, RuntimeError)",
    "main()",
)


def test_v5_has_no_line_that_no_command_runs(tmp_path, monkeypatch, capsys):
    """Run v5's commands, good and bad, and list the statements in functions that never ran."""
    v5 = importlib.import_module("v5_ngpt")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "input.txt").read_text(encoding="utf-8")[:6000]
    Path("text.txt").write_text(text, encoding="utf-8")
    facts = {"sha256": hashlib.sha256(text.encode()).hexdigest()}
    facts["floor_bits_per_byte"] = {"validation": 0.2}
    Path("text.txt.json").write_text(json.dumps(facts), encoding="utf-8")
    Path("bad.txt").write_bytes(b"\xff\xfe")
    Path("short.txt").write_text("ab", encoding="utf-8")
    tiny = (
        "--n-layer 1 --n-embd 16 --n-head 2 --n-kv-head 1 --block-size 8 --batch-size 2 --evals 2"
    )
    tiny += " --vocab-size 300 --data text.txt --max-new-tokens 12 --max-steps 13 --device cpu"
    commands = [
        f"train {tiny} --out a --dropout 0.1 --dropout-schedule linear --top-k 5",
        "sample --out a --stop e --max-new-tokens 200",
        f"train {tiny} --optimizer adamw --dtype bfloat16 --top-p 0.9 --temperature 1",
        f"train {tiny} --optimizer soap --allowed-chars abcdefgh --max-seconds 0.2 --temperature 0",
        "sample --out a --top-p 0.5 --prompt Once --stop zzz",
        "eval --out a --context 16 --device auto",
        "train --resume --out a --max-steps 15 --tokenizer a/tokenizer.json",
        "train --resume --out a --max-steps 15",
        f"train {tiny} --out a",
        f"train {tiny} --out b --tokenizer a/tokenizer.json",
        "train --resume --out a --muon-learning-rate 1 --max-steps 20",
        f"train {tiny} --out c --learning-rate 1e38 --muon-learning-rate 1e38",
        "train --data bad.txt",
        f"{tiny.replace('text.txt', 'short.txt')}",
        "sample --out nowhere",
        "sample --out a --n-layer 2",
        "eval --device nowhere --out a",
        "train --n-layer 0",
        "train --dropout 2",
        "train --n-head 3",
        "train --n-head 4 --n-kv-head 3",
        "train --n-embd 12",
        "train --vocab-size 3",
    ]
    (tmp_path / "v4").mkdir()
    (tmp_path / "v4" / "config.json").write_text('{"version": "v4_gqa_swiglu"}')
    commands.append("sample --out v4")
    ran, file = set(), str(ROOT / "v5_ngpt.py")

    def trace(frame, event, argument):
        if frame.f_code.co_filename != file:
            return None
        ran.add(frame.f_lineno)
        return trace

    for command in commands:
        monkeypatch.setattr(sys, "argv", ["v5_ngpt.py", *command.split()])
        sys.settrace(trace)
        try:
            v5.main()
        except SystemExit:
            pass
        finally:
            sys.settrace(None)
    capsys.readouterr()
    lines, missed = read("v5_ngpt").splitlines(), []
    for function in ast.walk(ast.parse(read("v5_ngpt"))):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                is_doc = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                is_code = isinstance(node, ast.stmt) and node is not function and not is_doc
                if is_code and not ran & set(range(node.lineno, node.end_lineno + 1)):
                    missed.append(lines[node.lineno - 1].strip())
    assert not [line for line in missed if not line.startswith(UNREACHED)]
