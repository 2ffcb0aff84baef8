"""The notebooks: what is committed is whole, and the code of each runs from top to bottom."""

import json
import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from conftest import NAMES, ROOT, load_version

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@each_notebook
def test_what_is_committed_is_whole(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    source = "\n".join(cell.source for cell in cells)
    assert any(f"import {name}" in source for name in NAMES) or "from bpe_tokenizer" in source
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [out for out in outputs if out.output_type == "error" or out.get("name") == "stderr"]
    assert any([output.get("data", {}).pop("image/png", None) for output in outputs])
    places = ("/home/", "/tmp/", "/root/", "/Users/", "/opt/", str(ROOT))  # of some machine
    assert not [place for place in places if place in json.dumps(notebook)]
    assert path.stat().st_size < 2**20


@each_notebook
def test_the_readme_shows_it(path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    thumbnail = f"notebooks/thumbnails/{path.stem}.png"
    assert f"(notebooks/{path.name})" in readme
    assert thumbnail in readme and (ROOT / thumbnail).exists()


@each_notebook
@pytest.mark.filterwarnings("ignore")  # plt.show draws nothing here, and says so
def test_its_code_runs(path, monkeypatch):
    """In this process (a kernel would import torch again), with short trainings and evaluations."""

    def shorten(version, train, evaluate):
        short = lambda cfg: train(replace(cfg, max_steps=cfg.evals, max_seconds=0.0))  # noqa: E731
        monkeypatch.setattr(version, "train", short)
        monkeypatch.setattr(
            version, "evaluate", lambda m, ids, *rest: evaluate(m, ids[:999], *rest)
        )

    for version in map(load_version, range(7)):
        shorten(version, version.train, version.evaluate)
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    plt.switch_backend("agg")
    names = {"__name__": "__main__"}
    with plt.rc_context():
        for i, cell in enumerate(code_cells(nbformat.read(path, 4)), start=1):
            exec(compile(cell.source, f"{path.name}, cell {i}", "exec"), names)
    plt.close("all")
    torch.set_num_threads(1)
