"""The pictures of the pages as SVG: curves, bars, and one drawing of the block per version."""

import math
from difflib import SequenceMatcher
from html import escape

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 44  # margins


def svg(width, height, parts, label):
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return "\n".join([head, *parts, "</svg>"])


def text(x, y, words, anchor="middle", extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'


def scale(low, high, start, end, log):
    """A function from numbers between low and high to positions between start and end."""
    turn = math.log if log else float
    return lambda v: start + (turn(v) - turn(low)) / (turn(high) - turn(low)) * (end - start)


def ticks(low, high, log):
    if log:
        return [t for e in range(-2, 5) for t in (10**e, 2 * 10**e, 5 * 10**e) if low <= t <= high]
    step = 10 ** math.floor(math.log10(high - low))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if (high - low) / s <= 6)
    return [round(n * step, 6) for n in range(math.ceil(low / step), int(high / step + 1e-9) + 1)]


def curves(series, x_label, y_label, log=(False, False), level=None):
    """A line for each {label: [(x, y), ...]}; level: a name and height for a dashed line."""
    points = [point for line in series.values() for point in line]
    xs, ys = ([point[i] for point in points] for i in (0, 1))
    low, high = min(ys + ([level[1]] if level else [])), max(ys)
    low, high = (
        (low / 1.1, high * 1.1) if log[1] else (low - (high - low) / 12, high + (high - low) / 12)
    )
    x = scale(min(xs), max(xs), LEFT, WIDTH - RIGHT, log[0])
    y = scale(low, high, HEIGHT - BOTTOM, TOP, log[1])
    parts = []
    for t in ticks(min(xs), max(xs), log[0]):
        parts.append(text(x(t), HEIGHT - BOTTOM + 18, f"{t:,g}"))
    for t in ticks(low, high, log[1]):
        parts.append(f'<path class="grid" d="M{LEFT} {y(t):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(text(LEFT - 6, y(t) + 4, f"{t:g}", "end"))
    parts.append(text((LEFT + WIDTH) / 2, HEIGHT - 6, x_label))
    middle = (HEIGHT - BOTTOM + TOP) / 2
    parts.append(text(12, middle, y_label, "middle", f' transform="rotate(-90 12 {middle:.1f})"'))
    if level:
        parts.append(f'<path class="level" d="M{LEFT} {y(level[1]):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(text(LEFT + 4, y(level[1]) - 5, level[0], "start"))
    for n, line in enumerate(series.values()):
        path = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in line)
        parts.append(f'<path class="line n{n}" d="M{path}"/>')
    key = "".join(
        f'<li><svg viewBox="0 0 30 8" aria-hidden="true"><path class="line n{n}" d="M0 4H30"/></svg> '
        f"{escape(label)}</li>"
        for n, label in enumerate(series)
    )
    picture = svg(WIDTH, HEIGHT, parts, f"{y_label} over {x_label}: {', '.join(series)}")
    return f'{picture}\n<ul class="key">{key}</ul>'


def bars(rows):
    """A bar for each (label, change): to the left, in green, if the change is negative."""
    high = max(abs(change) for _, change in rows) or 1
    middle, parts = WIDTH / 2, []
    for n, (label, change) in enumerate(rows):
        y, end = 40 * n, middle + change / high * (middle - 66)
        start, size = min(middle, end), max(1, abs(end - middle))
        kind = "down" if change < 0 else "up"
        parts.append(text(0, y + 13, label, "start"))
        parts.append(
            f'<rect class="{kind}" x="{start:.1f}" y="{y + 18}" width="{size:.1f}" height="14"/>'
        )
        side = ("end", -5) if change < 0 else ("start", 5)
        parts.append(text(end + side[1], y + 30, f"{change:+.4f}", side[0]))
    parts.append(f'<path class="axis" d="M{middle} 16V{40 * len(rows)}"/>')
    words = ", ".join(f"{label} {change:+.4f}" for label, change in rows)
    return svg(WIDTH, 40 * len(rows), parts, f"Change in bits/byte: {words}")


# The block of each version, top to bottom: (symbol, words). A "fork" starts the path around what follows;
# a "sum" or a "move" ends it.
FORK, SUM, MOVE = ("fork", ""), ("sum", "+"), ("move", "move by α")
V1_MLP = [("map", "up"), ("op", "relu"), ("map", "down")]
BLOCKS = {
    "v0": [("map", "table: the token's row"), ("state", "logits")],
    "v1": [
        ("map", "token embedding"), ("op", "+ vector of the position"),
        FORK, ("norm", "LayerNorm"), ("map", "q, k, v"), ("op", "softmax(q kᵀ / √D + mask) v"), ("map", "out"), SUM,
        FORK, ("norm", "LayerNorm"), *V1_MLP, SUM,
        ("norm", "LayerNorm"), ("map", "head"), ("state", "logits"),
    ],
    "v2": [
        ("map", "token embedding"),
        FORK, ("norm", "LayerNorm"), ("map", "q, k, v"), ("op", "turn q and k (RoPE)"),
        ("op", "softmax(q kᵀ / √D + mask) v"), ("map", "out"), SUM,
        FORK, ("norm", "LayerNorm"), ("map", "up"), ("op", "gelu"), ("map", "down"), SUM,
        ("norm", "LayerNorm"), ("map", "head = embedding"), ("state", "logits"),
    ],
    "v3": [
        ("map", "token embedding"),
        FORK, ("norm", "LayerNorm"), ("map", "q, k, v"),
        ("op", "softmax(q kᵀ / √D − m (i − j)) v"), ("map", "out"), SUM,
        FORK, ("norm", "LayerNorm"), ("map", "up"), ("op", "gelu"), ("map", "down"), SUM,
        ("norm", "LayerNorm"), ("map", "head = embedding"), ("state", "logits"),
    ],
    "v4": [
        ("map", "token embedding"),
        FORK, ("norm", "RMSNorm"), ("map", "q in H heads; k, v in K"), ("op", "turn q and k (RoPE)"),
        ("op", "cache k and v"), ("op", "softmax(q kᵀ / √D + mask) v"), ("map", "out"), SUM,
        FORK, ("norm", "RMSNorm"), ("map", "gate, up"), ("op", "silu(gate) × up"), ("map", "down"), SUM,
        ("norm", "RMSNorm"), ("map", "head = embedding"), ("state", "logits"),
    ],
    "v5": [
        ("map", "token embedding"), ("norm", "to length 1"),
        FORK, ("map", "q in H heads; k, v in K"), ("op", "turn q and k (RoPE)"),
        ("norm", "q and k to length 1"), ("op", "q and k times s_qk"), ("op", "cache k and v"),
        ("op", "softmax(q kᵀ √D + mask) v"), ("map", "out"), ("norm", "to length 1"), MOVE, ("norm", "to length 1"),
        FORK, ("map", "gate, up"), ("op", "silu(s_v √C gate) × s_u up"), ("map", "down"),
        ("norm", "to length 1"), MOVE, ("norm", "to length 1"),
        ("map", "head"), ("op", "times s_z"), ("state", "logits"),
    ],
    "v6": [
        ("op", "hide 15 % of the words"), ("map", "embedding, with <mask>"), ("norm", "to length 1"),
        FORK, ("map", "q in H heads; k, v in K"), ("op", "turn q and k (RoPE)"),
        ("norm", "q and k to length 1"), ("op", "q and k times s_qk"),
        ("op", "softmax(q kᵀ √D + padding) v"), ("map", "out"), ("norm", "to length 1"), MOVE, ("norm", "to length 1"),
        FORK, ("map", "gate, up"), ("op", "silu(s_v √C gate) × s_u up"), ("map", "down"),
        ("norm", "to length 1"), MOVE, ("norm", "to length 1"),
        ("op", "hidden tokens only"), ("map", "head"), ("op", "times s_z"), ("state", "logits"),
    ],
}  # fmt: skip


def drawing(items, others, kind, title):
    """The block of one version; what the other version does not have is marked with a kind."""
    alike = SequenceMatcher(None, others, items, autojunk=False).get_matching_blocks()
    kept = {match.b + n for match in alike for n in range(match.size)}
    parts, y, width, fork, block = [text(130, 14, title)], 34, 260, 0, []
    for n, (symbol, words) in enumerate(items):
        mark = "" if n in kept else f" {kind}"
        if y > 34:
            parts.append(f'<path class="wire" d="M130 {y - 10}V{y}"/>')
        if symbol == "fork":
            parts.append(f'<circle class="dot" cx="130" cy="{y + 2}" r="3"/>')
            fork = y + 2
            block.append(y - 4)
            y += 14
            continue
        height = 26 if symbol not in ("sum", "move") else 24
        middle = y + height / 2
        if symbol in ("sum", "move"):
            half = 12 if symbol == "sum" else 46
            parts.append(f'<path class="wire" d="M130 {fork}H{width - 6}V{middle}H{130 + half}"/>')
            block.append(y + height + 4)
        else:
            half = 112
        round_ = {"norm": 13, "sum": 12, "move": 12, "state": 0, "map": 0, "op": 5}[symbol]
        shape = f'x="{130 - half}" y="{y}" width="{2 * half}" height="{height}" rx="{round_}"'
        parts.append(f'<rect class="{symbol}{mark}" {shape}/>')
        parts.append(text(130, middle + 4.5, words))
        y += height + 10
    if block:
        parts.insert(
            1,
            f'<rect class="frame" x="2" y="{block[0]}" width="256" height="{block[-1] - block[0]}" rx="6"/>',
        )
        parts.append(text(8, block[0] + 13, "× n_layer", "start", ' class="small"'))
    words = "; ".join(words for symbol, words in items if words)
    return svg(width, y, parts, f"{title}: {words}")


def before_and_after(old, new):
    """The drawings of a version and the one that it is built on."""
    after = drawing(BLOCKS[new], BLOCKS.get(old, BLOCKS[new]), "new", new)
    before = [drawing(BLOCKS[old], BLOCKS[new], "gone", old)] if old else []
    return "\n".join([*before, after])
