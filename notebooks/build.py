"""Run the notebooks and write the twins: `python notebooks/build.py [01_one_neuron ...]`, by default all.

The source of a notebook is a .py file in percent format. Its twin, the .ipynb, holds the same cells with what they printed and
drew, so that it can be read where nothing runs. The twin holds nothing else: no times, counts, paths or versions, so that it
changes where the source or a number changes. A notebook that fails, warns, prints a path of this machine or draws
too large a picture is not written.
"""

from __future__ import annotations

import base64
import os
import re
import struct
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LIMIT = 120  # seconds for one cell
COLOUR = "\x1b\\[[0-9;]*m"
LARGEST = 300_000  # bytes of a picture; a plot has a tenth of that


class Unfit(Exception):
    """A notebook whose outputs should not be kept."""


def sources() -> list[Path]:
    """The notebooks in the order of reading."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def run(source: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs. Raises CellExecutionError, Unfit."""
    notebook = jupytext.read(source)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:02}"
    client = NotebookClient(
        notebook,
        timeout=LIMIT,
        kernel_name="python3",
        resources={"metadata": {"path": str(HERE)}},
        extra_arguments=["--IPKernelApp.log_level=40"],  # it warns that it listens on this machine's own address
    )
    client.execute(env=_environment())
    return _cleaned(notebook)


def _environment() -> dict[str, str]:
    """This environment, in which the kernel finds the packages of this tree and draws into the notebook."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYTHONHASHSEED": "0"}


def _cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    python = notebook.metadata.get("kernelspec", {})
    notebook.metadata = nbformat.from_dict({"kernelspec": python, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [_plain(o, f"cell {number}") for o in _joined(cell.outputs)]
    return notebook


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Prints that came in several messages, which depends on the weather, as one."""
    joined: list[nbformat.NotebookNode] = []
    for o in outputs:
        if joined and o.output_type == joined[-1].output_type == "stream" and o.name == joined[-1].name:
            joined[-1].text += o.text
        else:
            joined.append(o)
    return joined


def _plain(output: nbformat.NotebookNode, where: str) -> nbformat.NotebookNode:
    if output.output_type == "stream":
        if output.name == "stderr":
            raise Unfit(f"{where} writes to the error stream:\n{output.text}")
        _check(output.text, where)
        return output
    if "execution_count" in output:
        output.execution_count = None
    output.metadata = nbformat.from_dict({})
    for kind, content in output.data.items():
        if kind == "image/png":
            output.data[kind] = _small_picture(content, where)
        else:
            _check(str(content), where)
    return output


def _check(text: str, where: str) -> None:
    """Raises Unfit for what differs from one machine or run to the next."""
    for foreign in (str(ROOT), str(Path.home()), sys.prefix):
        if len(foreign) > 1 and foreign in text:
            raise Unfit(f"{where} prints a path of this machine: {foreign}")
    if found := re.search(r"0x[0-9a-f]{6,}", text):
        raise Unfit(f"{where} prints an address in memory: {found[0]}")


def _small_picture(content: str, where: str) -> str:
    """The PNG without its remarks, in which matplotlib writes its version."""
    raw = base64.b64decode(content)
    if len(raw) > LARGEST:
        raise Unfit(f"{where} draws a picture of {len(raw):,} bytes, at most {LARGEST:,} are wanted: choose a smaller figsize")
    kept, at = raw[:8], 8
    while at < len(raw):
        (length,) = struct.unpack(">I", raw[at : at + 4])
        if raw[at + 4 : at + 8] not in (b"tEXt", b"iTXt", b"zTXt", b"tIME"):
            kept += raw[at : at + 12 + length]
        at += 12 + length
    return base64.b64encode(kept).decode()


def main(names: list[str]) -> int:
    known = {source.stem: source for source in sources()}
    wanted = [Path(name).stem for name in names] or list(known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        print(f"there is no notebook {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    failed = []
    for name in wanted:
        twin = known[name].with_suffix(".ipynb")
        try:
            text = nbformat.writes(run(known[name]), version=4) + "\n"
        except (CellExecutionError, Unfit) as e:
            print(f"{name}: {re.sub(COLOUR, '', str(e))}", file=sys.stderr)
            failed.append(name)
            continue
        changed = not twin.exists() or twin.read_text(encoding="utf-8") != text
        if changed:
            twin.write_text(text, encoding="utf-8")
        print(f"{name}: {'written' if changed else 'as it was'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
