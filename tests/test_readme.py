"""README.md and benchmarks/README.md: their figures are the benchmarks' own, their commands run."""

import contextlib
import importlib
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from small_runs import call

sys.path.insert(0, str(ROOT / "benchmarks"))

import report

README = (ROOT / "README.md").read_text(encoding="utf-8")
LADDER = json.loads((ROOT / "benchmarks/results/ladder.json").read_text(encoding="utf-8"))
SMALL = {"n_layer": 1, "n_embd": 32, "evals": 1, "vocab_size": 300, "max_new_tokens": 5}


def commands(first_word):
    """The commands that README shows, in code blocks and in running text."""
    code = re.findall(r"`([^`\n]+)`", README) + README.splitlines()
    shown = [line.split("   ")[0] for line in code if line.startswith(f"{first_word} ")]
    return [line for line in shown if "--compile" not in line]  # that one is marked: needs a GPU


def test_it_is_short():
    assert len(README.splitlines()) <= 150 and len(README.split()) <= 1600


def test_figures_and_samples_are_the_ladders():
    for name, *cells in LADDER["tables"][0][1:]:
        starts = (f"| [{name}]", f"| {name} |")
        (row,) = [line for line in README.splitlines() if line.startswith(starts)]
        assert all(f" {cell} |" in row for cell in cells[:-1])  # all but the tokens seen
    story = README.split("```text\n")[1].split("\n```")[0]
    assert " ".join(story.split()) in " ".join(LADDER["samples"]["v5_ngpt"].split())
    (samples,) = re.findall(r"^\| v0 \| v5 \|\n.*\n\| (.*) \| (.*) \|$", README, re.MULTILINE)
    for sample, name in zip(samples, ("v0_bigram", "v5_ngpt"), strict=True):
        assert sample in " ".join(LADDER["samples"][name].split())


def test_the_page_of_measurements_is_what_the_results_say():
    assert (ROOT / "benchmarks/README.md").read_text(encoding="utf-8") == report.page()


def test_every_link_leads_to_a_file():
    for page in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert ((ROOT / page).parent / link).exists(), link


def run(version, arguments, budget):
    """One command in this process, with a small model and budget; fails if it does not end well."""
    flags = [*arguments, *budget]
    if "--resume" not in arguments:  # a resumed run keeps the size that it has
        small = {name: n for name, n in SMALL.items() if hasattr(version.Config(), name)}
        flags += [f"--{name.replace('_', '-')}={n}" for name, n in small.items()]
    done = call(version, *flags)
    assert (done.status, done.err) == (0, ""), (arguments, done)


@pytest.fixture
def texts(folder):
    """The working folder has the texts that README names, but short."""
    text = (ROOT / "input.txt").read_bytes().decode()
    for name in ("input.txt", "my.txt", "other.txt"):
        Path(name).write_bytes(text[:30_000].encode())


def test_commands_run(texts):
    trained, shown = set(), [shlex.split(line, comments=True) for line in commands("python")]
    shown = [words[1:] for words in shown if words[1][0] == "v"]
    assert len(shown) >= 8
    for script, *arguments in shown:
        module = importlib.import_module(script.removesuffix(".py"))
        if "--help" in arguments:
            assert call(module, *arguments).status == 0
            continue
        trains = not {"sample", "fill", "eval"} & set(arguments)
        if script not in trained and not trains:
            run(module, [], ["--max-steps", "1"])
        seconds = "2" if "--resume" in arguments else "0.2"
        timed = ["--max-seconds", seconds] if "--max-seconds" in arguments else ["--max-steps", "1"]
        run(module, arguments, timed if trains else [])
        trained.add(script)


def test_other_commands_have_the_flags_shown():
    shown = [shlex.split(line)[1:] for line in commands("python")]
    for script, *arguments in [words for words in shown if words[0][0] != "v"]:
        command = [sys.executable, str(ROOT / script), "--help"]
        helped = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert all(flag in helped for flag in arguments if flag.startswith("--"))


def test_python_block_runs(texts):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    short = "max_steps=1, n_layer=1, n_embd=32, vocab_size=300, evals=1"
    with contextlib.redirect_stdout(io.StringIO()):
        exec(block.replace("max_seconds=60", short), {})
