"""export.py against transformers, tokenizers and the gguf package, and the way back."""

import json
import shutil
import sys
from contextlib import chdir
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import ROOT, load_version
from safetensors.torch import load_model
from small_models import assert_equal_logits
from small_runs import call
from test_bad_input import refused
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import export
import v4_gqa_swiglu as v4
from bpe_tokenizer import BPETokenizer

export.NAME = "export"  # for `call`, as the versions have it
pytestmark = pytest.mark.usefixtures("folder")
SMALL = "--n-layer 2 --n-head 4 --n-embd 32 --block-size 64 --max-steps 2 --evals 1 --device cpu"
TEXT = "IT'S  naïve,\n\n 12345 café ﬁ 😀👍🏽 — नमस्ते, a\u0301b x\u200dy \t don't.\r\n 日本語  7"
STORIES = (ROOT / "input.txt").read_text("utf-8")[:20_000]
IDX = torch.arange(300).view(5, 60)  # tokens


def done(module, *words):
    """What a command line prints, which must end well."""
    result = call(module, *words)
    assert result.status == 0, result.err
    return result.out


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with runs of v3, v4 and v5. All weights of v4's are far from where they start."""
    path = tmp_path_factory.mktemp("runs")
    (path / "text.txt").write_text(STORIES, "utf-8")
    for number, more in {3: "", 4: "--n-kv-head 2 --rope-base 300", 5: ""}.items():
        flags = ["--data", path / "text.txt", "--out", path / f"v{number}", *more.split()]
        with chdir(path):  # where the cache goes
            done(load_version(number), "train", *SMALL.split(), *flags)
    run = v4.load_run(path / "v4", device="cpu")
    torch.manual_seed(0)
    for p in run.model.parameters():
        p.data.add_(torch.randn(p.shape) * (0.02 if p.size(0) == 512 else 0.3))
    v4.save_checkpoint(run.folder / "best.pt", model=run.model.state_dict(), step=run.step)
    return path


@torch.no_grad()
def test_transformers_loads_the_same_model(runs):
    done(export, runs / "v4", "hf")
    run, theirs = v4.load_run(runs / "v4", device="cpu"), AutoModelForCausalLM.from_pretrained("hf")
    tokenizer = AutoTokenizer.from_pretrained("hf")
    assert_equal_logits(run.model, theirs, (1, 64))
    assert (theirs.config.rms_norm_eps, theirs.config.max_position_embeddings) == (1e-5, 64)

    prompt = tokenizer("The café", return_tensors="pt")
    text = theirs.generate(**prompt, max_new_tokens=50)[0].tolist()
    new = v4.generate(run.model, prompt["input_ids"], 50, 64, temperature=0)
    assert text == prompt["input_ids"][0].tolist() + [int(i) for i in new]
    assert len(set(text)) > 12  # a text that repeats itself would agree by accident
    assert tokenizer(TEXT)["input_ids"] == run.tokenizer.encode(TEXT)
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT
    bits = float((runs / "v4" / "metrics.csv").read_text().split(",")[-1])
    assert f"| val_bits_per_byte | {bits:.3f} |" in Path("hf/README.md").read_text("utf-8")


@pytest.mark.parametrize("special, end", [([], None), ([export.END], 511)], ids=str)
def test_gguf_holds_the_model(runs, special, end):
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: see requirements-dev.txt")
    shutil.copytree(runs / "v4", "run")
    BPETokenizer.train(STORIES, 512, special_tokens=special).save("run/tokenizer.json")
    done(export, "run", "hf", "--gguf")
    run, reader = v4.load_run("run", device="cpu"), gguf.GGUFReader("hf/model.gguf")
    ours = json.loads(Path("hf/tokenizer.json").read_text("utf-8"))["model"]
    words = sorted(ours["vocab"], key=ours["vocab"].get)
    sizes = {"block_count": 2, "context_length": 64, "embedding_length": 32, "vocab_size": 512}
    sizes |= {"feed_forward_length": 96, "attention.head_count": 4, "attention.head_count_kv": 2}
    sizes |= {"rope.freq_base": 300.0, "rope.dimension_count": 8}
    sizes["attention.layer_norm_rms_epsilon"] = pytest.approx(1e-5)
    tokenizer = {
        "model": "gpt2",
        "pre": "dbrx",
        "tokens": words,
        "merges": list(map(" ".join, ours["merges"])),
    }
    tokenizer |= {"add_bos_token": False, "eos_token_id": end or words.index("ÿ")}  # byte 255
    tokenizer["token_type"] = [3 if word in special else 1 for word in words]  # control, normal
    expected = {f"llama.{name}": value for name, value in sizes.items()}
    expected |= {f"tokenizer.ggml.{name}": value for name, value in tokenizer.items()}
    assert {name: reader.get_field(name).contents() for name in expected} == expected
    assert AutoTokenizer.from_pretrained("hf").eos_token_id == end
    assert AutoModelForCausalLM.from_pretrained("hf").config.eos_token_id == end
    theirs = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, p in run.model.named_parameters():
        if "q_proj" in name or "k_proj" in name:  # in each head of width 8, pairs are neighbors
            p = p.view(-1, 8, 32)[:, [0, 4, 1, 5, 2, 6, 3, 7]].view(p.shape)
        assert torch.equal(theirs.pop(names.get_name(export.llama_name(name), [".weight"])), p)
    assert not theirs


