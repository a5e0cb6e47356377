"""The ledger: what each cell came to, one JSON file for each version of transformers. Imports nothing heavy."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vtprune.core.errors import VtpruneError, did_you_mean
from vtprune.verify.cells import Cell
from vtprune.verify.outcome import Outcome

FORMAT = 1
SHIPPED: Final = Path(__file__).parent / "results"
OWN_VARIABLE = "VTPRUNE_VERIFIED"


class LedgerError(VtpruneError):
    """A ledger that is not there, or cannot be read."""


@dataclass
class Block:
    """The cells of one tiny model with one attention implementation.

    family: the adapter that serves it; torch, vtprune: versions with which every cell of the block was run.
    cells: subject to mode to outcome.
    """

    family: str
    torch: str
    vtprune: str
    cells: dict[str, dict[str, Outcome]] = field(default_factory=dict)


@dataclass
class Ledger:
    """Everything recorded with one version of transformers; ``blocks`` by variant and attention implementation."""

    transformers: str
    blocks: dict[tuple[str, str], Block] = field(default_factory=dict)

    def outcome(self, cell: Cell) -> Outcome | None:
        """What a cell came to; None if it was not run."""
        block = self.blocks.get((cell.variant, cell.attention))
        return None if block is None else block.cells.get(cell.subject, {}).get(cell.mode)

    def cells(self) -> Iterator[tuple[Cell, Outcome]]:
        """Every cell that was run, sorted."""
        for (variant, attention), block in sorted(self.blocks.items()):
            for subject, modes in sorted(block.cells.items()):
                for mode, outcome in sorted(modes.items()):
                    yield Cell(variant, attention, mode, subject), outcome

    def merge(self, other: Ledger) -> list[str]:
        """Take over what ``other`` ran later. Cells of a block that were run with another version of torch or vtprune
        than the new ones are forgotten, since they say nothing of these versions; returns a note for each such block.

        Raises LedgerError if the ledgers are of different versions of transformers.
        """
        if other.transformers != self.transformers:
            raise LedgerError(f"a ledger of transformers {other.transformers} cannot go into {self.transformers}'s")
        notes = []
        for key, new in sorted(other.blocks.items()):
            old = self.blocks.get(key)
            if old is None or (old.torch, old.vtprune) != (new.torch, new.vtprune):
                if old is not None:
                    notes.append(
                        f"{'/'.join(key)}: what was run with torch {old.torch}, vtprune {old.vtprune} is forgotten"
                    )
                self.blocks[key] = Block(new.family, new.torch, new.vtprune)
            kept = self.blocks[key]
            kept.family = new.family
            for subject, modes in new.cells.items():
                kept.cells.setdefault(subject, {}).update(modes)
        return notes

    def to_json(self) -> str:
        """Sorted, one line a cell, the same for the same content."""
        blocks: dict[str, Any] = {}
        for (variant, attention), block in sorted(self.blocks.items()):
            cells = {name: {m: str(o) for m, o in sorted(found.items())} for name, found in sorted(block.cells.items())}
            head = {"family": block.family, "torch": block.torch, "vtprune": block.vtprune}
            blocks.setdefault(variant, {})[attention] = {**head, "cells": cells}
        data = {"format": FORMAT, "transformers": self.transformers, "variants": blocks}
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def parse(cls, text: str, source: str) -> Ledger:
        """Read `to_json` back; raises LedgerError that says where the text came from and what is wrong with it."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ValueError(f"its format is {data['format']}, expected {FORMAT}")
            ledger = cls(str(data["transformers"]))
            for variant, attentions in data["variants"].items():
                for attention, block in attentions.items():
                    cells = {name: _outcomes(modes) for name, modes in block["cells"].items()}
                    read = Block(block["family"], block["torch"], block["vtprune"], cells)
                    ledger.blocks[variant, attention] = read
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LedgerError(
                f"{source} is no ledger: {type(error).__name__}: {error}; delete it and run vtprune verify again"
            ) from error
        return ledger


def _outcomes(modes: Mapping[str, str]) -> dict[str, Outcome]:
    return {mode: Outcome.parse(text) for mode, text in modes.items()}


def own_folder() -> Path:
    """Where this user's own results lie: the folder that the variable VTPRUNE_VERIFIED names, or one in the cache."""
    named = os.environ.get(OWN_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "vtprune" / "verified"


def file_name(transformers: str) -> str:
    """The file of a version of transformers."""
    return f"transformers-{transformers}.json"


def read(path: Path) -> Ledger:
    """A ledger from its file; raises LedgerError if it is not there or damaged."""
    try:
        return Ledger.parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerError(f"{path} cannot be read: {error}") from error


def write(ledger: Ledger, path: Path) -> None:
    """Write a ledger, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_text(ledger.to_json(), encoding="utf-8")
    half.replace(path)


def stored(folder: Path = SHIPPED) -> dict[str, Path]:
    """Version of transformers to file, oldest first."""
    names = {
        path.name.removeprefix("transformers-").removesuffix(".json"): path for path in folder.glob(file_name("*"))
    }
    return dict(sorted(names.items(), key=lambda item: version_key(item[0])))


def version_key(version: str) -> tuple[int, ...]:
    """For sorting: the numbers of a version."""
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split("."))


def find(transformers: str) -> Ledger:
    """The shipped ledger of a version of transformers, with the user's own results on top.

    Raises LedgerError that names the stored versions if there is none.
    """
    ledger: Ledger | None = None
    for folder in (SHIPPED, own_folder()):
        path = folder / file_name(transformers)
        if path.is_file():
            found = read(path)
            if ledger is None:
                ledger = found
            else:
                ledger.merge(found)
    if ledger is None:
        versions = [*stored(SHIPPED), *stored(own_folder())]
        raise LedgerError(
            f"nothing was verified with transformers {transformers}.{did_you_mean(transformers, set(versions))} Run "
            f"vtprune verify with that version installed"
        )
    return ledger
