"""Run the notebooks again and keep their outputs: after a change of the tables that they read, say.

    python benchmarks/notebooks.py                  # all of notebooks/*.ipynb, in place
    python benchmarks/notebooks.py 3 5              # those whose names begin so

A cell that raises stops the command, and leaves its notebook as it was. What changes from run to run without a meaning
(times of execution, versions of the kernel) is not kept, so that a diff shows what changed in the outputs.
"""

import argparse
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(notebook, folder=NOTEBOOKS, timeout=600):
    """Run all cells of a notebook, in place, each for at most `timeout` seconds. Raises CellExecutionError."""
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": folder}})
    client.execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    return notebook


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[""], help="beginnings of names (default: all)")
    names = tuple(parser.parse_args().names)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if path.name.startswith(names):
            began = time.perf_counter()
            notebook = execute(nbformat.read(path, 4))
            nbformat.write(notebook, path)
            print(f"{path.name}: {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
