"""What the six versions promise as a series: the same ten sections, no hidden changes, and comments that are true.

Each check is a function of a folder that returns the faults it finds, as a list of strings. The tests ask for an
empty list on this repository, and for the right fault on copies that were broken on purpose.
"""

import ast
import dataclasses
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
import types
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("v0_bigram", "v1_transformer", "v2_bpe_rope", "v3_alibi", "v4_gqa_swiglu", "v5_ngpt")
SECTIONS = (
    "1 CONFIG",
    "2 TOKENIZER AND DATA",
    "3 MODEL",
    "4 OPTIMIZER",
    "5 EVALUATION",
    "6 GENERATION",
    "7 CHECKPOINT",
    "8 REPORT",
    "9 TRAINING",
    "10 COMMAND LINE",
)
OFFERED = ("Config", "train", "load_run", "evaluate", "generate", "LanguageModel")  # what others may import
INSTALLED = {"numpy", "torch", "tqdm", "matplotlib"}  # what a version may import beside the standard library
# Methods whose meaning is that of the interface they belong to: nn.Module, Optimizer, argparse, signal.
UNDOCUMENTED = {"forward", "step", "zero_grad", "state", "register_step_post_hook"}
UNDOCUMENTED |= {"receive", "error"}
LONGEST = 45  # lines of a function
BANNER = re.compile(r"^# -+ (\d+ [A-Z ]+)$")

each_version = pytest.mark.parametrize("name", VERSIONS)
each_number = pytest.mark.parametrize("number", range(1, len(VERSIONS)))


def read(folder, name):
    """The source of a version, with line ends as they are in the file."""
    return (folder / f"{name}.py").read_bytes().decode()


def load(folder, name, tree=None, **names):
    """Run a version's source (or a tree made from it) as a module of its own, where `names` are defined."""
    path = folder / f"{name}.py"
    module = types.ModuleType(f"loaded_{name}")
    module.__file__ = str(path)
    vars(module).update(names)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(compile(tree or read(folder, name), str(path), "exec"), vars(module))
    finally:
        del sys.modules[module.__name__]
    return module


