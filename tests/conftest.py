"""What the tests share: the versions, to parametrize a test over them, and an empty folder."""

import importlib
import random
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # wherever pytest is started
torch.set_num_threads(1)  # tensors this small are slower on several threads

NAMES = sorted(path.stem for path in ROOT.glob("v[0-9]_*.py"))
WORDS = "a the old fox owl café river saw lost found her red key map. Who knows? Zoë!\n".split(" ")
TEXT = " ".join(random.Random(1).choices(WORDS, k=600))


def load_version(number):
    return importlib.import_module(NAMES[number])


def number(version):
    return int(version.NAME[1])


def versions(*numbers):
    """Parametrize a test over the versions with these numbers: versions(4, 5)."""
    modules = [pytest.param(load_version(i), id=f"v{i}") for i in numbers]
    return pytest.mark.parametrize("version", modules)


def use(version):
    """The command that shows what a trained model does."""
    return "fill" if number(version) == 6 else "sample"


every_version = versions(0, 1, 2, 3, 4, 5)
every_file = versions(0, 1, 2, 3, 4, 5, 6)  # with the branch, where it promises the same
from_v1 = versions(1, 2, 3, 4, 5)
from_v2 = versions(2, 3, 4, 5)
from_v4 = versions(4, 5)
OPTIMIZERS = [(1, "adamw"), (2, "adamw"), (3, "adamw"), (4, "muon"), (4, "adamw")]
OPTIMIZERS += [(5, "muon"), (5, "adamw"), (5, "soap"), (6, "muon")]
KINDS = [pytest.param(load_version(i), kind, id=f"v{i}-{kind}") for i, kind in OPTIMIZERS]
every_optimizer = pytest.mark.parametrize("version, kind", KINDS)


@pytest.fixture(autouse=True)
def seed():
    """Each test draws the same numbers, alone or after others."""
    torch.manual_seed(1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory is an empty folder with a text; pictures are not drawn."""
    monkeypatch.setattr(Figure, "savefig", lambda self, file: file.write(b"a picture"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    Path("text.txt").write_text(TEXT, encoding="utf-8", newline="")
