"""What must not become worse: evidence by kernel and target, committed as golden.json beside this file.

`python -m engine bench --cuda-static --rungs all --write-golden` writes it anew. Read the difference before you commit it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from kernels.cuda.static.assemble import version
from kernels.cuda.static.evidence import Evidence

FILE = Path(__file__).with_name("golden.json")
MORE_REGISTERS, LESS_SHARE = 4, 0.02  # what a patch of a compiler may change

Table = dict[str, dict[str, dict[str, Any]]]  # kernel, target, quantity


def versions() -> dict[str, str]:
    return {"numba-cuda": version_of("numba-cuda"), "ptxas": version("ptxas")}


def told() -> dict[str, Any]:
    """The file: with what it was made, and the table."""
    found: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"versions": {}, "kernels": {}}
    return found


def quantities(e: Evidence) -> dict[str, Any]:
    return {
        "registers": e.registers,
        "spills": e.spills,
        "stack": e.stack,
        "occupancy": e.occupancy,
        "product": e.product,
        "share": round(e.share, 4),
        "forbidden": [what.partition(" ")[2] for what in e.forbidden],
    }


def regressions(name: str, e: Evidence, table: Table) -> list[str]:
    """What is worse than the table has it: a sentence each, with kernel, target, quantity, golden and found."""
    if e.target not in table.get(name, {}):
        return [f"{name} on {e.target} is not in the golden table: gnomon bench --cuda-static --write-golden"]
    golden, found = table[name][e.target], quantities(e)
    worse = {
        "registers": found["registers"] > golden["registers"] + MORE_REGISTERS,
        "spills": found["spills"] > golden["spills"],
        "stack": found["stack"] > golden["stack"],
        "occupancy": found["occupancy"] < golden["occupancy"],
        "product": found["product"] != golden["product"],
        "share": found["share"] < golden["share"] - LESS_SHARE,
        "forbidden": bool(set(found["forbidden"]) - set(golden["forbidden"])),
    }
    return [f"{name} on {e.target}: {what}: golden {golden[what]}, found {found[what]}" for what, is_worse in worse.items() if is_worse]


def merged(table: Table, found: Iterable[tuple[str, Evidence]]) -> Table:
    """The table with what was found in place of what it said of the same ops and targets."""
    found = list(found)
    anew = {(name.split()[0], e.target) for name, e in found}
    kept = {name: {t: q for t, q in of.items() if (name.split()[0], t) not in anew} for name, of in table.items()}
    for name, e in found:
        kept.setdefault(name, {})[e.target] = quantities(e)
    return {name: dict(sorted(of.items(), key=lambda item: int(item[0][3:]))) for name, of in sorted(kept.items()) if of}


def write(found: Iterable[tuple[str, Evidence]]) -> None:
    """A line for each kernel and target, so that a difference shows what has changed."""
    table = merged(told()["kernels"], found)
    kernels = [
        f"  {json.dumps(name)}: {{\n" + ",\n".join(f"   {json.dumps(t)}: {json.dumps(q)}" for t, q in of.items()) + "\n  }"
        for name, of in table.items()
    ]
    FILE.write_text(f'{{\n "versions": {json.dumps(versions())},\n "kernels": {{\n' + ",\n".join(kernels) + "\n }\n}\n")
