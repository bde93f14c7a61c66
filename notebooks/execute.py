"""Runs the notebooks of this folder from top to bottom in a scratch folder.

    python notebooks/execute.py            runs them and stores the outputs in the files
    python notebooks/execute.py --small    runs them on a small set and stores nothing (for CI)

A cell tagged `parameters` holds plain assignments; --small replaces them by the notebook's metadata
`small`, a mapping of names to values. Needs the [notebook] extra. Exits 1 at the first cell that
fails, with its text and error.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parent


def shrink(notebook: nbformat.NotebookNode) -> None:
    """Puts the small values behind the assignments of the `parameters` cells."""
    small = notebook.metadata.get("small", {})
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in small.items())


def settle(notebook: nbformat.NotebookNode, folder: str) -> None:
    """What differs from run to run without meaning anything goes: times, the scratch folder's name,
    progress bars."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        for output in cell.outputs:
            if "text" in output:
                output["text"] = output["text"].replace(folder + "/", "")


def execute(path: Path, small: bool) -> None:
    """Runs one notebook; stores it unless `small`."""
    notebook = nbformat.read(path, as_version=4)
    if small:
        shrink(notebook)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        client = NotebookClient(
            notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        client.execute()
    notebook.metadata.kernelspec = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata.language_info = {"name": "python"}
    settle(notebook, folder)
    nbformat.validate(notebook)
    if not small:
        partial = path.with_suffix(".partial")
        nbformat.write(notebook, partial)
        partial.replace(path)
    print(f"{path.name}: {len(notebook.cells)} cells, {time.monotonic() - start:.0f} s")


def main() -> int:
    """Runs all notebooks, or those named."""
    parser = argparse.ArgumentParser(description="runs the notebooks and stores their outputs")
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--small", action="store_true", help="small set, nothing is stored")
    arguments = parser.parse_args()
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    for path in arguments.notebooks or sorted(FOLDER.glob("*.ipynb")):
        try:
            execute(path, arguments.small)
        except CellExecutionError as error:
            print(f"error: {path.name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
