"""Where ledgers lie: vtprune's, those that other packages ship of their families, and the user's own.

Imports nothing heavy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from vtprune.core.conformance import source_of
from vtprune.core.errors import did_you_mean
from vtprune.core.plugins import GROUP, registry
from vtprune.verify.ledger import Ledger, LedgerError, read

SHIPPED: Final = Path(__file__).parent / "results"
OWN_VARIABLE: Final = "VTPRUNE_VERIFIED"
PACKAGED: Final = "verified"
"""The folder with a package's ledgers, beside the module that its entry point names."""


class Folder(NamedTuple):
    """A folder with ledgers. owner: the distribution whose families alone count in it; None if all do."""

    path: Path
    owner: str | None = None

    def files(self) -> dict[str, Path]:
        """Version of transformers to file, oldest first."""
        names = {
            file.name.removeprefix("transformers-").removesuffix(".json"): file
            for file in self.path.glob(file_name("*"))
        }
        return dict(sorted(names.items(), key=lambda item: version_key(item[0])))

    def read(self, file: Path) -> Ledger:
        """What counts of a ledger in it; raises LedgerError if it cannot be read."""
        ledger = read(file)
        if self.owner is not None:
            own = f"{self.owner}/"
            ledger.blocks = {key: block for key, block in ledger.blocks.items() if block.family.startswith(own)}
        return ledger


def folders() -> Iterator[Folder]:
    """Every folder from which results are read; what stands in a later one is on top."""
    yield Folder(SHIPPED)
    found = {(source, entry.origin) for entry in registry().entries("adapter") if entry.origin != GROUP
             if (source := source_of(entry.module)) is not None}  # fmt: skip
    for source, origin in sorted(found):
        yield Folder(source.with_name(PACKAGED), origin)
    yield Folder(own_folder())


def own_folder() -> Path:
    """Where this user's own results lie: the folder that the variable VTPRUNE_VERIFIED names, or one in the cache."""
    named = os.environ.get(OWN_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "vtprune" / "verified"


def file_name(transformers: str) -> str:
    """The file of a version of transformers."""
    return f"transformers-{transformers}.json"


def version_key(version: str) -> tuple[int, ...]:
    """For sorting: the numbers of a version."""
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split("."))


def find(transformers: str) -> Ledger:
    """Everything stored of a version of transformers.

    Raises LedgerError that names the stored versions if there is nothing, or if a file cannot be read.
    """
    found = [(folder, file) for folder in folders() if (file := folder.path / file_name(transformers)).is_file()]
    if not found:
        versions = {version for folder in folders() for version in folder.files()}
        raise LedgerError(
            f"nothing was verified with transformers {transformers}.{did_you_mean(transformers, versions)} Run "
            f"vtprune verify with that version installed"
        )
    ledger = Ledger(transformers)
    for folder, file in found:
        ledger.merge(folder.read(file))
    return ledger
