"""export.py against transformers, tokenizers and the gguf package, and the way back."""

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import load_version
from safetensors.torch import load_model
from test_runs import ROOT, call, folder
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import export
import v4_gqa_swiglu as v4
from bpe_tokenizer import BPETokenizer

__all__ = ["folder"]  # the fixture that gives every test an empty working directory
SMALL = "--n-layer 2 --n-head 4 --n-embd 32 --block-size 64 --max-steps 2 --evals 1 --device cpu"
TEXT = "IT'S  naïve,\n\n 12345 café ﬁ 😀👍🏽 — नमस्ते, a\u0301b x\u200dy \t don't.\r\n 日本語  7"
STORIES = (ROOT / "input.txt").read_text("utf-8")[:20_000]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with runs of v3, v4 and v5. All weights of v4's are far from where they start."""
    path = tmp_path_factory.mktemp("runs")
    (path / "text.txt").write_text(STORIES, "utf-8")
    for number, more in {3: "", 4: "--n-kv-head 2 --rope-base 300", 5: ""}.items():
        flags = ["--data", path / "text.txt", "--out", path / f"v{number}", *more.split()]
        assert call(load_version(number).NAME, "train", *SMALL.split(), *flags).status == 0
    saved = torch.load(path / "v4" / "best.pt", weights_only=True)
    weights = saved[v4.NAME]["model"]
    torch.manual_seed(0)
    for name, p in weights.items():
        p.add_(torch.randn(p.shape) * (0.02 if "embedding" in name else 0.3))
    weights["head.weight"] = weights["token_embedding.weight"]
    torch.save(saved, path / "v4" / "best.pt")
    return path


def done(*words):
    """What a command line of export.py prints, which must end well."""
    result = call("export", *words)
    assert result.status == 0, result.err
    return result.out


def refused(*words):
    """The one line in which a command line of export.py must end, with status 1."""
    result = call("export", *words)
    assert result.status == 1 and result.err.count("\n") == 1, result
    assert result.err.startswith("export: ")
    return result.err


@torch.no_grad()
def test_transformers_loads_the_same_model(runs):
    done(runs / "v4", "hf")
    run = v4.load_run(runs / "v4", device="cpu")
    theirs = AutoModelForCausalLM.from_pretrained("hf")
    tokenizer = AutoTokenizer.from_pretrained("hf")
    idx = torch.randint(512, (3, 64))
    logits = theirs(idx).logits
    assert logits.std() > 0.3
    torch.testing.assert_close(run.model(idx)[0], logits, rtol=0, atol=1e-4)
    assert theirs.config.rms_norm_eps == run.model.norm.eps

    prompt = tokenizer("The café", return_tensors="pt")
    text = theirs.generate(**prompt, max_new_tokens=50)[0].tolist()
    new = v4.generate(run.model, prompt["input_ids"], 50, 64, temperature=0)
    assert text == prompt["input_ids"][0].tolist() + [int(i) for i in new]
    assert len(set(text)) > 12  # a text that repeats itself would agree by accident
    assert tokenizer(TEXT)["input_ids"] == run.tokenizer.encode(TEXT)
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT
    bits = float((runs / "v4" / "metrics.csv").read_text().split(",")[-1])
    assert f"| val_bits_per_byte | {bits:.3f} |" in Path("hf/README.md").read_text("utf-8")


