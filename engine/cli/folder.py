"""The folder of a long job: begun, gone on with, or begun anew."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from engine.cli.problems import Failure


def enter(
    file: Path, job: dict[str, Any], what: str, *, resume: bool, overwrite: bool, made: Sequence[str], check: Callable[[], Any]
) -> None:
    """Write what the job is to the file, or find that it says so already.

    what    the job is called
    made    patterns of what it leaves beside the file: deleted where it begins anew
    check   called before anything is written
    Raises Failure or UsageError if there is one and it may not go on, or is another.
    """
    if resume and overwrite:
        raise click.UsageError("--resume goes on with what is there, --overwrite begins anew: which of the two?")
    folder, said = file.parent, json.loads(json.dumps(job))
    if file.exists() and not (resume or overwrite):
        cure = "--resume goes on with it, --overwrite begins anew, --report DIR takes another folder"
        raise Failure(f"there is a {what} in {folder} already\n  {cure}")
    if resume and not file.is_file():
        raise Failure(f"there is no {what} in {folder} to go on with: {file.name} is not there\n  leave out --resume")
    if resume:
        try:
            clashes = differences(dict(json.loads(file.read_text())), said)
        except (ValueError, TypeError) as e:
            raise Failure(f"{file} is damaged: {e}\n  --overwrite begins anew") from e
        if clashes:
            raise click.UsageError(f"the {what} in {folder} was begun otherwise:\n  " + "\n  ".join(clashes))
        return
    check()
    folder.mkdir(parents=True, exist_ok=True)
    for old in [old for pattern in made for old in folder.glob(pattern)]:
        old.unlink()
    file.write_text(json.dumps(said, indent=2) + "\n")


def differences(before: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    """Where two nested records differ, in words."""
    found = []
    for name in {**before, **now}:
        then, here = before.get(name), now.get(name)
        if isinstance(then, dict) and isinstance(here, dict):
            found += differences(then, here, f"{path}{name}.")
        elif then != here:
            found.append(f"{path}{name}: then {then}, now {here}")
    return found


def to_go_on(command: str) -> str:
    """The line that goes on with the command that runs."""
    return shlex.join(["gnomon", command, *[a for a in sys.argv[2:] if a not in ("--resume", "--overwrite")], "--resume"])
