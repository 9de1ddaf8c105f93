"""Errors of the command line: what a user did wrong is told in two lines, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import click

EXTRAS = {
    "matplotlib": "plot",
    "mlxtend": "data",
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


def one_of(what: str, names: Callable[[], Iterable[str]]) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """A click callback that takes one of `names()`, or explains."""

    def check(_: click.Context, __: click.Parameter, given: str | None) -> str | None:
        if given is not None and given not in (known := list(names())):
            raise unknown(what, given, known)
        return given

    return check


@contextmanager
def told() -> Iterator[None]:
    """What the machine refuses inside the block is told as a `Failure`: a missing extra, a full disk, a broken file."""
    try:
        yield
    except ModuleNotFoundError as e:
        extra = EXTRAS.get((e.name or "").partition(".")[0])
        if extra is None:
            raise
        raise Failure(f"this needs {e.name}, which is not installed.\n  pip install 'gnomon[{extra}]'") from e
    except BrokenPipeError:  # the reader, `head` say, has seen enough: click ends quietly
        raise
    except OSError as e:
        where = f"{e.filename}: " if e.filename else ""
        raise Failure(f"{where}{e.strerror or e}") from e