def run_python(folder, *arguments):
    """A fresh interpreter in a folder; it finds no modules but the installed ones and those in the folder."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small are faster so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def copies(tmp_path):
    """A folder with copies of the versions, to be broken."""
    for name in (*VERSIONS, "bpe_tokenizer"):
        shutil.copy(ROOT / f"{name}.py", tmp_path)
    return tmp_path


def change(folder, name, old, new):
    """Replace the first occurrence of a text in a copy, which must be there."""
    source = read(folder, name)
    assert old in source, f"{name} has no {old!r} to break"
    (folder / f"{name}.py").write_bytes(source.replace(old, new, 1).encode())


# ---- sections and docstrings


def banners(source):
    """Title and line of each banner, in order."""
    return [(match[1], line) for line in source.splitlines() if (match := BANNER.match(line))]


def sections(source):
    """The text of each section under its title; `imports` is what stands between the docstring and section 1."""
    lines = source.splitlines(keepends=True)
    after_docstring = ast.parse(source).body[0].end_lineno
    title, parts = "imports", {"imports": ""}
    for line in lines[after_docstring:]:
        if match := BANNER.match(line.rstrip("\r\n")):
            title = match[1]
            parts[title] = ""
        parts[title] += line
    return parts


def listed(source):
    """The sections that a docstring names under `Changed sections:`."""
    text = (ast.get_docstring(ast.parse(source)) or "").split("Changed sections:")[-1].split("\nMeasured:")[0]
    return [title.strip().rstrip(".") for title in " ".join(text.split()).split(",")]


def banner_faults(folder):
    """Each file has the ten banners, once, in order, and each banner is the same line in all files."""
    faults, first = [], banners(read(folder, VERSIONS[0]))
    for name in VERSIONS:
        found = banners(read(folder, name))
        if tuple(title for title, _ in found) != SECTIONS:
            faults.append(f"{name}: its sections are {[title for title, _ in found]}")
        faults += [f"{name}: another line than in v0: {b[1]}" for a, b in zip(first, found, strict=False) if a != b]
    return faults


def difference_faults(folder, number):
    """A section differs from the one in the version before if, and only if, the docstring says so."""
    name, source = VERSIONS[number], read(folder, VERSIONS[number])
    before, after, said = sections(read(folder, VERSIONS[number - 1])), sections(source), listed(source)
    faults = [f"{name}: lists {title!r}, which is no section" for title in said if title not in after]
    if said != [title for title in ("imports", *SECTIONS) if title in said]:
        faults.append(f"{name}: lists its sections out of order: {said}")
    for title in after:
        if title in said and after[title] == before.get(title):
            faults.append(f"{name}: lists {title} as changed, which is as before")
        if title not in said and after[title] != before.get(title):
            faults.append(f"{name}: changes {title} without listing it")
    return faults


def docstring_faults(folder, number):
    """The module docstring has its six parts in order, and 2 to 5 bullets under New."""
    name, before = VERSIONS[number], f"v{number - 1}" if number else "before"
    lines = (ast.get_docstring(ast.parse(read(folder, name))) or "").splitlines() or [""]
    parts = (f"v{number}: ", f"Same as {before}: ", "New:", "Changed sections: ", "Measured: ", "Run: ")
    at = [[i for i, line in enumerate(lines) if line.startswith(part)] for part in parts]
    faults = [f"{name}: {len(a)} lines begin with {part!r}" for part, a in zip(parts, at, strict=True) if len(a) != 1]
    if faults:
        return faults
    at = [a[0] for a in at]
    if at != sorted(at) or at[0] != 0:
        faults.append(f"{name}: the docstring's parts are out of order")
    bullets = sum(line.startswith("  - ") for line in lines[at[2] + 1 : at[3]])
    if not 2 <= bullets <= 5:
        faults.append(f"{name}: {bullets} bullets under New")
    if f"python {name}.py" not in lines[at[5]]:
        faults.append(f"{name}: Run does not say how to run it")
    return faults


def test_banners():
    assert banner_faults(ROOT) == []


@each_number
def test_only_listed_sections_differ(number):
    assert difference_faults(ROOT, number) == []


@pytest.mark.parametrize("number", range(len(VERSIONS)))
def test_docstring(number):
    assert docstring_faults(ROOT, number) == []


@each_version
@pytest.mark.parametrize("old, new", [(" 8 REPORT\n", " 8 REPORTS\n"), ("--- 6 GEN", "-- 6 GEN")])
def test_red_banner(copies, name, old, new):
    change(copies, name, old, new)
    assert banner_faults(copies) != []


@each_number
def test_red_unlisted_change(copies, number):
    """A blank added to each section that is not listed is found each time."""
    name, source = VERSIONS[number], read(copies, VERSIONS[number])
    expected, broken = [], source
    for title, text in sections(source).items():
        if title not in listed(source):
            expected.append(f"{name}: changes {title} without listing it")
            broken = broken.replace(text, text + " \n")
    (copies / f"{name}.py").write_bytes(broken.encode())
    assert len(expected) >= 4 and difference_faults(copies, number) == expected


@each_number
def test_red_listed_without_change(copies, number):
    name, said = VERSIONS[number], listed(read(copies, VERSIONS[number]))
    title = next(title for title in reversed(SECTIONS) if title not in said)
    change(copies, name, "Changed sections: ", f"Changed sections: {title}, ")
    assert f"{name}: lists {title} as changed, which is as before" in difference_faults(copies, number)


@pytest.mark.parametrize("old, new", [("\nNew:", "\nNews:"), ("\n  - ", "\n  * "), ("\nMeasured:", "\nRun: x\nM:")])
def test_red_docstring(copies, old, new):
    faults = []
    for _ in range(5):  # takes away one bullet after the other
        if old in read(copies, "v5_ngpt"):
            change(copies, "v5_ngpt", old, new)
            faults += docstring_faults(copies, 5)
    assert faults != []


# ---- what a file may import, and what importing it may do


def import_faults(folder, name):
    """No version imports another version, nor a helper module other than bpe_tokenizer (from v2 on)."""
    allowed = INSTALLED | set(sys.stdlib_module_names) - {"importlib", "runpy"}
    allowed |= {"bpe_tokenizer"} if VERSIONS.index(name) >= 2 else set()
    faults = []
    for node in ast.walk(ast.parse(read(folder, name))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = ["." * node.level + (node.module or "")]
        elif isinstance(node, ast.Name) and node.id == "__import__":
            modules = [node.id]
        faults += [f"{name}: imports {module}" for module in modules if module.split(".")[0] not in allowed]
    return faults


# One interpreter runs all commands, each in its version's folder, so that torch is imported once.
RUNNER = """
import contextlib, io, json, os, runpy, sys, traceback