@torch.no_grad()
def test_import_of_an_export_is_the_same_run(runs):
    done(export, runs / "v4", "hf")
    assert "sample --out back" in done(export, "--import-from", "hf", "back")
    before, after = (v4.load_run(path, device="cpu") for path in (runs / "v4", "back"))
    assert after.tokenizer.to_json() == before.tokenizer.to_json()
    assert torch.equal(before.model(IDX)[0], after.model(IDX)[0])
    done(v4, "sample", "--out", "back", "--max-new-tokens", "5")


@torch.no_grad()
@pytest.mark.parametrize("first", [[], [Digits(True)]], ids=["gpt2", "digits"])
def test_import_of_a_folder_that_others_wrote(first):
    """As SmolLM's: special tokens come first, so that all ids change."""
    theirs, level = Tokenizer(models.BPE()), ByteLevel(add_prefix_space=False)
    theirs.pre_tokenizer = Sequence([*first, level])
    how = dict(special_tokens=["<s>", export.END], initial_alphabet=level.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, **how)
    theirs.train_from_iterator([TEXT + STORIES], trainer)
    sizes = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3)
    sizes |= dict(num_key_value_heads=1, max_position_embeddings=64, vocab_size=400)
    sizes |= dict(rope_theta=500.0, rms_norm_eps=1e-5, tie_word_embeddings=True)
    llama = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    for p in llama.parameters():
        p.add_(torch.randn(p.shape) * 0.2)
    llama.save_pretrained("llama", max_shard_size="20KB")  # in several files
    theirs.save("llama/tokenizer.json")
    done(export, "--import-from", "llama", "run")
    run = v4.load_run("run", device="cpu")
    old = torch.tensor(export.read_tokenizer(Path("llama/tokenizer.json"))[1])  # of each new id
    assert sorted(old.tolist()) == list(range(400)) != old.tolist()
    assert old[run.tokenizer.encode(TEXT + STORIES)].tolist() == theirs.encode(TEXT + STORIES).ids
    expected = llama(old[IDX]).logits[..., old]
    torch.testing.assert_close(run.model(IDX)[0], expected, rtol=0, atol=1e-4)


REFUSED = [
    ("config", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_type is llama3"),
    ("config", {"rope_parameters": {"type": "linear", "factor": 2.0}}, "type is linear"),
    ("config", {"tie_word_embeddings": False}, "tie_word_embeddings"),
    ("config", {"rms_norm_eps": 1e-6}, "rms_norm_eps"),
    ("config", {"num_hidden_layers": 1}, "not a whole Llama folder"),
    ("tokenizer", {"normalizer": {"type": "NFC"}}, "byte-level BPE"),
    ("tokenizer", {"model": {"type": "Unigram"}}, "byte-level BPE"),
]


@pytest.mark.parametrize("file, change, word", REFUSED, ids=str)
def test_other_folders_are_refused(runs, file, change, word):
    done(export, runs / "v4", "hf")
    path = Path(f"hf/{file}.json")
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    assert word in refused(export, "--import-from", "hf", "back")


@torch.no_grad()
@pytest.mark.parametrize("number", [3, 5])
def test_other_versions_give_their_weights(runs, number):
    version = load_version(number)
    assert "no common architecture matches it" in done(export, runs / f"v{number}", "hf")
    run = version.load_run(runs / f"v{number}", device="cpu")
    settings = json.loads(Path("hf/config.json").read_text("utf-8"))
    assert settings == {"version": version.NAME, **asdict(run.cfg)}
    model = version.LanguageModel(run.cfg, 512).eval()
    load_model(model, "hf/model.safetensors")
    assert torch.equal(model(IDX)[0], run.model(IDX)[0])
    assert Tokenizer.from_file("hf/tokenizer.json").encode(TEXT).ids == run.tokenizer.encode(TEXT)
    assert "architecture" in refused(export, runs / f"v{number}", "other", "--gguf")


def test_mistakes_end_in_one_line(runs, monkeypatch):
    done(export, runs / "v4", "hf")
    assert "hf: exists" in refused(export, runs / "v4", "hf")
    assert "holds no run" in refused(export, "hf", "other")
    Path("hf/model.safetensors").write_bytes(b"damaged")
    assert "not a whole Llama folder" in refused(export, "--import-from", "hf", "back")
    for package in ("gguf", "safetensors"):
        monkeypatch.setitem(sys.modules, package, None)
        assert f"pip install {package}" in refused(export, runs / "v4", "other", "--gguf")
