"""Base classes of the plugins: scorer, allocator, selector, reducer.

Components are frozen pydantic models whose fields are their parameters. They are pure: they receive tensors and return
new ones; only the engine edits a model's tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from vtprune.core.errors import ComponentError
from vtprune.core.signals import Need, Signals

if TYPE_CHECKING:
    from vtprune.core.budget import Budget


class Component(BaseModel, ABC):
    """What all plugins share: parameters as fields, a kind, a revision and declared needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    revision: ClassVar[int] = 1
    """Raise it when the component's numbers change; results record it."""
    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Conformance checks that are known to fail, each with the reason; one of them that passes is a fault."""

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Instances that stand for the class: the conformance suite runs them, and takes other values of each parameter
        from them. Here: the one with default parameters.

        Raises ComponentError where a parameter has no default: such a class has to say what to run.
        """
        if required := [name for name, field in cls.model_fields.items() if field.is_required()]:
            raise ComponentError(
                f"{cls.__name__} cannot be made without {', '.join(required)}; define the classmethod examples(): "
                f"it returns a tuple of instances"
            )
        return (cls(),)

    def needs(self) -> frozenset[Need]:
        """The signals this component reads, given its parameters."""
        return frozenset()

    def __eq__(self, other: object) -> bool:
        """Whether the parameters are equal. What a ``cached_property`` holds, perhaps tensors, takes no part."""
        if not isinstance(other, Component):
            return NotImplemented
        return (
            type(self) is type(other)
            and all(getattr(self, name) == getattr(other, name) for name in type(self).model_fields)
            and self.__pydantic_private__ == other.__pydantic_private__
        )


class Scorer(Component):
    """Signals to scores; a higher score means keep."""

    kind: ClassVar[str] = "scorer"

    @property
    def granularity(self) -> Literal["token", "head"]:
        """``token``: scores are ``[batch, vision]``; ``head``: ``[batch, kv_head, vision]``."""
        return "token"

    @property
    def permutation_equivariant(self) -> bool:
        """Whether scores move with their tokens: permuting a sample's vision tokens permutes its scores. False for a
        scorer that looks at places or at the order of the tokens."""
        return True

    @abstractmethod
    def score(self, signals: Signals) -> Tensor:
        """float ``[batch, vision]``, or ``[batch, kv_head, vision]`` when the granularity is ``head``.

        NaN is an error; infinities are allowed and mean always or never.
        """


@dataclass(frozen=True)
class AllocationRequest:
    """What an allocator is asked for: counts for one bucket at one layer.

    target: tokens to keep per sample, averaged over the governed layers: the stage's budget, resolved exactly for a
        sample of this bucket. None when the stage has no budget.
    sizes: surviving vision tokens in each segment (one entry in all when the stage's scope is ``joint``).
    original: the same segments as they came in with the prompt.
    layer: the decoder layer at hand (0 for the input sites; the vision layer inside the tower, where the next three
        count vision layers); layers: every layer of the stage, ascending.
    spans: for each of ``layers`` how many decoder layers its count governs: up to the next layer of the stage at sites
        that drop tokens, 1 at ``.kv`` sites. ``target`` is the mean over all governed layers.
    depth: number of decoder layers of the model.
    kv_heads: number of KV heads at a ``.kv`` site, else None.
    """

    target: Fraction | None
    sizes: tuple[int, ...]
    original: tuple[int, ...]
    layer: int
    layers: tuple[int, ...]
    spans: tuple[int, ...]
    depth: int
    kv_heads: int | None = None
    budget: Budget | None = None


@dataclass(frozen=True)
class Allocation:
    """counts: int64 on the CPU, ``[batch, segment]`` or ``[batch, kv_head, segment]``; tokens to keep.
    diagnostics: named float tensors ``[batch]`` worth reporting (PLPHP's vision attention score, ...)."""

    counts: Tensor
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)


class Allocator(Component):
    """(budget, layout, signals) to integers."""

    kind: ClassVar[str] = "allocator"

    def budget_problem(self, budget: Budget | None) -> str | None:
        """Why this allocator cannot work with the stage's budget, or None. Called when a recipe is validated."""
        return None if budget is not None else "needs a budget, e.g. `budget: 0.25`"

    @property
    def count_is_static(self) -> bool:
        """True if the counts follow from shapes alone, before the model has run."""
        return True

    @abstractmethod
    def allocate(self, request: AllocationRequest, signals: Signals) -> Allocation:
        """The number of tokens each sample, segment (and KV head) keeps."""


@dataclass(frozen=True)
class Candidates:
    """What a selector chooses from. A *row* is one independent choice: a sample, or one of its segments, or one KV
    head of either; rows never influence each other.

    counts: int64 ``[row]`` on the CPU, 0 <= count <= vision, protected tokens included.
    scores: float32 ``[row, vision]`` without NaN, or None if the stage has no scorer.
    features: float ``[row, vision, dim]`` if the selector asked for them (`Selector.feature_source`), else None.
    protected: bool ``[row, vision]``; these tokens must be kept, and at most ``count`` of them are given.
    """

    counts: Tensor
    vision: int
    scores: Tensor | None
    features: Tensor | None
    protected: Tensor


class Selector(Component):
    """(scores, features, counts, protected) to the kept set.

    The kept set is returned as a boolean mask over the vision axis; the engine turns it into indices, so sorted,
    unique and in range hold by construction and only the count is left to get right.
    """

    kind: ClassVar[str] = "selector"

    @property
    def uses_scores(self) -> bool:
        """Whether a scorer is required (True), or ignored and therefore refused (False)."""
        return True

    @property
    def feature_source(self) -> Literal["features", "keys", "values"] | None:
        """Which signal `Candidates.features` holds, or None if not needed."""
        return None

    @property
    def count_is_exact(self) -> bool:
        """True if exactly `Candidates.counts` tokens are kept; False if the selector may keep fewer."""
        return True

    @property
    def needs_count(self) -> bool:
        """False if a stage may do without a budget (a threshold); counts are then the number of tokens."""
        return True

    @property
    def rank_only(self) -> bool:
        """True if nothing but the order of the scores matters: a strictly increasing map of them changes no choice."""
        return False

    @abstractmethod
    def select(self, candidates: Candidates) -> Tensor:
        """bool ``[row, vision]``: True for the tokens to keep."""


@dataclass(frozen=True)
class Merged:
    """features: float ``[batch, vision, dim]``, new values at the kept tokens (others are ignored).
    sizes: float32 ``[batch, vision]``, how many original tokens each kept token now stands for."""

    features: Tensor
    sizes: Tensor


class Reducer(Component):
    """What becomes of the tokens that are not kept."""

    kind: ClassVar[str] = "reducer"
    sites: ClassVar[frozenset[Literal["hidden", "kv"]]]
    """Which sites it can serve: ``hidden`` (vision.layers[i], vision.output, projector.output, llm.layers[i]) or
    ``kv``."""

    @property
    def merges(self) -> bool:
        """Whether kept tokens may get new features: True for a class that defines ``merge``."""
        return type(self).merge is not Reducer.merge

    def merge(self, features: Tensor, keep: Tensor, sizes: Tensor) -> Merged | None:
        """New features for the kept tokens, or None to leave them as they are (the default: the rest just goes).

        features: float ``[batch, vision, dim]``; keep: bool ``[batch, vision]``; sizes: float32 ``[batch, vision]``.
        """
        return None


COMPONENT_KINDS: Mapping[str, type[Component]] = {c.kind: c for c in (Scorer, Allocator, Selector, Reducer)}
