"""Many cells, in several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version

from vtprune.loading import quiet
from vtprune.verify.cells import ATTENTIONS, Cell, Group, crossed, verify
from vtprune.verify.ledger import Block, Ledger
from vtprune.verify.outcome import Outcome
from vtprune.verify.subjects import UnknownVerificationError

Result = tuple[Cell, Outcome]


def plan(
    variants: Sequence[str], subjects: Sequence[str] = (), modes: Sequence[str] = (), attentions: Sequence[str] = ()
) -> list[Group]:
    """What to run; raises UnknownVerificationError for an unknown site, mode or attention implementation, and if
    nothing of what was named is crossed."""
    for attention in attentions:
        if attention not in ATTENTIONS:
            raise UnknownVerificationError(f"{attention!r} cannot be verified here; expected {' or '.join(ATTENTIONS)}")
    wanted = attentions or ATTENTIONS
    pairs = {attention: tuple(crossed(subjects, modes, attention)) for attention in wanted}
    if not any(pairs.values()):
        raise UnknownVerificationError(
            "nothing of what was asked for is crossed: every mode is tried at one site that drops and one that evicts, "
            "other sites and the methods in some; with eager attention only other prompts. See vtprune verify --list"
        )
    return [Group(variant, one, pairs[one]) for variant in variants for one in wanted if pairs[one]]


def families(named: Sequence[str]) -> list[str]:
    """The variants of the families (or the variants) named, of those whose model class the installed transformers has;
    all of vtprune's own if nothing is named. Another package's family is named as its adapter is registered.

    Raises UnknownVerificationError with the nearest names for an unknown one, or one that transformers lacks or that
    has no tiny model.
    """
    from vtprune.core.errors import did_you_mean
    from vtprune.testing.models.families import VARIANTS
    from vtprune.verify.external import load_packaged, packaged

    found: list[str] = []
    for name in named:
        if name in packaged():
            load_packaged(name)
            found.append(name)
            continue
        own = [key for key, each in VARIANTS.items() if name in (key, each.family)]
        if not own:
            known = {*VARIANTS, *(each.family for each in VARIANTS.values()), *packaged()}
            raise UnknownVerificationError(f"no family {name!r} has a tiny model.{did_you_mean(name, known)}")
        here = [key for key in own if VARIANTS[key].available]
        if not here:
            lacking = VARIANTS[own[0]].architecture
            raise UnknownVerificationError(f"transformers {version('transformers')} has no {lacking}")
        found += here
    return list(dict.fromkeys(found)) if named else [key for key, each in VARIANTS.items() if each.available]


def run(groups: Iterable[Group], workers: int = 1) -> Iterator[Result]:
    """Check every cell of the groups; yields each with its outcome as it comes."""
    groups = list(groups)
    yield from _here(groups) if workers == 1 else _in_processes(groups, workers)


def note(ledger: Ledger, cell: Cell, outcome: Outcome) -> None:
    """Enter an outcome of this process's versions into the ledger of a run."""
    key = (cell.variant, cell.attention)
    if key not in ledger.blocks:
        ledger.blocks[key] = Block(family_of(cell.variant), version("torch"), version("vtprune"))
    ledger.blocks[key].cells.setdefault(cell.subject, {})[cell.mode] = outcome


def family_of(variant: str) -> str:
    """The adapter that serves a variant."""
    from vtprune.testing.models.families import VARIANTS

    if variant in VARIANTS:
        return VARIANTS[variant].family
    from vtprune.core.lookup import adapter_of
    from vtprune.verify.cells import maker

    model = maker(variant)(ATTENTIONS[0]).model
    return adapter_of(model).name


def run_group(group: Group) -> list[Result]:
    """Every cell of one group, quietly: what transformers and torch say of their own deprecations is not about it."""
    with quiet():
        return [(cell, verify(cell)) for cell in group.cells()]


def _here(groups: Iterable[Group]) -> Iterator[Result]:
    for group in groups:
        for pair in group.pairs:
            yield from run_group(Group(group.variant, group.attention, (pair,)))


def _in_processes(groups: Sequence[Group], workers: int) -> Iterator[Result]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=8) as pool:
        for done in as_completed([pool.submit(run_group, group) for group in groups]):
            yield from done.result()
