"""Several processes under torchrun, and micro-batches: the same training as in one process."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, from_v4, load_version
from small_models import make_config, make_model
from small_runs import results, small, train

v4 = load_version(4)
SCRIPT = ROOT / f"{v4.NAME}.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
COMPARE = """
import sys, torch
sys.path[:0] = [{root!r}, {tests!r}]
import {name} as version
from small_models import make_config, make_model
torch.distributed.init_process_group("gloo")
cfg, model = make_config(version), make_model(version, std=0.1).train()
torch.manual_seed(2)
idx, targets = torch.randint(13, (2, 4, 8))
model(idx, targets)[1].backward()
whole = [p.grad.clone() for p in model.parameters()]
model.zero_grad()
version.backward(torch.nn.parallel.DistributedDataParallel(model), idx, targets, cfg)
gap = max((p.grad - g).abs().max().item() for p, g in zip(model.parameters(), whole))
assert gap < 1e-6, gap
"""


def launch(*words, **how):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*TORCHRUN, *map(str, words)], env=environment, text=True, **how)


def validation_losses(folder):
    with open(Path(folder, "metrics.csv")) as file:
        return [float(row["val_loss"]) for row in csv.DictReader(file)]


@from_v4
def test_micro_batches_add_up_to_the_gradients_of_the_batch(version):
    model = make_model(version, std=0.1).train()
    idx, targets = torch.randint(13, (2, 4, 8))
    found = []
    for size in (0, 2, 1):
        model.zero_grad()
        loss = version.backward(model, idx, targets, make_config(version, micro_batch_size=size))
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    for part in found[1:]:
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found[0], part, strict=True))


def test_two_processes_have_the_gradients_of_one(tmp_path):
    source = COMPARE.format(root=str(ROOT), tests=str(ROOT / "tests"), name=v4.NAME)
    (tmp_path / "compare.py").write_text(source)
    assert launch(tmp_path / "compare.py").wait(120) == 0


@pytest.mark.parametrize("n, optimizer", [(4, "adamw"), (4, "muon"), (5, "soap")])
def test_two_processes_train_as_one_does(n, optimizer, folder, capsys):
    """The validation losses of 20 steps: AdamW's are equal; Muon and SOAP amplify rounding."""
    version = load_version(n)
    words = [*small(version, max_steps=20, evals=20, batch_size=4), "--optimizer", optimizer]
    train(version, "--optimizer", optimizer, "--out", "one", max_steps=20, evals=20, batch_size=4)
    script = ROOT / f"{version.NAME}.py"
    two = launch(script, *words, "--out", "two", stdout=subprocess.PIPE)
    printed, _ = two.communicate(timeout=120)
    assert two.returncode == 0 and printed.count("saved in two") == 1  # only rank 0 speaks
    pairs = list(zip(validation_losses("one"), validation_losses("two"), strict=True))
    gap = max(abs(a - b) for a, b in pairs)
    with capsys.disabled():
        print(
            f"\ntwo processes and one, {version.NAME} with {optimizer}: {gap:.1e} nats/token apart"
        )
    assert gap < (1e-5 if optimizer == "adamw" else 0.1)


@pytest.mark.skipif(not shutil.which("pgrep"), reason="pgrep finds the process to kill")
def test_a_process_is_killed_and_the_run_resumes(folder):
    words = small(v4, max_steps=600, evals=5)
    assert launch(SCRIPT, *words, "--out", "unbroken", stdout=subprocess.DEVNULL).wait(120) == 0
    broken = launch(SCRIPT, *words, "--out", "run", stdout=subprocess.DEVNULL)
    while not Path("run/checkpoint.pt").exists():
        time.sleep(0.05)
    ranks = subprocess.run(["pgrep", "-P", str(broken.pid)], capture_output=True, text=True)
    os.kill(int(ranks.stdout.split()[-1]), signal.SIGKILL)
    assert broken.wait(60) != 0
    resumed = launch(SCRIPT, "--resume", "--out", "run", stdout=subprocess.DEVNULL)
    assert resumed.wait(120) == 0
    run, unbroken = results("run"), results("unbroken")
    assert run["metrics"] == unbroken["metrics"]
    weights = [found["best.pt"]["model"].values() for found in (run, unbroken)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_batch_that_cannot_be_shared_out():
    with pytest.raises(v4.UserError, match="--micro-batch-size"):
        make_config(v4, batch_size=4, micro_batch_size=3)


@from_v4
def test_fine_tuning_starts_from_a_run(version, folder):
    """--init-from: its tokenizer, its weights, and a new schedule, on another text."""
    train(version, "--out", "first")
    Path("other.txt").write_text("her key and the old map. " * 60)
    train(version, "--out", "second", data="other.txt", learning_rate=0.0, muon_learning_rate=0.0)
    before = validation_losses("second")[-1]
    flags = {"data": "other.txt", "learning_rate": 0.0, "muon_learning_rate": 0.0}
    train(version, "--out", "tuned", "--init-from", "first", **flags)
    assert Path("tuned/tokenizer.json").read_bytes() == Path("first/tokenizer.json").read_bytes()
    first, tuned = (results(name)["best.pt"]["model"] for name in ("first", "tuned"))
    assert all(torch.allclose(first[name], p, atol=1e-6) for name, p in tuned.items())
    assert before != validation_losses("tuned")[-1]
