"""The short form of benchmarks/fuzz.py: a fixed number of random command lines and files on every version."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def fuzz(root, *words):
    argv = [sys.executable, str(Path(root, "benchmarks", "fuzz.py")), "--seconds", "600", *words]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "MPLBACKEND": "agg"}
    return subprocess.run(argv, capture_output=True, text=True, env=env, timeout=900)


def test_random_input_ends_in_one_line(tmp_path):
    result = fuzz(ROOT, "--seed", "1", "--count", "300", "--record", str(tmp_path / "figures.md"))
    assert result.returncode == 0, result.stderr
    assert "| all | 300 |" in result.stdout, result.stdout
    kinds = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| \d+ \| (\d+) \|", result.stdout, re.MULTILINE)
    written = (tmp_path / "figures.md").read_text()
    assert "| bad inputs tried | 300, 0 of them " in written and "\n| bytes fuzzed | " in written
    assert [kind for kind, *_ in kinds] == ["checkpoint", "config", "flags", "text", "tokenizer"]
    assert all(int(refused) and int(well) for _, _, refused, well in kinds), "a kind of which all or none are refused"


@pytest.mark.parametrize(
    "old, new, sign",
    [
        ("except UnicodeDecodeError as error:", "except UnicodeEncodeError as error:", "Traceback"),
        (
            'raise Halt(f"{path}: truncated',
            'print("", file=sys.stderr); raise Halt(f"{path}: truncated',
            "not one line",
        ),
        ("except UnicodeDecodeError as error:", "except UnicodeDecodeError as error:\n        time.sleep(99)", "hangs"),
        ("except UnicodeDecodeError as error:", "except UnicodeDecodeError as error:\n        os._exit(3)", "status 3"),
    ],
    ids=["traceback", "two lines", "hang", "status"],
)
def test_fuzz_red(old, new, sign, tmp_path):
    """It finds what it looks for, and a case of it can be run again."""
    (tmp_path / "benchmarks").mkdir()
    for file in ("fuzz.py", "memory.py"):
        shutil.copy(ROOT / "benchmarks" / file, tmp_path / "benchmarks")
    text = (ROOT / "v0_bigram.py").read_text(encoding="utf-8")
    assert text.count(old) == 1
    (tmp_path / "v0_bigram.py").write_text(text.replace(old, new), encoding="utf-8")
    words = ["--versions", "v0", "--seed", "1", "--timeout", "15"]
    result = fuzz(tmp_path, *words, "--count", "12")
    assert result.returncode == 1 and sign in result.stderr, result.stderr
    number = re.search(r"^case (\d+), ", result.stderr, re.MULTILINE)[1]
    again = fuzz(tmp_path, *words, "--case", number)
    assert again.returncode == 1 and sign in again.stderr, again.stderr
