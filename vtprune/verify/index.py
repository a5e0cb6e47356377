"""What the library looks up when a recipe is bound: which sites of which family were verified.

Imports nothing heavy.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from typing import NamedTuple

from vtprune.verify.folders import folders, version_key
from vtprune.verify.ledger import LedgerError
from vtprune.verify.subjects import SUBJECTS

RECOGNISED = "recognised:"
"""How `vtprune.core.recognise` begins the names of adapters that it makes; importing it imports torch."""


class UnverifiedWarning(UserWarning):
    """A recipe was bound to a combination of model family, kind of site and attention implementation that nothing in
    the ledger of the installed transformers shows to be right."""


class Combination(NamedTuple):
    """What is looked up."""

    family: str
    kind: str
    attention: str


class Index(NamedTuple):
    """What is known of one minor version of transformers.

    passes: the combinations with at least one pass; None if there is no ledger of the version that can be read.
    damaged: the files that cannot be read, each with its fault.
    """

    passes: frozenset[Combination] | None
    damaged: tuple[str, ...]


@cache
def index(wanted: str) -> Index:
    """The index of a minor version (``"5.23"``), of every ledger; read once per process, never an error."""
    passes: set[Combination] | None = None
    damaged: list[str] = []
    for folder in folders():
        for transformers, path in folder.files().items():
            if minor(transformers) != wanted:
                continue
            try:
                ledger = folder.read(path)
            except LedgerError as error:
                damaged.append(str(error))
                continue
            passes = set() if passes is None else passes
            for (_, attention), block in ledger.blocks.items():
                for name, modes in block.cells.items():
                    if name in SUBJECTS and any(outcome.status == "pass" for outcome in modes.values()):
                        passes.add(Combination(block.family, SUBJECTS[name].kind, attention))
    return Index(None if passes is None else frozenset(passes), tuple(damaged))


def minor(transformers: str) -> str:
    """``"5.23"`` of ``"5.23.0"``."""
    return ".".join(transformers.split(".")[:2])


_said: set[object] = set()


def warn_unverified(family: str, kinds: Iterable[str], attention: str, model: str) -> None:
    """Warn once per process and combination that has no pass with the installed transformers, or once of a version
    that nothing was verified with.

    kinds: of the sites of a recipe; family: the adapter's name; model: the model's class, for the message.
    """
    installed = version("transformers")
    passes, damaged = index(minor(installed))
    if passes is None:
        if "version" not in _said:
            _said.add("version")
            _warn(_no_ledger(installed, damaged))
        return
    for kind in dict.fromkeys(kinds):
        combination = Combination(family, kind, attention)
        if combination not in passes and combination not in _said:
            _said.add(combination)
            _warn(_no_pass(combination, installed, model, passes, damaged))


def _warn(message: str) -> None:
    warnings.warn(message, UnverifiedWarning, stacklevel=5)


def _no_ledger(installed: str, damaged: tuple[str, ...]) -> str:
    if damaged:
        return f"what was verified with transformers {installed} cannot be told: {'; '.join(damaged)}"
    known = {minor(name) for folder in folders() for name in folder.files()}
    near = sorted(known, key=lambda name: (_apart(name, installed), version_key(name)))[:2]
    others = f"the nearest versions with results are {' and '.join(near)}" if near else "no version has results"
    return (
        f"nothing was verified with transformers {installed}: {others}. Run `vtprune verify` to see what is right with "
        f"this version"
    )


def _apart(name: str, installed: str) -> int:
    one, other = version_key(name)[:2], version_key(installed)[:2]
    return abs(1000 * (one[0] - other[0]) + one[1] - other[1])


def _no_pass(
    combination: Combination, installed: str, model: str, passes: frozenset[Combination], damaged: tuple[str, ...]
) -> str:
    family, kind, attention = combination
    sites = " and ".join(subject.name for subject in SUBJECTS.values() if subject.kind == kind) or kind
    seen = f"pruning {model} (family {family}) at sites like {sites} under {attention} attention was not verified with"
    hint = ""
    if any(each.family == family for each in passes):
        others = sorted({each.attention for each in passes if each.family == family and each.kind == kind})
        hint = f" (it was under {', '.join(others)})" if others else ""
        ask = f"`vtprune verify --family {family} --attention {attention}`"
    elif family.startswith(RECOGNISED):
        ask = "`vtprune verify --model module:function` with a function that makes a tiny model of it"
    elif "/" in family:
        ask = (
            f"`vtprune verify --family {family}` (or, if its adapter names no tiny model, --model module:function with "
            f"a function that makes one)"
        )
    else:
        ask = f"`vtprune verify --family {family}`"
    unread = f". Not read: {'; '.join(damaged)}" if damaged else ""
    return f"{seen} transformers {installed}{hint}. It may be right; {ask} shows whether it is{unread}"
