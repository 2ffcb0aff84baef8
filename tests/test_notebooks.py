"""The notebooks: what is committed is whole, and each of them still runs from top to bottom."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import nbformat  # noqa: E402

from notebooks import NOTEBOOKS, execute  # noqa: E402

NAMES = [
    "1_tokens",
    "2_positions",
    "3_attention",
    "4_embeddings",
    "5_training",
    "6_ngpt",
    "7_variations",
    "9_your_own_text",
]
VERSIONS = [
    "v1_transformer",
    "v2_bpe_rope",
    "v3_alibi",
    "v4_gqa_swiglu",
    "v5_ngpt",
    "bpe_tokenizer",
]

each_notebook = pytest.mark.parametrize("name", NAMES)


def read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_these_are_all():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES


def test_the_folder_is_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS.rglob("*") if path.is_file()) < 4 * 2**20


@each_notebook
def test_outputs_are_committed(name):
    notebook = read(name)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [
        output
        for output in outputs
        if output.output_type == "error" or output.get("name") == "stderr"
    ]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@each_notebook
def test_no_path_of_a_machine(name):
    notebook = read(name)
    for cell in code_cells(notebook):
        for output in cell.outputs:
            output.get("data", {}).pop("image/png", None)
    text = json.dumps(notebook)
    assert not [
        place
        for place in ("/home/", "/tmp/", "/root/", "/Users/", "/opt/", str(ROOT))
        if place in text
    ]


@each_notebook
def test_versions_are_imported_not_copied(name):
    source = "\n".join(cell.source for cell in code_cells(read(name)))
    assert any(f"import {version}" in source or f"from {version}" in source for version in VERSIONS)
    assert not [
        line
        for line in source.splitlines()
        if line.startswith(("class LanguageModel", "class Block"))
    ]


@each_notebook
def test_readme_links_it(name):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"(notebooks/{name}.ipynb)" in readme
    assert (
        f"notebooks/thumbnails/{name}.png" in readme
        and (NOTEBOOKS / "thumbnails" / f"{name}.png").exists()
    )


@each_notebook
def test_it_runs(name):
    execute(
        read(name), NOTEBOOKS, timeout=600
    )  # raises if a cell does; what it computes stays in memory
