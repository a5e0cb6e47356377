"""What the tools that write a file from the package have in common: without arguments they write it, with ``--check``
they write nothing and fail if it is out of date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def main(page: Path, make: Callable[[], str], how: str, arguments: Sequence[str] | None = None) -> int:
    """Write or check a file; returns the exit status, 1 for one that is out of date.

    make: gives the whole text; how: the command that writes it, for the error; arguments: those of the program if None.
    """
    parser = argparse.ArgumentParser(description=f"Write {page.name}, which is made from the package itself.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is out of date")
    check = parser.parse_args(arguments).check
    text = make()
    if not check:
        page.write_text(text, encoding="utf-8")
    elif not page.is_file() or page.read_text(encoding="utf-8") != text:
        print(f"{page.name} is out of date; run `{how}`", file=sys.stderr)
        return 1
    return 0
