"""A net as a table: paths, output shapes, how many numbers each layer learns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from engine.nets.layer import Layer, count
from engine.shapes import Shape


class Row(NamedTuple):
    """One layer in the table."""

    path: str
    kind: str
    out: str
    params: str


def table(net: Layer, shape: Shape | None) -> str:
    """The table as text; without a shape, a line that says how to get it."""
    if shape is None:
        return f"<{net.kind}, whose shapes are open: init it, or ask for table(shape)>"
    params, _ = net.make(0, shape, np.float32)
    body = list(_rows(net, shape, "", params, set()))
    lines = [Row("layer", "kind", "output", "parameters"), Row("(input)", "", _by(shape), ""), *body]
    widths = [max(len(column) for column in columns) for columns in zip(*lines, strict=True)]
    rule = "-" * (sum(widths) + 2 * 3)
    printed = [_line(row, widths) for row in lines]
    total = _line(Row("total", "", "", f"{count(params):,}"), widths)
    return "\n".join([printed[0], rule, *printed[1:], rule, total])


def _rows(net: Layer, shape: Shape, path: str, params: dict[str, Any], told: set[str]) -> Iterator[Row]:
    """The leaves below `net`. Arrays of a tied layer are counted where they stand first."""
    if net.parts is not None:
        for part, inner, given in net.parts(shape):
            yield from _rows(inner, given, f"{path}{part}/", params, told)
        return
    own = [name for name in params if name.startswith(path)]
    new = {name: params[name] for name in own if name not in told}
    told.update(own)
    yield Row(path.rstrip("/") or net.kind, net.kind, _by(net.out(shape)), "tied" if own and not new else f"{count(new):,}")


def _by(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "1"


def _line(row: Row, widths: list[int]) -> str:
    path, kind, out, params = widths
    return f"{row.path:<{path}}  {row.kind:<{kind}}  {row.out:>{out}}  {row.params:>{params}}"
