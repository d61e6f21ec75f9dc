"""The notebook: without outputs in the repository, and executed as a reader does, with a shorter warm-up."""

import nbclient
import nbformat
import pytest
from support.places import ROOT


PATH = ROOT / "docs" / "notebooks" / "first_run.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(PATH, as_version=4)


def test_outputs_are_stripped_and_the_first_cell_of_code_installs(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert '"pip", "install", "--quiet", "delta_trl[report]"' in code[0].source


def shown(cell, kind: str) -> str:
    """What a cell shows of one kind, as `text/html`."""
    return "".join(output["data"].get(kind, "") for output in cell.outputs if "data" in output)


@pytest.mark.slow
def test_the_notebook_runs(notebook, tmp_path):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    (warm,) = [cell for cell in code if "steps=150" in cell.source]
    warm.source = warm.source.replace("steps=150", "steps=4")
    nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    trained, curve, tokens, verdict = code[-4:]
    printed = "".join(output.get("text", "") for output in trained.outputs)
    assert "step 10/10  reward" in printed
    assert shown(curve, "image/png")
    assert "advantage" in shown(tokens, "text/html")
    text = "".join(output.get("text", "") for output in verdict.outputs)
    assert text.startswith("verdict   correct (score 1.0)")
    assert "verdict   wrong (score 0.0)" in text
