"""`gnomon info`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from engine.cli.problems import told


@click.command("info", short_help="Versions, processor, kernels, threads, folders, extras.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Say what this program runs on: versions, processor, linear algebra, kernels by backend, folders, extras.

    \b
    Examples
      gnomon info
      gnomon info --json
    """
    with told():
        from engine.machine import describe

        found = describe()
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines(found)))


def lines(tree: dict[str, Any], depth: int = 0) -> Iterator[str]:
    """A nesting of dicts as an indented list."""
    pad = "  " * depth
    width = max((len(k) for k, v in tree.items() if not isinstance(v, dict)), default=0)
    for key, value in tree.items():
        if isinstance(value, dict):
            yield f"{pad}{key}"
            yield from lines(value, depth + 1) if value else [f"{pad}  none"]
        else:
            yield f"{pad}{key:<{width}}  {value}"
