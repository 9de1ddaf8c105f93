"""Errors of the command line: what a user did wrong is told in two lines, without a traceback."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import click

EXTRAS = {
    "hypothesis": "check",
    "matplotlib": "plot",
    "mlxtend": "data",
    "mpmath": "check",
    "numba_cuda": "cuda",
    "onnx": "export",
    "platformdirs": "data",
    "rich": "cli",
    "safetensors": "train",
    "sklearn": "data",
}


class Failure(click.ClickException):
    """Exit code 1: it was understood, and it did not work."""

    def show(self, file: object = None) -> None:
        click.echo(f"gnomon: {self.message}", err=True)


def unknown(what: str, given: str, known: Iterable[str], hint: str = "") -> click.UsageError:
    """The error for a name that is not there: the nearest ones, and all of them or a hint where to find them."""
    names = list(known)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.6)
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    return click.UsageError(f"there is no {what} called {given!r}.{guess}\n  {hint or 'There are: ' + ', '.join(names)}")


def needs(*modules: str) -> None:
    """Raise the ModuleNotFoundError of a module now, and not when the work is done."""
    for module in modules:
        importlib.import_module(module)


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong inside the block, and is no fault of this program, is told in words."""
    try:
        yield
    except (click.ClickException, BrokenPipeError):  # a reader that has seen enough, `head` say: click ends quietly
        raise
    except Exception as e:
        words = in_words(e)
        if words is None:
            raise
        raise words from e


def in_words(e: Exception) -> click.ClickException | None:
    """The error for the user: a missing extra, a full disk, a broken file, a model that does not fit the data. None for a bug."""
    from engine.checkpoints import CheckpointError
    from engine.experiment import Mismatch
    from engine.export.onnx_writer import ExportError
    from engine.graph import GraphError
    from engine.prune import ScoreError
    from engine.quantise.folded import NoIntegerForm
    from engine.quantise.numbers import NotFinite
    from engine.train import Diverged, OtherRun

    if isinstance(e, ModuleNotFoundError):
        extra = EXTRAS.get((e.name or "").partition(".")[0])
        return Failure(f"this needs {e.name}, which is not installed\n  pip install 'gnomon[{extra}]'") if extra else None
    if isinstance(e, OSError):
        return Failure(f"{e.filename}: {e.strerror}" if e.filename and e.strerror else str(e))
    if isinstance(e, Mismatch):
        return click.UsageError(str(e))
    known = (CheckpointError, Diverged, ExportError, GraphError, NoIntegerForm, NotFinite, OtherRun, ScoreError)
    return Failure(str(e)) if isinstance(e, known) else None
