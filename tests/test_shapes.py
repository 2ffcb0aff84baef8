"""Shape comments: a trailing "# (B, T, C)" is compared with what its statement gave when it ran."""

import ast
import io
import re
import sys
import tokenize
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from conftest import every_file, number
from small_models import make_config, make_model

SIZES = dict(B=7, T=10, C=48, H=6, K=3, G=2, D=8, d_ff=40, V=61, past=0, S=10, N=70)
PAST = 9  # tokens that a cache holds before T more come
TERM = r"(?:past|d_ff|[A-Z]|\d+)"
SHAPE = re.compile(rf"\({TERM}(?:\s*[-+*/,]\s*{TERM})*,?\)")
AT_LEAST = [3, 12, 15, 14, 18, 22, 20]  # comments; lower it if you remove some on purpose
Comment = namedtuple("Comment", "line shapes statement in_rotate seen")


def find_comments(source):
    """The comments of sections 2, 3 and 6 that state shapes, each with its statement."""
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    section, comments = "", []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        banner = re.match(r"# -+ (\d)", token.string)
        section, line = banner[1] if banner else section, token.start[0]
        is_trailing = token.type == tokenize.COMMENT and token.line[: token.start[1]].strip()
        if is_trailing and section in ("2", "3", "6"):
            shapes = SHAPE.findall(token.string)
            assert shapes or not token.string.startswith("# ("), f"{line}: is not checked"
            around = [s for s in statements if s.lineno <= line <= s.end_lineno]
            in_rotate = any(getattr(s, "name", "") == "rotate" for s in around)
            if shapes:  # ast.walk goes by depth, so the last statement is the innermost
                comments.append(Comment(line, shapes, around[-1], in_rotate, []))
    return comments


def observe(version):
    """The shape comments; `seen` holds the sizes and the true shapes of each time."""
    comments = find_comments(Path(version.__file__).read_text("utf-8"))
    owner = {}  # line: the comment of its statement
    for c in comments:
        owner |= dict.fromkeys(range(c.statement.lineno, c.statement.end_lineno + 1), c)
    running, sizes = {}, dict(SIZES)

    def watch(frame, event, returned):
        """Called before each line and after the last: note what the statement before gave."""
        if frame.f_code.co_filename != version.__file__:
            return None
        now, done = owner.get(frame.f_lineno) if event == "line" else None, running.get(frame)
        if done and done is not now:
            if isinstance(done.statement, ast.Return):
                values = returned
            else:
                target = ast.unparse(done.statement.targets[0]).replace("[:]", "")
                values = eval(target, {}, dict(frame.f_locals))
            values = values if isinstance(values, tuple | list) else [values]
            done.seen.append((dict(sizes), [tuple(v.shape) for v in values]))
        running[frame] = now
        return watch

    B, T, V = SIZES["B"], SIZES["T"], SIZES["V"]
    widths = dict(n_head=6, n_kv_head=3, n_embd=48, d_ff=40, batch_size=B)
    cfg = make_config(version, block_size=T, **widths)
    model = make_model(version, vocab_size=V, block_size=PAST + T, **widths)
    idx, before = torch.randint(V, (B, PAST + T)), sys.gettrace()
    sys.settrace(watch)
    try:
        if number(version) == 6:
            watch_v6(version, model, cfg, sizes)
            return comments
        version.get_batch(np.arange(200), cfg, 0, "cpu")
        model(idx[:, :T], idx[:, 1 : T + 1])
        list(version.generate(model, idx[:, :T], 1, T, top_k=3, top_p=0.5))
        if number(version) >= 4:
            caches = [[] for _ in model.blocks]
            sizes |= {"T": PAST, "S": PAST}
            model(idx[:, :PAST], caches=caches)
            sizes |= {"T": T, "past": PAST, "S": PAST + T}
            model(idx[:, PAST:], caches=caches)
    finally:
        sys.settrace(before)
    return comments


def watch_v6(version, model, cfg, sizes):
    """A batch of B texts of T tokens, which are all targets, and a prompt of T tokens."""
    T, V = SIZES["T"], SIZES["V"]
    tokenizer = SimpleNamespace(
        vocab_size=V, encode=lambda text: [0] * len(text), decode=lambda ids: "a"
    )
    texts = [torch.stack((torch.randint(V, (T,)), torch.arange(T) + 1), dim=1)] * 20
    idx, _ = version.get_batch(version.Corpus(tokenizer, range(20 * T), None, texts), cfg, 0, "cpu")
    model(idx, idx.clamp(max=V - 1))
    sizes |= {"B": 1}
    version.fill(version.Run(None, version.replace(cfg, prompt="abc___defg"), tokenizer, model, 0))


def is_true(comment):
    """Whether its shapes, one for all values or one for each, are those of all that was seen."""
    for sizes, found in comment.seen:
        if comment.in_rotate and found[0][1] == sizes["K"]:  # it takes queries and keys
            sizes = sizes | {"H": sizes["K"]}
        stated = [eval(shape.replace("/", "//"), {}, sizes) for shape in comment.shapes]
        stated = [shape if isinstance(shape, tuple) else (shape,) for shape in stated]
        if (stated * len(found) if len(stated) == 1 else stated) != found:
            return False
    return bool(comment.seen)


@every_file
def test_shape_comments_are_true_and_their_letters_explained(version):
    source, comments = Path(version.__file__).read_text("utf-8"), observe(version)
    legend = re.search(r"^# Shapes: (.*(?:\n# .*)*)", source, re.MULTILINE)[1]
    assert len(comments) >= AT_LEAST[number(version)]
    for comment in comments:
        assert is_true(comment), f"{comment.line}: {comment.seen}"
        for letter in re.findall(r"\b[A-Z]\b", "".join(comment.shapes)):
            assert re.search(rf"\b{letter}\b", legend), f"{comment.line}: {letter}"
