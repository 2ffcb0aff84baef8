"""Export a run to other programs; import a Llama folder as a run of v4.

    python export.py runs/v4_gqa_swiglu/1 my_model          # a folder for transformers
    python export.py runs/v4_gqa_swiglu/1 my_model --gguf   # and my_model/model.gguf for llama.cpp
    python export.py --import-from my_model runs/imported   # back: runs/imported is a run of v4

v4 is Llama's architecture under other names. Logits and the most probable text are the same while
prompt and text are within block_size; beyond it v4 drops the older half of its window. No common
architecture matches the other versions: they give safetensors, config.json and tokenizer.json.

llama.cpp splits text by a pattern that GGUF names. "gpt4" and "gpt2" of bpe_tokenizer.py have a
name. The default gets GPT-4's, "dbrx", which differs at combining marks and at U+200C and U+200D:
there it cuts words (Hindi, Thai, pointed Arabic, accents written apart) that ours keeps whole.

--import-from takes a Llama folder with a tied embedding, unscaled RoPE and byte-level BPE.
"""

import argparse
import csv
import importlib
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import v4_gqa_swiglu as v4
from bpe_tokenizer import PATTERNS, BPETokenizer, TokenizerError

# What every model of v4 is, and its sizes, in the words of a Llama folder's config.json.
LLAMA = {"model_type": "llama", "tie_word_embeddings": True, "rms_norm_eps": 1e-5}
LLAMA |= {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
LLAMA |= {"architectures": ["LlamaForCausalLM"]}
SIZES = [  # in v4's Config, there, and in GGUF
    ("n_layer", "num_hidden_layers", "block_count"),
    ("n_head", "num_attention_heads", "head_count"),
    ("n_kv_head", "num_key_value_heads", "head_count_kv"),
    ("n_embd", "hidden_size", "embedding_length"),
    ("d_ff", "intermediate_size", "feed_forward_length"),
    ("block_size", "max_position_embeddings", "context_length"),
    ("rope_base", "rope_theta", "rope_freq_base"),
]
# Parts of the weights' names that differ.
NAMES = {"token_embedding": "model.embed_tokens", "blocks": "model.layers", "norm": "model.norm"}
NAMES |= {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
NAMES |= {"attn": "self_attn", "out_proj": "o_proj", "head": "lm_head"}
# How tokenizer.json writes the 256 bytes, in the order of our ids: those that do not print last.
LETTERS = [chr(i) for i in (*range(33, 127), *range(161, 173), *range(174, 324))]
# SmolLM's split as one pattern: digits one by one, GPT-2's pattern on what lies between them.
DIGITS = r"'(?:[sdmt]|ll|ve|re)| ?[\p{L}]+|[\p{N}]| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
# llama.cpp's names. "llama-bpe" has the pattern of "dbrx" too, but looks up words before merging.
SPLITS = {PATTERNS["default"]: "dbrx", PATTERNS["gpt4"]: "dbrx", PATTERNS["gpt2"]: "gpt-2"}
SPLITS[DIGITS] = "smollm"
END = "<|endoftext|>"  # the special token that ends a text, if the tokenizer has it


def llama_name(name):
    """The name in a Llama folder of v4's weight."""
    return ".".join(NAMES.get(part, part) for part in name.split("."))


def load(folder):
    """The module of a run's version, and its Run on the CPU."""
    try:
        version = json.loads((folder / "config.json").read_text("utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError):
        version = None
    if version not in [path.stem for path in Path(__file__).parent.glob("v[0-9]_*.py")]:
        raise v4.UserError(f"{folder}: holds no run")
    module = importlib.import_module(version)
    try:
        return module, module.load_run(folder, device="cpu")
    except module.UserError as error:  # each version has a class of its own
        raise v4.UserError(str(error)) from None


def export(run_folder, folder, with_gguf):
    """Write the folder; returns what to tell the user."""
    import safetensors.torch

    module, run = load(run_folder)
    told = f"no common architecture matches it, its code is {module.NAME}.py"
    settings = {"version": module.NAME, **asdict(run.cfg)}
    weights = {name: p.detach() for name, p in run.model.named_parameters()}  # a tied head once
    files = {"config.json": settings}
    if module is v4:
        told = f'AutoModelForCausalLM.from_pretrained("{folder}") loads it'
        weights = {llama_name(name): p for name, p in weights.items()}
        settings["d_ff"] = run.model.blocks[0].mlp.up_proj.out_features  # also where it was 0
        files = llama_files(settings, run.tokenizer)
    if folder.exists():
        raise v4.UserError(f"{folder}: exists; choose another name")
    if with_gguf and (module is not v4 or run.tokenizer.pattern not in SPLITS):
        raise v4.UserError("--gguf: llama.cpp lacks this architecture or this split of words")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        part = Path(temporary, folder.name)  # renamed when it is whole
        part.mkdir()
        for name, data in files.items():
            (part / name).write_text(json.dumps(data, indent=2), "utf-8")
        getattr(run.tokenizer, "to_huggingface", run.tokenizer.save)(part / "tokenizer.json")
        v4.write_file(part / "model.safetensors", safetensors.torch.save(weights, {"format": "pt"}))
        if with_gguf:
            write_gguf(settings, run, part)
        (part / "README.md").write_text(model_card(settings, run, folder.name, told), "utf-8")
        part.rename(folder)
    return f"saved in {folder}; {told}"


def llama_files(settings, tokenizer):
    """What AutoModelForCausalLM and AutoTokenizer read beside weights and tokenizer.json."""
    end = tokenizer.special_tokens.get(END)
    ends = {"bos_token_id": None, "eos_token_id": end}
    config = LLAMA | {theirs: settings[ours] for ours, theirs, _ in SIZES} | ends
    config |= {"torch_dtype": "float32", "vocab_size": tokenizer.vocab_size}
    use = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    use |= {"model_max_length": settings["block_size"], "eos_token": END if end else None}
    return {"config.json": config, "generation_config.json": ends, "tokenizer_config.json": use}


def model_card(settings, run, title, told):
    """README.md: what the model is, how to load it, what its training reached."""
    shown = "version data n_layer n_head n_kv_head n_embd d_ff block_size seed".split()
    rows = {"": "", "---": "---", "parameters": sum(p.numel() for p in run.model.parameters())}
    rows |= {name: settings[name] for name in shown if name in settings}
    if (run.folder / "metrics.csv").exists():  # an imported run has none
        lines = (run.folder / "metrics.csv").read_text("utf-8").splitlines()
        best = next((row for row in csv.DictReader(lines) if int(row["step"]) == run.step), {})
        rows |= {name: f"{float(value):.3f}".removesuffix(".000") for name, value in best.items()}
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"# {title}\n\nA language model; {told}.\n\n{table}\n"


def write_gguf(settings, run, folder):
    """model.gguf, from the run and the folder's tokenizer.json."""
    import gguf

    writer, kinds = gguf.GGUFWriter(folder / "model.gguf", "llama"), gguf.TokenType
    writer.add_name(folder.name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for ours, _, name in SIZES:
        getattr(writer, f"add_{name}")(settings[ours])
    writer.add_rope_dimension_count(run.model.head_dim)
    writer.add_layer_norm_rms_eps(LLAMA["rms_norm_eps"])

    model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
    words, special = {i: word for word, i in model["vocab"].items()}, run.tokenizer.special_tokens
    types = {i: kinds.CONTROL if word in special else kinds.NORMAL for i, word in words.items()}
    ids = range(run.tokenizer.vocab_size)  # which may have gaps
    writer.add_vocab_size(len(ids))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(SPLITS[run.tokenizer.pattern])
    writer.add_token_list([words.get(i, f"[unused {i}]") for i in ids])
    writer.add_token_types([types.get(i, kinds.UNUSED) for i in ids])
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    writer.add_token_merges(merges)
    writer.add_add_bos_token(False)
    # Where none is named, llama.cpp ends a text at token 11. Byte 255 is in no UTF-8 text.
    writer.add_eos_token_id(special.get(END, model["vocab"][chr(255)]))

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, settings["n_layer"])
    n_heads = {"q_proj": settings["n_head"], "k_proj": settings["n_kv_head"]}
    for name, p in run.model.named_parameters():
        weight, n_head = p.detach(), n_heads.get(name.split(".")[-2])
        if n_head:  # llama.cpp rotates the pairs (x_2i, x_(2i + 1)), v4 (x_i, x_(i + D/2)):
            weight = weight.unflatten(0, (n_head, 2, -1)).transpose(1, 2)  # 0 1 2 3 become 0 2 1 3
        weight = weight.reshape(p.shape).numpy()
        writer.add_tensor(names.get_name(llama_name(name), [".weight"]), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def import_llama(folder, out):
    """Write a run of v4 with a Llama folder's weights and tokenizer; returns what to tell."""
    import safetensors.torch

    try:
        cfg = read_config(folder, out)
        cfg.check()
        tokenizer, ids = read_tokenizer(folder / "tokenizer.json")
        model, state = v4.LanguageModel(cfg, tokenizer.vocab_size), {}
        ours = {llama_name(name): name for name in model.state_dict()}
        for file in sorted(folder.glob("model*.safetensors")):  # one, or several parts
            state |= {ours.get(n, n): p for n, p in safetensors.torch.load_file(file).items()}
        state["token_embedding.weight"] = state["token_embedding.weight"][ids]
        state["head.weight"] = state["token_embedding.weight"]
        model.load_state_dict(state)
    except v4.UserError:
        raise
    except Exception as error:  # files that are missing, damaged or do not agree: a dozen kinds
        raise v4.UserError(f"{folder}: not a whole Llama folder: {error!r:.200}") from None
    out = v4.create_folder(cfg, tokenizer)
    v4.save_checkpoint(out / "best.pt", model=model.state_dict(), step=0)
    return f"saved in {out}; next: python {v4.NAME}.py sample --out {out}"


def read_config(folder, out):
    """v4's Config for a folder's config.json, or an error that says what v4 lacks."""
    absent = {"model_type": None, "tie_word_embeddings": False, "rms_norm_eps": 1e-6}
    theirs = LLAMA | absent | json.loads((folder / "config.json").read_text("utf-8"))
    theirs |= theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    for name, value in (LLAMA | {"rope_type": "default", "type": "default"}).items():
        if theirs.get(name, value) != value:
            raise v4.UserError(f"{folder}: {name} is {theirs[name]}; v4 has {value}")
    return v4.Config(out=str(out), **{ours: theirs[name] for ours, name, _ in SIZES})


def split_pattern(step):
    """The split pattern of a tokenizer.json's pre-tokenizer, None if ours cannot do the same."""
    *first, last = step["pretokenizers"] if step["type"] == "Sequence" else [step]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    match first, last.get("use_regex", True):
        case [], True:
            return PATTERNS["gpt2"]
        case [{"type": "Digits", "individual_digits": True}], True:
            return DIGITS
        case [{"type": "Split", "behavior": "Isolated", "invert": False} as split], False:
            return split["pattern"].get("Regex")


def read_tokenizer(path):
    """A BPETokenizer from a tokenizer.json, its ids in our order, and the id of each there."""
    data, new = json.loads(path.read_text("utf-8")), {letter: i for i, letter in enumerate(LETTERS)}
    model, pattern, merges = data["model"], split_pattern(data["pre_tokenizer"]), []
    odd = "dropout continuing_subword_prefix end_of_word_suffix byte_fallback ignore_merges".split()
    if model["type"] != "BPE" or not pattern or any(map((model | data).get, [*odd, "normalizer"])):
        raise v4.UserError(f"{path}: not byte-level BPE, or with something that v4's has not")
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        merges.append((new[left], new[right]))
        new[left + right] = len(new)
    specials = {token["content"]: token["id"] for token in data["added_tokens"]}
    ids = [model["vocab"][word] for word in new] + list(specials.values())
    return BPETokenizer(merges, pattern, list(specials)), ids


def main():
    """Run the command line; a foreseen problem ends in one line and status 1."""
    parser = argparse.ArgumentParser(prog="export.py", description=__doc__.splitlines()[0])
    parser.error = lambda message: sys.exit(f"export: {message}")
    parser.add_argument("source", type=Path, help="run to read; with --import-from, Llama folder")
    parser.add_argument("target", type=Path, help="folder to write; with --import-from, run")
    parser.add_argument("--gguf", action="store_true", help="write model.gguf too, for llama.cpp")
    parser.add_argument("--import-from", action="store_true", help="the other way round")
    args = parser.parse_args()
    try:
        if args.import_from:
            print(import_llama(args.source, args.target))
        else:
            print(export(args.source, args.target, args.gguf))
    except ModuleNotFoundError as error:
        parser.error(f"{error.name} is not installed: pip install {error.name}")
    except (v4.UserError, TokenizerError, OSError, KeyboardInterrupt) as error:
        parser.error(str(error) or "interrupted")


if __name__ == "__main__":
    main()
