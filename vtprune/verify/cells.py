"""Which cells there are: families crossed with sites and methods, modes, and attention implementations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from vtprune.verify.modes import ATTENTIONS, MODES, mode
from vtprune.verify.subjects import SUBJECTS, subject

if TYPE_CHECKING:
    from vtprune.testing.models.tiny import Tiny
    from vtprune.verify.outcome import Outcome


class Cell(NamedTuple):
    """One thing that is checked.

    variant: a tiny model, by its name in `vtprune.testing.models.families.VARIANTS`, by the registered name of another
        package's adapter, or as ``module:function``.
    """

    variant: str
    attention: str
    mode: str
    subject: str


def crossed(subjects: Sequence[str] = (), modes: Sequence[str] = (), attention: str = "sdpa") -> list[tuple[str, str]]:
    """(mode, subject) pairs that are verified with an attention implementation.

    Every site in the modes that concern every site, methods in a padded batch, and every mode at one site that drops
    and one that evicts; with eager attention only the modes of different prompts, as the way of generating does not
    meet the kernel. Restricted to what is named, if anything is; costly modes only where named.
    Raises UnknownVerificationError for an unknown name.
    """
    wanted = [subject(name) for name in subjects] or list(SUBJECTS.values())
    named = [mode(name) for name in modes] or [each for each in MODES.values() if not each.costly]
    return [
        (each.name, one.name)
        for each in named
        if attention in each.attentions
        for one in wanted
        if one.full or (each.every_site and (one.kind != "method" or each.name == "padded"))
    ]


def maker(variant: str) -> Callable[[str], Tiny]:
    """What makes the tiny model of a variant for an attention implementation."""
    from vtprune.testing.models.families import VARIANTS
    from vtprune.verify.external import load, load_packaged, packaged

    if variant in VARIANTS:
        return VARIANTS[variant].make  # type: ignore[return-value]
    return load_packaged(variant) if variant in packaged() else load(variant)


def verify(cell: Cell) -> Outcome:
    """Check one cell."""
    import torch

    from vtprune.verify.check import check
    from vtprune.verify.outcome import Outcome, sentence

    torch.set_num_threads(1)
    try:
        tiny: Any = maker(cell.variant)(cell.attention)
    except Exception as error:
        return Outcome("fail", f"the tiny model cannot be made: {sentence(error, named=True)}")
    return check(tiny, cell.mode, SUBJECTS[cell.subject])


@dataclass(frozen=True)
class Group:
    """The cells of one tiny model with one attention implementation, which share a process."""

    variant: str
    attention: str
    pairs: tuple[tuple[str, str], ...]

    def cells(self) -> list[Cell]:
        """Its cells, mode by mode."""
        return [Cell(self.variant, self.attention, *pair) for pair in self.pairs]


__all__ = ["ATTENTIONS", "Cell", "Group", "crossed", "maker", "verify"]