sys.path[0] = ""  # the current folder
for name, (folder, commands) in json.loads(sys.argv[1]).items():
    os.chdir(folder)
    outputs, error = [], ""
    for sys.argv in ([f"{name}.py", *command] for command in commands):
        with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                runpy.run_path(f"{name}.py", run_name="__main__")
            except SystemExit as end:
                error += f"status {end.code}: {said.getvalue()}" if end.code else ""
            except Exception:
                error += traceback.format_exc()
        outputs.append(output.getvalue())
    for module in list(sys.modules):
        if (getattr(sys.modules[module], "__file__", None) or "").startswith(os.getcwd()):
            del sys.modules[module]  # the next folder must bring its own
    print(json.dumps([name, outputs, error[-800:]]))
"""


def standalone_faults(folder, names, empty):
    """A copy alone in an empty folder, with bpe_tokenizer.py from v2 on, trains, samples and evaluates."""
    small = {"n_layer": 1, "n_head": 2, "n_kv_head": 1, "n_embd": 8, "d_ff": 12, "vocab_size": 260}
    small |= {"block_size": 8, "batch_size": 2, "max_steps": 3, "evals": 1, "max_new_tokens": 5, "device": "cpu"}
    jobs, faults = {}, []
    for name in names:
        alone = empty / f"only_{name}"
        alone.mkdir()
        shutil.copy(folder / f"{name}.py", alone)
        if VERSIONS.index(name) >= 2:
            shutil.copy(folder / "bpe_tokenizer.py", alone)
        (alone / "text.txt").write_text("one fish, two fish, red fish, blue fish\n" * 60, encoding="utf-8")
        knobs = {f.name for f in dataclasses.fields(load(folder, name).Config)}
        flags = [text for k, v in small.items() if k in knobs for text in ("--" + k.replace("_", "-"), str(v))]
        jobs[name] = (str(alone), [["--help"], ["--data", "text.txt", *flags], ["sample"], ["eval"]])
    result = run_python(empty, "-c", RUNNER, json.dumps(jobs))
    if result.returncode:
        return [result.stderr]
    for name, outputs, error in map(json.loads, result.stdout.splitlines()):
        faults += [f"{name}: {error}"] if error else []
        for i, sign in enumerate(("usage: ", "bits/byte", "", "bits/byte")):
            if sign not in outputs[i] or not outputs[i]:
                faults.append(f"{name} {jobs[name][1][i][:1]}: printed {outputs[i]!r}")
        made = {p.name for p in Path(jobs[name][0]).glob(f"runs/{name}/1/*")}
        faults += [f"{name}: wrote no {file}" for file in ("best.pt", "metrics.csv", "sample.txt") if file not in made]
    return faults


WATCHER = """
import contextlib, hashlib, importlib, io, json, os, pickle, random, signal, sys
import numpy, torch, torch.nn, tqdm

