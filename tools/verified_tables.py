"""Write docs/verified.md from the ledgers that ship with the package.

python tools/verified_tables.py           write the page
python tools/verified_tables.py --check   exit with status 1 if the page is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

from vtprune.verify.document import document
from vtprune.verify.folders import SHIPPED, Folder
from vtprune.verify.ledger import read

PAGE = Path(__file__).resolve().parent.parent / "docs" / "verified.md"


def page() -> str:
    """The page as it should be."""
    return document(map(read, Folder(SHIPPED).files().values()))


if __name__ == "__main__":
    from generated import main

    sys.exit(main(PAGE, page, "make docs"))
