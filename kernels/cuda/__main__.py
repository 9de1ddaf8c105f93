"""`python -m kernels.cuda` prints the CUDA ladders and what the emulator counts on them; with --write, puts them into README.md."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from kernels import registry
from kernels.cuda.lesson import STEP, passes, table

README = Path(__file__).resolve().parent / "README.md"
FEWER = ("matmul_int8", "matmul_csr", "matmul_csr_data_grad", "matmul_bsr", "matmul_2to4")
COUNTED = ("matmul", "matmul_bf16", "conv2d", "conv2d_input_grad", "conv2d_weight_grad", "conv2d_int8", *FEWER)
PARTS = {
    "rungs": lambda: registry.table("cuda"),
    **{op: lambda op=op: table(op) for op in COUNTED},
    "multiply": lambda: passes("multiply", 2),
    "sum": lambda: passes("sum", 1),
    "adam_step": lambda: passes("adam_step", 4, **STEP),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.cuda", description="Print the CUDA ladders, and what is counted on them.")
    parser.add_argument("--write", action="store_true", help="put the tables into kernels/cuda/README.md")
    texts = {name: make() for name, make in PARTS.items()}
    if not parser.parse_args().write:
        print("\n\n".join(texts.values()))
        return
    readme = README.read_text(encoding="utf-8")
    for name, text in texts.items():
        marks = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        readme = re.sub(marks, lambda found, text=text: f"{found[1]}{text}\n{found[2]}", readme, flags=re.DOTALL)
    README.write_text(readme, encoding="utf-8")


if __name__ == "__main__":
    main()
