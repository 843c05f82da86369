"""Runs the sources here and writes notebooks with their outputs: python notebooks/execute.py [NAME ...]"""

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def execute(source: Path) -> Path:
    """The notebook beside `source`, written when every cell has run."""
    notebook = jupytext.read(source)
    NotebookClient(
        notebook, timeout=600, record_timing=False, resources={"metadata": {"path": HERE}}
    ).execute()
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":  # what libraries warn of names folders of this machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        cell.id = f"cell-{number}"  # random ids would change with every run
    notebook.metadata.pop("language_info", None)
    target = source.with_suffix(".ipynb")
    nbformat.write(notebook, target)
    return target


if __name__ == "__main__":
    for source in sorted(HERE.glob("[0-9]*.py")):
        if len(sys.argv) == 1 or source.stem in sys.argv[1:]:
            print(execute(source))
