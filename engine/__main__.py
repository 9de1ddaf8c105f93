"""`gnomon`, also `python -m engine`: 0 done, 1 something failed, 2 not understood, 130 interrupted."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        from engine.cli.group import run
    except ModuleNotFoundError as missing:
        if missing.name != "click":
            raise
        print("gnomon: the command line needs click, which is not installed.\n  pip install 'gnomon[cli]'", file=sys.stderr)
        return 1
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
