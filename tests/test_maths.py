"""Every op and every rule carries one line of LaTeX, and it parses."""

import pytest

from engine.traced import OPS

matplotlib = pytest.importorskip("matplotlib")
from matplotlib.mathtext import MathTextParser  # noqa: E402

PARSER = MathTextParser("path")


def formulas():
    for op in OPS.values():
        yield op.name, op.formula
        for kind, rules in (("vjp", op.vjps), ("jvp", op.jvps)):
            for arg, rule in rules.items():
                yield f"{op.name}.{kind}.{arg}", f"${rule.formula}$"


def test_every_formula_parses():
    bad = []
    for where, formula in formulas():
        try:
            PARSER.parse(formula)
        except ValueError as e:
            bad.append(f"{where}: {formula}\n{e}")
    assert not bad, "\n\n".join(bad)


def test_a_formula_is_one_line():
    assert [where for where, formula in formulas() if "\n" in formula] == []
