"""Run the notebooks again and keep their outputs: after a change of the tables that they read, say.

    python benchmarks/notebooks.py                  # all of notebooks/*.ipynb, in place
    python benchmarks/notebooks.py 3_ 5_            # those whose names begin so

A cell that raises stops the command, and leaves its notebook as it was. What changes from run to run without a meaning
(times of execution, versions of the kernel) is not kept, so that a diff shows what changed in the outputs. The README's
thumbnails are made from the pictures.
"""

import argparse
import base64
import io
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SHOWN = (1, 0, 1, 2, 0, 2, 0, 0, 1, 1, 0)  # the picture of each for README
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(notebook, folder=NOTEBOOKS, timeout=600):
    """Run all cells of a notebook, in place, each for at most `timeout` seconds. Raises CellExecutionError."""
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    return notebook


def write_thumbnail(notebook, path, width=240):
    """One picture of a notebook, made small, in thumbnails/ beside it."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [
        output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})
    ]
    picture = Image.open(
        io.BytesIO(base64.b64decode(pictures[SHOWN[int(path.stem.split("_")[0])]]))
    ).convert("RGB")
    small = picture.resize(
        (width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS
    )
    target = path.parent / "thumbnails" / f"{path.stem}.png"
    target.parent.mkdir(exist_ok=True)
    small.quantize(64).save(target, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[""], help="beginnings of names (default: all)")
    names = tuple(parser.parse_args().names)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if path.name.startswith(names):
            began = time.perf_counter()
            notebook = execute(nbformat.read(path, 4))
            nbformat.write(notebook, path)
            write_thumbnail(notebook, path)
            print(f"{path.name}: {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
