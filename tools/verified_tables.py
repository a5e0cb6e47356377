"""Write docs/verified.md from the ledgers that ship with the package.

python tools/verified_tables.py           write the page
python tools/verified_tables.py --check   exit with status 1 if the page is out of date
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vtprune.verify.document import document
from vtprune.verify.ledger import read, stored

PAGE = Path(__file__).resolve().parent.parent / "docs" / "verified.md"


def page() -> str:
    """The page as it should be."""
    return document(map(read, stored().values()))


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare with the page, write nothing")
    if not parser.parse_args(arguments).check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
        print(f"{PAGE} is out of date; run python tools/verified_tables.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
