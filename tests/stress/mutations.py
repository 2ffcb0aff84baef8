"""Plant deliberate faults in a copy of the project, one at a time: each must turn its test red.

    python tests/stress/mutations.py               # all
    python tests/stress/mutations.py v4 v5         # those of some files

The list has at least one fault for each idea, optimizer and promise. If a test is rewritten, this
tells whether it still sees what it is for.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAULTS = r"""  # file, test, old ==> new
v0_bigram test_models::test_a_batch_depends  windows[:, 1:]  # ==> windows[:, :-1]  #
v0_bigram test_models::test_windows_lie  0.6180339887498949 ==> 0.5
v0_bigram test_models::test_evaluation  * (len(ids) - 1) ==> * len(ids)
v0_bigram test_generation::test_draws  probs.cumsum(-1) - probs > top_p ==> probs.cumsum(-1) > top_p
v0_bigram test_generation::test_a_seed  torch.multinomial(probs, 1, generator=generator) ==> torch.multinomial(probs, 1)
v0_bigram test_generation::test_the_stop  len(text) - len(cfg.stop) ==> len(text)
v0_bigram test_runs::test_a_full_disk  Path(f"{path}.{os.getpid()}.tmp") ==> Path(path)
v0_bigram test_runs::test_a_run_is_over  exist_ok=cfg.overwrite ==> exist_ok=True
v0_bigram test_bad_input::test_numbers_out  not low <= value < 2**31 ==> not low <= value
v1_transformer test_v1  math.sqrt(q.size(-1)) ==> math.sqrt(q.size(-2))
v1_transformer test_models::test_no_logit  .triu(1) ==> .triu(2)
v1_transformer test_models::test_initial_weights  (2 * cfg.n_layer) ** -0.5 ==> cfg.n_layer**-0.5
v1_transformer test_models::test_schedule  return spent / cfg.warmup ==> return spent
v1_transformer test_models::test_training_is  cfg.grad_clip or math.inf ==> 2 * cfg.grad_clip or math.inf
v1_transformer test_runs::test_a_resumed  torch.manual_seed(cfg.seed * 1_000_003 + step) ==> pass
v2_bpe_rope test_v2  a * sin + b * cos ==> b * cos - a * sin
v2_bpe_rope test_v2  self.head.weight = self.token_embedding.weight ==> pass
v2_bpe_rope test_v2  min(n_chars, 50_000_000) ==> 50_000_000
v2_bpe_rope test_generation::test_characters  text.endswith("\ufffd") ==> False
v3_alibi test_v3  -8 / n_head ==> -4 / n_head
v4_gqa_swiglu test_v4  F.silu( ==> F.gelu(
v4_gqa_swiglu test_v4  is_causal=T == S ==> is_causal=True
v4_gqa_swiglu test_v4  self.positions(past, idx ==> self.positions(0, idx
v4_gqa_swiglu test_generation::test_a_full_window  block_size // 2 ==> block_size // 4
v4_gqa_swiglu test_v4  max(1, shape[0] / shape[1]) ==> max(1, shape[1] / shape[0])
v4_gqa_swiglu test_models::test_every_parameter  cfg.muon_learning_rate ==> cfg.learning_rate
v5_ngpt test_v5  dim=0 if writes else 1 ==> dim=1
v5_ngpt test_v5  self.alpha_mlp().abs() ==> self.alpha_mlp()
v5_ngpt test_v5  cfg.n_embd**0.5, cfg.n_embd**-0.5 ==> cfg.n_embd**0.5, 1.0
v5_ngpt test_v5  lambda *_: model.normalize_matrices() ==> lambda *_: None
v5_ngpt test_v5  [1].flip(1) ==> [1]
v5_ngpt test_v5  (Q_L.T @ G @ Q_R).square() ==> G.square()
v5_ngpt test_shapes  # (B, T, d_ff) ==> # (B, T, C)
v5_ngpt test_runs::test_a_resumed  optimizer.load_state_dict(saved) ==> pass
v5_ngpt test_runs::test_a_refused  text.update(corpus.val) ==> text = hashlib.sha256()
v5_ngpt test_runs::test_a_signal  if stop and RANK == 0 ==> if not stop and RANK == 0
v5_ngpt test_runs::test_non_finite  if not all(p.isfinite() ==> if False and not all(p.isfinite()
v5_ngpt test_runs::test_two_processes  .{os.getpid()}.tmp ==> .tmp
v5_ngpt test_bad_input::test_damaged  weights_only=True ==> weights_only=False
v5_ngpt test_bad_input::test_out_of  if isinstance(error, RuntimeError) ==> if isinstance(error, MemoryError)
v6_mlm test_v6  < 0.15  # one ==> < 0.12  # one
v6_mlm test_v6  (die < 0.8) | exam ==> (die < 0.85) | exam
v6_mlm test_v6  die < 0.9 ==> die < 0.95
v6_mlm test_v6  inner & np.append(False, in_word[:-1]) ==> inner
v6_mlm test_v6  words > 0 if exam ==> words != 0 if exam
v6_mlm test_v6  words[:, 0] = 0 ==> pass
v6_mlm test_v6  seed=0, exam=True ==> seed=torch.seed(), exam=True
v6_mlm test_v6  mask + 1)  # `<pad>` ==> mask)
v6_mlm test_v6  -1e30, 0.0 ==> 0.0, 0.0
v6_mlm test_v6  -1e30, 0.0 ==> -math.inf, 0.0
v6_mlm test_v6  (0, 0, 1, -1) ==> (0, 0, 0, 0)
v6_mlm test_v6  / n_targets ==> / len(parts)
v6_mlm test_shapes  # (N, C), (N,) ==> # (N, V), (N,)
v6_mlm test_v6  part.removesuffix(" ") ==> part
v6_mlm test_v6  if mask not in idx ==> if False
v6_mlm test_v6  own[len(rows) :] ==> own[:2] * 0
v6_mlm test_runs::test_a_resumed  vocab_size, cfg.seed * 1_000_003 + step ==> vocab_size, time.time_ns()
bpe_tokenizer test_tokenizer::test_merges_and_ids  (-counts[pair], pair) ==> -counts[pair]
bpe_tokenizer test_tokenizer::test_merges_and_ids  else (b, y)] -= n ==> else (a, y)] -= n
bpe_tokenizer test_tokenizer::test_merges_and_ids  rank * n + left ==> rank * n + right
v5_ngpt test_ladder::test_only_listed  Mean loss of tokens[1:] ==> The mean loss of tokens[1:]
"""


def read_faults(names):
    """(file, test, old text, new text) of the faults in files whose names begin so."""
    for line in FAULTS.splitlines()[1:]:
        name, test, change = line.split(None, 2)
        old, new = change.replace(r"\n", "\n").split(" ==> ")
        if name.startswith(tuple(names)):
            yield f"{name}.py", test, old, new


def run_tests(copy, tests):
    """The exit status of pytest for tests, each of one version only: 0 passed, 1 failed."""
    files = {test.partition("::")[0] for _, test in tests}
    versions = [file[:2] if file[0] == "v" else "test" for file, _ in tests]
    named = [test.replace("::", " and ") for _, test in tests]
    words = [f"({v} and {name})" for v, name in zip(versions, named, strict=True)]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["-k", " or ".join(words), *(f"tests/{file}.py" for file in files)]
    return subprocess.run(command, cwd=copy, capture_output=True).returncode


def main():
    faults, unseen = list(read_faults(sys.argv[1:] or [""])), 0
    skipped = shutil.ignore_patterns(".*", "runs", "__pycache__")
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = shutil.copytree(ROOT, Path(folder, "copy"), ignore=skipped)
        if run_tests(copy, [fault[:2] for fault in faults]):
            sys.exit("the tests are not green without a fault")
        for file, test, old, new in faults:
            source = (ROOT / file).read_text(encoding="utf-8")
            (copy / file).write_text(source.replace(old, new, 1), encoding="utf-8")
            seen = old in source and run_tests(copy, [(file, test)]) == 1
            (copy / file).write_text(source, encoding="utf-8")
            unseen += not seen
            print(f"{'red' if seen else 'NOT SEEN'}  {file} {test}: {old!r} -> {new!r}", flush=True)
    print(f"{len(faults)} faults, {unseen} of them not seen")
    sys.exit(unseen > 0)


if __name__ == "__main__":
    main()
