"""The benchmarks' own arithmetic, and that they run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import scaffold  # noqa: E402


def test_entropy_and_rare_tokens():
    assert scaffold.frequency_figures(np.array([20] * 8)) == pytest.approx((3, 1, 0))
    # probabilities 1/2, 1/4, 1/4 and a token that is never used
    assert scaffold.frequency_figures(np.array([20, 10, 0, 10])) == pytest.approx((1.5, 0.75, 0.25))
    assert scaffold.frequency_figures(np.array([9, 9])) == pytest.approx((1, 1, 1))


def test_scaffold_prints_a_table_and_leaves_nothing_behind(tmp_path):
    text = (ROOT / "input.txt").read_text("utf-8")[:20_000]
    (tmp_path / "text.txt").write_text(text, encoding="utf-8", newline="")
    command = [sys.executable, ROOT / "benchmarks" / "scaffold.py", "--data", "text.txt", "--vocab-sizes", "400"]
    done = subprocess.run([*command, "--steps", "1"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    assert [len(line) for line in lines] == [9] * 4
    assert [line[:3] for line in lines[2:]] == [["text.txt", "400", "plain"], ["text.txt", "400", "scaffold"]]
    assert int(lines[2][3]) == 0 < int(lines[3][3]) and float(lines[3][8]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