def state():
    return {
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "threads between operators": torch.get_num_interop_threads(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "random state of torch": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        "random state of numpy": hashlib.sha256(pickle.dumps(numpy.random.get_state())).hexdigest(),
        "random state of Python": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
        "signal handlers": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "files": os.listdir(),
        "matplotlib": "matplotlib" in sys.modules,
    }

torch.set_num_threads(3)  # a number that no file would set
sys.path.insert(0, sys.argv[1])
faults = []
for name in sys.argv[2:]:
    before, printed = state(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        importlib.import_module(name)
    after = state()
    faults += [f"{name}: importing it changes: {key}" for key in before if before[key] != after[key]]
    faults += [f"{name}: importing it prints {printed.getvalue()!r}"] if printed.getvalue() else []
print(json.dumps(faults))
"""


def side_effects(folder, empty):
    """Importing the versions, in an empty folder, prints nothing, writes nothing and changes nothing."""
    result = run_python(empty, "-c", WATCHER, folder, *VERSIONS)
    if result.returncode or result.stderr:
        return [result.stderr]
    try:
        return json.loads(result.stdout)
    except json.JSONDecodeError:
        return [f"importing prints {result.stdout!r}"]


@each_version
def test_imports(name):
    assert import_faults(ROOT, name) == []


def test_each_runs_alone(tmp_path):
    assert standalone_faults(ROOT, VERSIONS, tmp_path) == []


def test_importing_does_nothing(tmp_path):
    assert side_effects(ROOT, tmp_path) == []


@pytest.mark.parametrize(
    "name, line",
    [
        ("v1_transformer", "import v0_bigram"),
        ("v1_transformer", "from bpe_tokenizer import BPETokenizer"),
        ("v2_bpe_rope", "import json, data.stories"),
        ("v3_alibi", "from . import v2_bpe_rope"),
        ("v4_gqa_swiglu", "def helper():\n    from v3_alibi import alibi_slopes"),
        ("v5_ngpt", "v4 = __import__('v4_gqa_swiglu')"),
        ("v5_ngpt", "import importlib"),
    ],
)
def test_red_import(copies, name, line):
    (copies / f"{name}.py").write_text(read(copies, name) + f"\n{line}\n", encoding="utf-8")
    assert len(import_faults(copies, name)) == 1


def test_red_not_alone(copies, tmp_path_factory):
    """A module that is fetched only when training starts is missed too, even one that a neighbour has."""
    change(copies, "v1_transformer", "    model.train()\n", "    import bpe_tokenizer\n\n    model.train()\n")
    faults = standalone_faults(copies, ("v2_bpe_rope", "v1_transformer"), tmp_path_factory.mktemp("empty"))
    assert all(fault.startswith("v1_transformer") for fault in faults)
    assert "No module named 'bpe_tokenizer'" in faults[0]


def test_red_side_effects(copies, tmp_path_factory):
    effects = {
        "torch.set_num_threads(1)": "threads",
        "torch.set_default_dtype(torch.float64)": "default dtype",
        "torch.set_grad_enabled(False)": "grad mode",
        "import matplotlib": "matplotlib",
        "open('trace.txt', 'w').close()": "files",
        "print('hello')": "hello",
    }
    for name, (effect, _) in zip(VERSIONS, effects.items(), strict=True):
        (copies / f"{name}.py").write_text(read(copies, name) + f"\n{effect}\n", encoding="utf-8")
    faults = side_effects(copies, tmp_path_factory.mktemp("empty"))
    assert len(faults) == len(VERSIONS)
    for name, fault, sign in zip(VERSIONS, faults, effects.values(), strict=True):
        assert fault.startswith(name) and sign in fault


# ---- names, docstrings, lengths, and calls that run code from a file


def call_faults(node):
    """What is wrong with one node: it runs text as code, or loads what could run code."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
        return [f"imports {m}" for m in modules if m.split(".")[0] in ("pickle", "marshal", "shelve", "dill")]
    if isinstance(node, ast.Global):
        return [f"global {', '.join(node.names)}"]
    if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
        return ["torch.load without weights_only=True"]
    if not isinstance(node, ast.Call):
        return []
    called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
    faults = [called] if called in ("exec", "eval", "compile", "builtins.exec", "builtins.eval") else []
    return faults + (["allow_pickle"] if given.get("allow_pickle", "False") != "False" else [])


def style_faults(folder, name):
    """What the file offers, its docstrings, the length of its functions, and what it must never call."""
    tree, faults = ast.parse(read(folder, name)), []
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    faults += [f"{name}: offers no {wanted}" for wanted in OFFERED if wanted not in defined]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    safe = {c.func for c in calls if any(ast.unparse(k) == "weights_only=True" for k in c.keywords)}
    methods = {f for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for f in c.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            excused = node.name.startswith("_") or (node in methods and node.name in UNDOCUMENTED)
            if not excused and not ast.get_docstring(node):
                faults.append(f"{name}:{node.lineno}: {node.name} has no docstring")
            n_lines = node.end_lineno - node.lineno + 1
            if n_lines > LONGEST and not isinstance(node, ast.ClassDef):
                faults.append(f"{name}:{node.lineno}: {node.name} has {n_lines} lines")
        if node not in safe:
            faults += [f"{name}:{node.lineno}: {fault}" for fault in call_faults(node)]
    return faults


@each_version
def test_style(name):
    assert style_faults(ROOT, name) == []


@pytest.mark.parametrize(
    "added, sign",
    [
        ("def helper():\n    return 1", "helper has no docstring"),
        ("class Helper:\n    x = 1", "Helper has no docstring"),
        ("class Helper:\n    '''Help.'''\n    def help(self):\n        return 1", "help has no docstring"),
        ("def step():\n    return 1", "step has no docstring"),
        ("def helper():\n    '''Help.'''\n" + "    x = 1\n" * 44, "helper has 46 lines"),
        ("exec('1')", "exec"),
        ("x = eval('1')", "eval"),
        ("import pickle", "imports pickle"),
        ("from pickle import loads", "imports pickle"),
        ("torch.load('x')", "torch.load"),
        ("torch.load('x', weights_only=False)", "torch.load"),
        ("read = torch.load", "torch.load"),
        ("np.load('x', allow_pickle=True)", "allow_pickle"),
        ("def f():\n    '''F.'''\n    global VERSION", "global VERSION"),
    ],
)
def test_red_style(copies, added, sign):
    (copies / "v0_bigram.py").write_text(read(copies, "v0_bigram") + f"\n{added}\n", encoding="utf-8")
    faults = style_faults(copies, "v0_bigram")
    assert len(faults) == 1 and sign in faults[0]


@pytest.mark.parametrize("added", ["model.eval()", "def _f():\n    '''F.'''\n" + "    x = 1\n" * 43])
def test_style_allows(copies, added):
    (copies / "v0_bigram.py").write_text(read(copies, "v0_bigram") + f"\n{added}\n", encoding="utf-8")
    assert style_faults(copies, "v0_bigram") == []


@pytest.mark.parametrize("wanted", OFFERED)
def test_red_offered(copies, wanted):
    source = re.sub(rf"^(def|class) {wanted}\b", rf"\1 {wanted}_", read(copies, "v3_alibi"), flags=re.MULTILINE)
    (copies / "v3_alibi.py").write_text(source, encoding="utf-8")
    assert style_faults(copies, "v3_alibi") == [f"v3_alibi: offers no {wanted}"]


# ---- shape comments, compared with the shapes of a run
#
# Sizes are such that no two symbols, nor the expressions made from them in the comments, have the same value.

SIZES = {"B": 7, "T": 10, "C": 48, "H": 6, "K": 3, "D": 8, "F": 40, "V": 61}
PAST = 9  # tokens that a cache holds before T more come
SHAPE = re.compile(r"\(([^()]*)\)")
TERM = r"(?:past|[A-Z]|\d+)"
DIMENSION = re.compile(rf"{TERM}(?:\s*[-+*/]\s*{TERM})*")
# Comments to be found at least in section 3. If you remove some on purpose, lower the number.
ENOUGH = {
    "v0_bigram": 1,
    "v1_transformer": 10,
    "v2_bpe_rope": 14,
    "v3_alibi": 10,
    "v4_gqa_swiglu": 18,
    "v5_ngpt": 20,
}


@dataclasses.dataclass
class Comment:
    """A trailing comment that states shapes, and what the statement before it gave when it ran."""

    section: str
    line: int
    shapes: list  # of lists of dimensions, such as [["B", "H", "T", "past + T"]]
    statement: ast.stmt
    on_gpu: bool  # in a branch that only a GPU takes
    seen: list = dataclasses.field(default_factory=list)  # (sizes, shapes of the values) of each time


def find_shapes(text):
    """The shapes that a comment states: all its brackets that hold only dimensions, at least one a letter."""
    shapes = []
    for inside in SHAPE.findall(text):
        dimensions = [d.strip() for d in inside.rstrip().removesuffix(",").split(",")]
        known = dimensions[1:] if dimensions[0] == "..." else dimensions
        if all(DIMENSION.fullmatch(d) for d in known) and re.search("[A-Z]|past", inside):
            shapes.append(dimensions)
    return shapes


def find_statement(tree, line):
    """The innermost statement that a line belongs to, if it has no body; and whether only a GPU runs it."""
    statement, on_gpu, inside = None, False, tree.body
    while inside:
        statement = next((s for s in inside if s.lineno <= line <= s.end_lineno), None)
        blocks = [getattr(statement, part, []) for part in ("body", "orelse", "finalbody")]
        blocks += [handler.body for handler in getattr(statement, "handlers", [])]
        inside = next((b for b in blocks if b and b[0].lineno <= line <= b[-1].end_lineno), None)
        if inside is None and any(blocks):
            return None, False  # on the head of a compound statement
        if isinstance(statement, ast.If) and inside is statement.body and "cuda" in ast.unparse(statement.test):
            on_gpu = True
    return statement, on_gpu


def find_comments(source):
    """All shape comments of section 3, those of section 2 where they state shapes in letters, and faults."""
    tree, comments, faults, title = ast.parse(source), [], [], ""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, text = token.start[0], token.string.removeprefix("#").strip()
        if match := BANNER.match(lines[line - 1]):
            title = match[1]
        if title not in ("2 TOKENIZER AND DATA", "3 MODEL") or not lines[line - 1][: token.start[1]].strip():
            continue
        shapes = find_shapes(text)
        if not shapes and title == "3 MODEL" and text.startswith("("):
            faults.append(f"{line}: not a shape that can be checked: {text}")
        if shapes:
            statement, on_gpu = find_statement(tree, line)
            if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return):
                comments.append(Comment(title, line, shapes, statement, on_gpu))
            else:
                faults.append(f"{line}: a shape beside neither an assignment nor a return: {text}")
    return tree, comments, faults


def leaves(target):
    """The names that an assignment binds, (a, b) = ... being two; `_` does not count."""
    if isinstance(target, ast.Tuple | ast.List):
        return [leaf for element in target.elts for leaf in leaves(element)]
    return [] if ast.unparse(target) == "_" else [target]


class Instrument(ast.NodeTransformer):
    """Makes every commented statement report its values by calling __seen__(index of its comment, values)."""

    def __init__(self, comments):
        self.index = {id(comment.statement): i for i, comment in enumerate(comments)}

    def report(self, statement, value):
        return ast.parse(f"__seen__({self.index[id(statement)]}, ({value},))", mode="eval").body

    def assigned(self, node):
        if id(node) not in self.index:
            return node
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [ast.unparse(leaf) for target in targets for leaf in leaves(target)]
        return [node, ast.Expr(self.report(node, ", ".join(names)))]

    visit_Assign = visit_AnnAssign = visit_AugAssign = assigned

    def visit_Return(self, node):
        if id(node) in self.index:
            node.value = self.report(node, ast.unparse(node.value))
        return node


def flatten(values):
    """Values in nested tuples and lists, one after the other."""
    return [v for value in values for v in (flatten(value) if isinstance(value, tuple | list) else [value])]


def exercise(module, number, sizes):
    """Run the model in training, in evaluation and, from v4 on, with a cache; `sizes` says what holds meanwhile."""
    torch.manual_seed(0)
    knobs = {f.name for f in dataclasses.fields(module.Config)}
    wanted = {"n_layer": 2, "n_head": SIZES["H"], "n_kv_head": SIZES["K"], "n_embd": SIZES["C"], "d_ff": SIZES["F"]}
    wanted |= {"batch_size": SIZES["B"], "block_size": 4 * (PAST + SIZES["T"]), "dropout": 0.1, "device": "cpu"}
    cfg = module.Config(**{k: v for k, v in wanted.items() if k in knobs})
    sizes |= SIZES | ({} if "d_ff" in knobs else {"F": 4 * SIZES["C"]})
    if number >= 4:
        sizes["past"] = 0
    else:
        del sizes["K"]
    model = module.LanguageModel(cfg, SIZES["V"])
    tokens = (np.arange(200) % SIZES["V"]).astype(np.uint16)
    module.get_batch(tokens, dataclasses.replace(cfg, block_size=SIZES["T"]), 0, torch.device("cpu"))
    idx = torch.randint(SIZES["V"], (SIZES["B"], PAST + SIZES["T"]))
    model.train()(idx[:, : SIZES["T"]], idx[:, 1 : SIZES["T"] + 1])
    model.eval()(idx[:, : SIZES["T"]])
    if number >= 4:
        cache = [module.KVCache() for _ in model.blocks]
        with torch.inference_mode():
            sizes["T"] = PAST
            model(idx[:, :PAST], cache=cache)
            sizes |= {"T": SIZES["T"], "past": PAST}
            model(idx[:, PAST:], cache=cache)


def observe(folder, name):
    """The shape comments of a file, each with what was seen when its line ran; and faults."""
    tree, comments, faults = find_comments(read(folder, name))
    sizes = {}

    def seen(index, values):
        shapes = [tuple(v.shape) if hasattr(v, "shape") else type(v).__name__ for v in flatten(values)]
        comments[index].seen.append((dict(sizes), shapes))
        return values[0]

    instrumented = ast.fix_missing_locations(Instrument(comments).visit(tree))
    exercise(load(folder, name, instrumented, __seen__=seen), VERSIONS.index(name), sizes)
    return comments, faults


def agree(shape, value, sizes):
    """Whether a stated shape is that of a value, and what it amounts to; (..., T, D) leaves open what comes first."""
    expected = tuple(... if d == "..." else eval(d.replace("/", "//"), {}, dict(sizes)) for d in shape)
    if not isinstance(value, tuple):
        return False, expected
    if expected[:1] == (...,):
        return value[-len(expected) + 1 :] == expected[1:], expected
    return value == expected, expected


def comment_faults(comment):
    """Where a comment and what was seen disagree."""
    if not comment.seen and not comment.on_gpu:
        return [f"{comment.line}: never ran, so its shape is unchecked"]
    faults = set()
    for sizes, found in comment.seen:
        stated = comment.shapes if len(comment.shapes) > 1 else comment.shapes * max(1, len(found))
        unknown = {s for shape in stated for d in shape for s in re.findall("past|[A-Z]", d)} - set(sizes)
        if unknown:
            return [f"{comment.line}: unknown sizes {sorted(unknown)}"]
        for shape, value in itertools.zip_longest(stated, found):
            is_true, expected = agree(shape or [], value, sizes)
            if not is_true:
                faults.add(f"{comment.line}: says ({', '.join(shape or [])}), which is {expected}, but is {value}")
    return sorted(faults)


def legend_faults(section, comments):
    """Every letter in the comments is explained on top of the section (`Shapes: B batch, ...`)."""
    legend = re.search(r"^# Shapes: (.*(?:\n# .*)*)", section, re.MULTILINE)
    explained = set(re.findall(r"(?:^|, |\n# )([A-Z])(?= \w)", legend[1])) if legend else set()
    used = {letter for c in comments for shape in c.shapes for d in shape for letter in re.findall("[A-Z]", d)}
    return [f"the legend of MODEL does not explain {letter}" for letter in sorted(used - explained)]


def shape_faults(folder, name):
    """All that is wrong with the shape comments of a file."""
    comments, faults = observe(folder, name)
    in_model = [c for c in comments if c.section == "3 MODEL"]
    if len(in_model) < ENOUGH[name]:
        faults.append(f"only {len(in_model)} shape comments in MODEL, where {ENOUGH[name]} are expected")
    faults += legend_faults(sections(read(folder, name))["3 MODEL"], in_model)
    return [f"{name}:{fault}" for fault in faults + [f for c in comments for f in comment_faults(c)]]


def new_shape_faults(folder, name, old, new):
    """The faults that a change brings."""
    before = shape_faults(folder, name)
    change(folder, name, old, new)
    return [fault for fault in shape_faults(folder, name) if fault not in before]


def test_sizes_are_distinct():
    """Else a comment with the wrong letter could pass."""
    s = SIZES | {"past": PAST}
    values = [*s.values(), s["D"] // 2, s["past"] + s["T"], s["T"] + 1, 4 * s["C"], 1, 2]
    assert len(set(values)) == len(values)
    assert s["C"] == s["H"] * s["D"] and s["H"] % s["K"] == 0 and s["H"] != s["K"]


@each_version
def test_shape_comments(name):
    assert shape_faults(ROOT, name) == []


@each_version
def test_red_any_wrong_letter(name):
    """Any dimension of any comment replaced by another one, any two swapped, one left out, one added: all found."""
    comments, _ = observe(ROOT, name)
    for comment in comments:
        true = comment.shapes[0]
        sizes = ("B", "T", "C", "H", "K", "D", "F", "V", "D/2", "past + T", "1", "2")
        wrong = [
            true[:i] + [size] + true[i + 1 :]
            for i in range(len(true))
            for size in sizes
            if true[i] not in (size, "...")
        ]
        wrong += [list(swapped) for swapped in itertools.permutations(true) if list(swapped) != true]
        wrong += [true[1:], true[:-1], [*true, "1"]] + ([["1", *true]] if true[0] != "..." else [])
        for shape in wrong:
            comment.shapes[0] = shape
            if not comment.on_gpu:
                assert comment_faults(comment) != [], f"{name}:{comment.line}: {shape} passes for {true}"
        comment.shapes[0] = true


@each_version
def test_red_wrong_shape_comment(copies, name):
    """The last comment of the model, with two letters swapped in the file itself."""
    faults = new_shape_faults(copies, name, "# (B, T, V)\n", "# (T, B, V)\n")
    assert faults and all("says (T, B, V), which is (" in fault for fault in faults)


@pytest.mark.parametrize("name", VERSIONS[4:])
def test_red_comment_wrong_with_cache_only(copies, name):
    """Without a cache (B, H, T, T) would be true."""
    faults = new_shape_faults(copies, name, "# (B, H, T, past + T)\n", "# (B, H, T, T)\n")
    assert len(faults) == 1 and "says (B, H, T, T), which is (7, 6, 10, 10), but is (7, 6, 10, 19)" in faults[0]


@pytest.mark.parametrize(
    "old, new, sign",
    [
        ("loss = None", "loss = None  # (B, T)", "but is NoneType"),
        ("# (B, T, V)", "# (B, T, Q)", "unknown sizes ['Q']"),
        ("# (B, T, V)", "# (B, T, N)", "the legend of MODEL does not explain N"),
        ("# (B, T, V)", "# (b, t, v)", "not a shape that can be checked"),
        ("# (B, T, V)", "# (..., T, B)", "says (..., T, B)"),
        ("# (B, T, V)", "", "only 0 shape comments"),
        ("loss = None", "if idx is None:\n            x = idx  # (B, T)\n        loss = None", "never ran"),
        ("if targets is not None:", "if targets is not None:  # (B, T)", "beside neither an assignment nor a return"),
        (
            "loss = None",
            "a, (b, _) = idx, (idx, 1)  # (B, V)\n        loss = None",
            "says (B, V), which is (7, 61), but is (7, 10)",
        ),
        (
            "return logits, loss",
            "return logits, logits  # (B, T, V), (B, T)",
            "says (B, T), which is (7, 10), but is (7, 10, 61)",
        ),
        ("return logits, loss", "return (\n            logits,\n            loss,\n        )  # (B, T, V)", "NoneType"),
    ],
)
def test_red_shape_rules(copies, old, new, sign):
    assert any(sign in fault for fault in new_shape_faults(copies, "v0_bigram", old, new))


def test_shape_rules_allow(copies):
    """Tuple targets, one shape for all or one for each; words after a shape; a branch that only a GPU takes."""
    lines = ["a, b = idx, logits  # (B, T), (B, T, V)", "a, (b, _) = idx, (idx, 1)  # (B, T)"]
    lines += [
        "idx = idx + 0  # (B, T): still",
        "b = logits  # (..., T, V)",
        "if idx.is_cuda:",
        "    a = idx  # (B, T)",
        "loss = None",
    ]
    change(copies, "v0_bigram", "loss = None", "\n        ".join(lines))
    assert shape_faults(copies, "v0_bigram") == []


# ---- the command line


def help_faults(folder, name, capsys):
    """--help ends with status 0 and names every field of Config as a flag, and its commands."""
    module = load(folder, name)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    shown = capsys.readouterr().out
    flags = ["--" + f.name.replace("_", "-") for f in dataclasses.fields(module.Config)]
    faults = [f"{name}: --help does not list {f}" for f in flags if not re.search(rf"(?m)^  {f}(?![\w-])", shown)]
    faults += [f"{name}: --help does not name {c}" for c in ("train", "sample", "eval") if c not in shown]
    return faults + ([f"{name}: --help ends with status {end.value.code}"] if end.value.code else [])


@each_version
def test_help(name, capsys):
    assert help_faults(ROOT, name, capsys) == []


@each_version
def test_red_help(copies, name, capsys):
    change(copies, name, "for f in fields(Config):", "for f in fields(Config)[1:]:")
    assert help_faults(copies, name, capsys) == [f"{name}: --help does not list --data"]