def read_gguf(path):
    """{name: value} and {name: tensor} of a GGUF file."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: see requirements-dev.txt")
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {t.name.removesuffix(".weight"): torch.tensor(t.data) for t in reader.tensors}


def test_gguf_holds_the_model(runs):
    done(runs / "v4", "hf", "--gguf")
    fields, tensors = read_gguf("hf/model.gguf")
    run = v4.load_run(runs / "v4", device="cpu")
    sizes = {"block_count": 2, "context_length": 64, "embedding_length": 32, "vocab_size": 512}
    sizes |= {"feed_forward_length": 96, "attention.head_count": 4, "attention.head_count_kv": 2}
    sizes |= {"rope.freq_base": 300.0, "rope.dimension_count": 8}
    sizes["attention.layer_norm_rms_epsilon"] = pytest.approx(run.model.norm.eps)
    assert fields["general.architecture"] == "llama"
    assert {name: fields[f"llama.{name}"] for name in sizes} == sizes

    ours = json.loads(Path("hf/tokenizer.json").read_text("utf-8"))["model"]
    words = sorted(ours["vocab"], key=ours["vocab"].get)
    eos = words.index("ÿ")
    expected = {"model": "gpt2", "pre": "dbrx", "tokens": words, "merges": ours["merges"]}
    expected |= {"token_type": [1] * 512, "add_bos_token": False, "eos_token_id": eos}
    assert {name: fields[f"tokenizer.ggml.{name}"] for name in expected} == expected
    assert run.tokenizer.token_bytes(eos) == b"\xff"  # which is in no text

    parts = "attn_norm attn.q_proj attn.k_proj attn.v_proj attn.out_proj".split()
    parts += "mlp_norm mlp.gate_proj mlp.up_proj mlp.down_proj".split()
    theirs = "attn_norm attn_q attn_k attn_v attn_output ffn_norm ffn_gate ffn_up ffn_down".split()
    names = {"token_embd": "token_embedding", "output_norm": "norm"}
    for a, b in zip(theirs, parts, strict=True):
        names |= {f"blk.{i}.{a}": f"blocks.{i}.{b}" for i in range(2)}
    assert tensors.keys() == names.keys()
    for name, ours in names.items():
        weight = run.model.state_dict()[f"{ours}.weight"]
        if name.endswith(("_q", "_k")):  # in each head of width 8, pairs are neighbors
            weight = weight.view(-1, 8, 32)[:, [0, 4, 1, 5, 2, 6, 3, 7]].view(weight.shape)
        assert torch.equal(tensors[name], weight), name


def test_a_special_token_may_end_a_text(runs):
    tokenizer = BPETokenizer.train(STORIES, 300, special_tokens=[export.END])
    tokenizer.save("ending.json")
    flags = ["--data", runs / "text.txt", "--tokenizer", "ending.json", "--out", "run"]
    assert call(v4.NAME, "train", *SMALL.split(), *flags).status == 0
    done("run", "hf", "--gguf")
    assert AutoTokenizer.from_pretrained("hf").eos_token_id == 299
    assert AutoModelForCausalLM.from_pretrained("hf").generation_config.eos_token_id == 299
    fields, _ = read_gguf("hf/model.gguf")
    assert fields["tokenizer.ggml.eos_token_id"] == 299
    assert fields["tokenizer.ggml.token_type"] == [1] * 299 + [3]  # 1: normal, 3: control


@torch.no_grad()
def test_import_of_an_export_is_the_same_run(runs):
    done(runs / "v4", "hf")
    assert "sample --out back" in done("--import-from", "hf", "back")
    before, after = (v4.load_run(path, device="cpu") for path in (runs / "v4", "back"))
    assert after.tokenizer.to_json() == before.tokenizer.to_json()
    idx = torch.randint(512, (3, 64))
    assert torch.equal(before.model(idx)[0], after.model(idx)[0])
    assert call(v4.NAME, "sample", "--out", "back", "--max-new-tokens", "5").status == 0


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
    kind = dict(rope_theta=500.0, rms_norm_eps=1e-5, tie_word_embeddings=True)
    llama = LlamaForCausalLM(LlamaConfig(**sizes, **kind)).eval()
    for p in llama.parameters():
        p.add_(torch.randn(p.shape) * 0.2)
    llama.save_pretrained("llama", max_shard_size="20KB")  # in several files
    theirs.save("llama/tokenizer.json")

    done("--import-from", "llama", "run")
    run = v4.load_run("run", device="cpu")
    old = torch.tensor(export.read_tokenizer(Path("llama/tokenizer.json"))[1])  # of each new id
    assert sorted(old.tolist()) == list(range(400)) != old.tolist()
    for start in range(0, 5000, 97):
        text = (TEXT + STORIES)[start : start + 97]
        assert old[run.tokenizer.encode(text)].tolist() == theirs.encode(text).ids
    idx = torch.randint(400, (3, 64))
    logits = llama(old[idx]).logits
    assert logits.std() > 0.3
    torch.testing.assert_close(run.model(idx)[0], logits[..., old], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "file, change, word",
    [
        ("config", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_type is llama3"),
        ("config", {"rope_parameters": {"type": "linear", "factor": 2.0}}, "type is linear"),
        ("config", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("config", {"model_type": "mistral"}, "model_type is mistral"),
        ("config", {"rms_norm_eps": 1e-6}, "rms_norm_eps"),
        ("config", {"num_hidden_layers": 1}, "not a whole Llama folder"),
        ("tokenizer", {"normalizer": {"type": "NFC"}}, "byte-level BPE"),
        ("tokenizer", {"model": {"type": "Unigram"}}, "byte-level BPE"),
    ],
    ids=str,
)
def test_other_folders_are_refused(runs, file, change, word):
    done(runs / "v4", "hf")
    path = Path(f"hf/{file}.json")
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    assert word in refused("--import-from", "hf", "back")
    assert not Path("back").exists()


@torch.no_grad()
@pytest.mark.parametrize("number", [3, 5])
def test_other_versions_give_their_weights(runs, number):
    version = load_version(number)
    told = f"no common architecture matches it, its code is {version.NAME}.py"
    assert told in done(runs / f"v{number}", "hf")
    run = version.load_run(runs / f"v{number}", device="cpu")
    settings = json.loads(Path("hf/config.json").read_text("utf-8"))
    assert settings.pop("version") == version.NAME
    model = version.LanguageModel(version.Config(**settings), 512).eval()
    load_model(model, "hf/model.safetensors")
    idx = torch.randint(512, (2, 64))
    assert torch.equal(model(idx)[0], run.model(idx)[0])
    assert Tokenizer.from_file("hf/tokenizer.json").encode(TEXT).ids == run.tokenizer.encode(TEXT)
    assert "architecture" in refused(runs / f"v{number}", "other", "--gguf")


def test_mistakes_end_in_one_line(runs, monkeypatch):
    done(runs / "v4", "hf")
    assert "hf: exists" in refused(runs / "v4", "hf")
    assert "holds no run" in refused("hf", "other")
    assert "RUN FOLDER" in refused(runs / "v4")
    assert "--size" in refused(runs / "v4", "other", "--size")
    assert "not a whole Llama folder" in refused("--import-from", "nowhere", "back")
    Path("hf/model.safetensors").write_bytes(b"damaged")
    assert "not a whole Llama folder" in refused("--import-from", "hf", "back")
    for package in ("gguf", "safetensors"):
        monkeypatch.setitem(sys.modules, package, None)
        assert f"pip install {package}" in refused(runs / "v4", "other", "--gguf")
    assert sorted(path.name for path in Path().iterdir()) == ["hf", "text.txt"]
