"""What is verified: a stage at each kind of site, and the named methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vtprune.core.errors import VtpruneError, did_you_mean

if TYPE_CHECKING:
    from vtprune.core.engine.layers import LayerKind

HALF_BY_CHANCE = {"scorer": "random", "selector": {"name": "threshold", "value": 1.0, "relative": "mean"}}
"""About half of the tokens, another number in each sample: random scores above their mean."""
BY_ATTENTION = {"scorer": "attention", "budget": 0.5}
PER_HEAD = {"name": "attention", "head_reduction": "none"}


class UnknownVerificationError(VtpruneError):
    """A site, mode, family, attention implementation or ledger that verification does not know."""

    code = 2


@dataclass(frozen=True)
class Subject:
    """A site or a named method.

    kind: the site's kind (``tower``, ``vision``, ``projector``, ``llm``, ``kv``, ...), or ``method``.
    drop: the fields of the stage that removes about half; None for a method.
    keep: those of the stage that keeps everything.
    per_head: whether each KV head keeps a share of its own.
    full: whether it is verified in every mode.
    """

    name: str
    kind: str
    drop: dict[str, Any] | None = None
    keep: dict[str, Any] | None = None
    per_head: bool = False
    full: bool = False

    def recipe(self, model: Any) -> str | dict[str, Any]:
        """What `vtprune.prune` is given: the method's name, or the stage that removes about half, unevenly."""
        if self.drop is None:
            return self.name
        stage = {"site": self.name, **(self.drop if self._readable(model) else HALF_BY_CHANCE)}
        if self.per_head:
            one, two = kv_heads(model, 1), kv_heads(model, 2)
            heads = one if one == two else 1  # a table holds shares for one number of heads: then one for each layer
            shares = {1: uneven(heads, rising=True), 2: uneven(heads, rising=False)}
            stage["allocator"] = {"name": "schedule", "shape": "table", "table": shares}
        return {"stages": [stage]}

    def stages_that_keep_all(self, model: Any) -> list[dict[str, Any]]:
        """The same site, with a budget of everything."""
        assert self.keep is not None
        fields = self.keep if self._readable(model) else {"scorer": "random"}
        return [{"site": self.name, **fields, "budget": 1.0}]

    def _readable(self, model: Any) -> bool:
        """Whether there is attention to read before the site: a first decoder layer may be none, and where tokens are
        dropped then, they are drawn."""
        return self.kind != "llm" or _kinds(model)[0].attention is not None


def uneven(heads: int, rising: bool) -> list[float] | float:
    """Shares of about a half, from 0.3 to 0.7 over the KV heads of a layer or the other way round."""
    if heads == 1:
        return 0.4 if rising else 0.6
    shares = [round(0.3 + 0.4 * head / (heads - 1), 3) for head in range(heads)]
    return shares if rising else shares[::-1]


def kv_heads(model: Any, layer: int) -> int:
    """KV heads of a decoder layer; 1 if it has no attention, which is for binding to refuse."""
    return max(1, _kinds(model)[layer].kv_heads)


def _kinds(model: Any) -> tuple[LayerKind, ...]:
    from vtprune.core.engine.layers import layer_kinds
    from vtprune.core.lookup import locate

    return layer_kinds(locate(model))


_BY_CHANCE: dict[str, Any] = {"drop": HALF_BY_CHANCE, "keep": {"scorer": "random"}}
SITES: tuple[Subject, ...] = (
    Subject("vision.layers[1]", "tower", **_BY_CHANCE),
    Subject("vision.output", "vision", **_BY_CHANCE),
    Subject("projector.output", "projector", **_BY_CHANCE),
    Subject("llm.layers[1]", "llm", BY_ATTENTION, {"scorer": "attention"}, full=True),
    Subject("llm.layers[0].kv", "kv", BY_ATTENTION, {"scorer": "attention"}),
    Subject("llm.layers[1].kv", "kv", BY_ATTENTION, {"scorer": "attention"}),
    Subject("llm.layers[1:3].kv", "kv", {"scorer": PER_HEAD}, {"scorer": PER_HEAD}, per_head=True, full=True),
)
METHODS: tuple[Subject, ...] = tuple(Subject(name, "method") for name in ("plphp", "greedyprune", "fastv", "divprune"))
SUBJECTS: dict[str, Subject] = {subject.name: subject for subject in (*SITES, *METHODS)}


def subject(name: str) -> Subject:
    """The site or method of that name; raises UnknownVerificationError with the nearest name."""
    if name not in SUBJECTS:
        raise UnknownVerificationError(f"{name!r} is not among what is verified.{did_you_mean(name, SUBJECTS)}")
    return SUBJECTS[name]
