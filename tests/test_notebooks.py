"""Every notebook runs from the top, and its twin holds the same cells with what they printed and drew."""

import importlib.util
import runpy
import sys
from pathlib import Path

import jupytext
import matplotlib
import nbformat
import numpy as np
import pytest

HERE = Path(__file__).resolve().parent.parent / "notebooks"
SOURCES = sorted(HERE.glob("[0-9][0-9]_*.py"))


@pytest.fixture
def build():
    spec = importlib.util.spec_from_file_location("build_notebooks", HERE / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(notebook):
    return [(c.cell_type, c.source) for c in notebook.cells]


def test_there_are_notebooks():
    assert len(SOURCES) >= 2
    assert {p.stem for p in HERE.glob("*.ipynb")} == {p.stem for p in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_the_twin_is_in_step(source):
    twin = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert cells(jupytext.read(source)) == cells(twin), f"run: python notebooks/build.py {source.stem}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_the_twin_holds_what_the_cells_gave_and_nothing_of_the_machine(source, build):
    twin = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(twin)
    for cell in twin.cells:
        if cell.cell_type != "code":
            continue
        assert cell.execution_count is None
        assert all(o.output_type != "error" for o in cell.outputs)
        pictures = [o for o in cell.outputs if "image/png" in o.get("data", {})]
        assert len(pictures) == cell.source.count("plt.show()"), cell.source
        if "print(" in cell.source and "def " not in cell.source:
            assert any(o.get("name") == "stdout" for o in cell.outputs), cell.source
    cleaned = build._cleaned(nbformat.from_dict(twin))
    assert nbformat.writes(cleaned, version=4) + "\n" == source.with_suffix(".ipynb").read_text(encoding="utf-8")


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_the_notebook_runs_from_the_top(source, monkeypatch, capsys):
    """Its claims are assertions: they are checked by running."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda *_: (shown.append(plt.get_fignums()), plt.close("all")))
    monkeypatch.syspath_prepend(str(HERE.parent))
    before = np.geterr()
    runpy.run_path(str(source), run_name="__main__")
    assert shown, "a lesson without a picture"
    assert all(shown), "plt.show() with nothing drawn"
    assert plt.get_fignums() == [], "a picture that is drawn and not shown"
    assert np.geterr() == before
    assert capsys.readouterr().err == ""


# The builder.

SMALL = """# %% [markdown]
# # Small

# %%
print("one")
print("two")

# %%
import matplotlib.pyplot as plt

plt.figure(figsize=(2, 1))
plt.plot([1, 2])
plt.show()

# %%
1 + 1
"""


def written(tmp_path, build, monkeypatch, text):
    monkeypatch.setattr(build, "HERE", tmp_path)
    source = tmp_path / "01_small.py"
    source.write_text(text)
    return source


def test_the_same_source_gives_the_same_twin(tmp_path, build, monkeypatch, capsys):
    source = written(tmp_path, build, monkeypatch, SMALL)
    assert build.main([]) == 0
    first = source.with_suffix(".ipynb").read_bytes()
    assert build.main(["01_small"]) == 0
    assert source.with_suffix(".ipynb").read_bytes() == first
    assert capsys.readouterr().out == "01_small: written\n01_small: as it was\n"
    twin = nbformat.reads(first.decode(), as_version=4)
    assert twin.cells[1].outputs[0].text == "one\ntwo\n"
    assert twin.cells[3].outputs[0].data["text/plain"] == "2"
    assert b"atplotlib" not in __import__("base64").b64decode(twin.cells[2].outputs[0].data["image/png"])
    assert sys.prefix.encode() not in first


@pytest.mark.parametrize(
    "code, says",
    [
        ("assert 1 + 1 == 3", "AssertionError"),
        ("import warnings; warnings.warn('careful')", "cell 0 writes to the error stream"),
        ("import os; print(os.getcwd(), os.path.expanduser('~'))", "cell 0 prints a path of this machine"),
        ("object()", "cell 0 prints an address in memory"),
    ],
)
def test_a_notebook_that_should_not_be_kept_is_not_written(tmp_path, build, monkeypatch, capsys, code, says):
    source = written(tmp_path, build, monkeypatch, f"# %%\n{code}\n")
    assert build.main([]) == 1
    assert says in capsys.readouterr().err
    assert not source.with_suffix(".ipynb").exists()


def test_a_picture_that_is_too_large_is_refused(build):
    import base64

    with pytest.raises(build.Unfit, match="cell 3 draws a picture of 400,008 bytes"):
        build._small_picture(base64.b64encode(bytes(400_008)).decode(), "cell 3")


def test_an_unknown_notebook_is_told(build, capsys):
    assert build.main(["99_nothing"]) == 2
    assert "there is no notebook 99_nothing; there are 01_one_neuron, " in capsys.readouterr().err
