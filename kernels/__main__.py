"""`python -m kernels` prints the ladders of the CPU; with --write, puts them into kernels/README.md, between its marks.

Those of CUDA are printed by `python -m kernels.cuda`.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from kernels.registry import table

README = Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- rungs -->\n", "<!-- end of rungs -->"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels", description="Print the ladders of the CPU.")
    parser.add_argument("--write", action="store_true", help="put the table into kernels/README.md")
    text = table("cpu")
    if not parser.parse_args().write:
        print(text)
        return
    readme = README.read_text(encoding="utf-8")
    README.write_text(re.sub(BEGIN + ".*?" + END, lambda _: f"{BEGIN}{text}\n{END}", readme, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
