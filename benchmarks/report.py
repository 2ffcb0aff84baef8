"""benchmarks/README.md: what was measured, by question, from the files in benchmarks/results/.

    python benchmarks/report.py

Every benchmark calls `save` with its tables, and so writes its own file and this page. No figure is typed by hand.
"""

import json
import os
import platform
import shlex
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ORDER = "ladder shakespeare ablations length generation step sizes tune surprise variations tokenizer scaffold counting mlm mlm_tokens mlm_starts"
HEAD = """# Measured

Every table was printed by the command above it, and is copied here from `benchmarks/results/` by
`python benchmarks/report.py`. Bits/byte: what a text costs by the model's probabilities, per byte of the text; lower is
better. Where there are several seeds a figure is the median, and the lowest and highest stand in brackets. Speeds
differ from machine to machine and from hour to hour: read the ratios of one table.
"""


def machine():
    """This machine in words: cores, instruction set, GPU, version of torch."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cpu = f"{os.cpu_count()} cores ({torch.backends.cpu.get_cpu_capability()}), {gpu}"
    return f"{cpu}, torch {torch.__version__}, Python {platform.python_version()}"


def save(path, question, tables, note="", **more):
    """Write one benchmark's result to a JSON file; a table is rows of cells, the first its header.

    note: what a reader must know to read the tables; more: what else is kept in the file.
    """
    command = f"python benchmarks/{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}".strip()
    head = {"question": question, "command": command, "machine": machine(), "note": note}
    content = head | {"tables": tables} | more
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if path.parent == RESULTS:
        (ROOT / "benchmarks" / "README.md").write_text(page(), encoding="utf-8")
    print("\n\n".join(markdown(table) for table in tables))


def markdown(table):
    """Rows of cells as a Markdown table."""
    head, *rows = [f"| {' | '.join(map(str, row))} |" for row in table]
    return "\n".join([head, "|---" * len(table[0]) + "|", *rows])


def section(path):
    """One result file as a section of the page."""
    result = json.loads(path.read_text(encoding="utf-8"))
    parts = [f"## {result['question']}", f"`{result['command']}`  \n{result['machine']}"]
    parts += [markdown(table) for table in result["tables"]]
    parts += [result["note"]] * bool(result["note"])
    if path.with_suffix(".png").exists():
        parts.append(f"![{path.stem}](results/{path.stem}.png)")
    return "\n\n".join(parts)


def page():
    """The text of benchmarks/README.md."""
    order = ORDER.split()
    paths = sorted(RESULTS.glob("*.json"), key=lambda path: order.index(path.stem))
    return "\n\n".join([HEAD.strip(), *(section(path) for path in paths)]) + "\n"


if __name__ == "__main__":
    (ROOT / "benchmarks" / "README.md").write_text(page(), encoding="utf-8")
