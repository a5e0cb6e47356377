"""Components that are broken on purpose, for the checks of every kind."""

from __future__ import annotations

import os
import threading
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, field_validator
from torch import Tensor

from vtprune.core.component import Component, Scorer
from vtprune.core.signals import Need, Signals


class Sound(Scorer):
    """Length of each token's features, to a power.

    power: of the length.
    """

    power: Annotated[float, Field(gt=0, le=4)] = 2.0

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("features")})

    def score(self, signals: Signals) -> Tensor:
        return signals.features().float().norm(dim=-1) ** self.power


class OfAnotherKind(Sound):
    """A scorer that calls itself a task.

    power: of the length.
    """

    kind: ClassVar[str] = "reducer"


class RevisedInWords(Sound):
    """A revision that is a text.

    power: of the length.
    """

    revision: ClassVar[int] = "1.0"  # type: ignore[assignment]


class Undocumented(Sound):
    pass


class Unexplained(Scorer):
    """Nothing is said of its parameter."""

    power: float = 2.0

    def score(self, signals: Signals) -> Tensor:
        return signals.alive.float() ** self.power


class Thawed(Sound):
    """Can be changed.

    power: of the length.
    """

    model_config = ConfigDict(frozen=False)

    def __hash__(self) -> int:
        return hash(self.power)


class Tolerant(Sound):
    """Takes any parameter.

    power: of the length.
    """

    model_config = ConfigDict(extra="ignore")


class WrongDefault(Sound):
    """A default beyond the bound.

    power: of the length.
    """

    power: Annotated[float, Field(gt=0, le=4)] = 9.0


class ListByDefault(Sound):
    """A default of another type than declared.

    power: of the length.
    """

    power: Annotated[float, Field(gt=0, le=4)] = 2  # an int, which is written as 2 and read as 2.0


class Listed(Sound):
    """A list, so that it has no hash.

    power: of the length. heads: all of them.
    """

    heads: list[int] = [1, 2]

    def score(self, signals: Signals) -> Tensor:
        return super().score(signals) * sum(self.heads)


class Alike(Sound):
    """Equal to every other one.

    power: of the length.
    """

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Alike)

    def __hash__(self) -> int:
        return 1


class Uncopied(Sound):
    """Holds what is made anew by every copy.

    power: of the length.
    """

    def __deepcopy__(self, memo: Any = None) -> Uncopied:
        return Uncopied(power=self.power / 2)


class Holder(Scorer):
    """A field of the base class, which is written without the parameters of what it holds.

    inside: the scorer inside.
    """

    inside: Scorer

    @classmethod
    def examples(cls) -> tuple[Holder, ...]:
        return (cls(inside=Sound(power=3.0)),)

    def needs(self) -> frozenset[Need]:
        return self.inside.needs()

    def score(self, signals: Signals) -> Tensor:
        return self.inside.score(signals)


class Misread(Sound):
    """Rows of attention that do not exist.

    power: of the length.
    """

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("features"), Need("attention", "lats")})


class NamedNeeds(Sound):
    """Needs as names.

    power: of the length.
    """

    def needs(self) -> frozenset[Need]:
        return frozenset({"features"})  # type: ignore[arg-type]


class RandomExamples(Sound):
    """Other examples each time.

    power: of the length.
    """

    _made: ClassVar[list[float]] = []

    @classmethod
    def examples(cls) -> tuple[RandomExamples, ...]:
        cls._made.append(1.0)
        return (cls(power=1 + len(cls._made) % 3),)


class Clamped(Sound):
    """Takes what is beyond the bound for the bound.

    power: of the length.
    """

    power: Annotated[float, BeforeValidator(lambda value: min(value, 4.0)), Field(gt=0, le=4)] = 2.0


class Stricter(Sound):
    """Refuses the bound that it declares.

    power: of the length.
    """

    @field_validator("power")
    @classmethod
    def _strict(cls, value: float) -> float:
        if value > 3:
            raise ValueError("power must be at most 3")
        return value


class BreaksAtItsBound(Sound):
    """Accepts its bound, and cannot work there.

    power: of the length.
    """

    def score(self, signals: Signals) -> Tensor:
        if self.power == 4:
            raise ZeroDivisionError("4 - power is 0")
        return super().score(signals)


class Dead(Sound):
    """A parameter that nothing reads.

    power: of the length. sharpness: of what, nobody knows.
    """

    sharpness: float = 1.0


class Opaque(Sound):
    """A parameter of which no other value can be made up.

    power: of the length. path: a file.
    """

    path: str = "a"


class Growing(Sound):
    """Needs more each time it is asked.

    power: of the length.
    """

    _asked: list[int] = PrivateAttr(default_factory=list)

    def needs(self) -> frozenset[Need]:
        self._asked.append(1)
        return frozenset({Need("features"), Need("attention", "last", len(self._asked))})


class Remembering(Sound):
    """Adds up what it has seen.

    power: of the length.
    """

    seen: ClassVar[list[float]] = []

    def score(self, signals: Signals) -> Tensor:
        scores = super().score(signals)
        self.seen.append(float(scores.mean()))
        return scores - sum(self.seen)


class Imprecise(Sound):
    """Rounds the products of matrices, from now on and for everybody.

    power: of the length.
    """

    def score(self, signals: Signals) -> Tensor:
        torch.set_float32_matmul_precision("medium")
        return super().score(signals)


class Environmental(Sound):
    """Hands a number on in an environment variable.

    power: of the length.
    """

    def score(self, signals: Signals) -> Tensor:
        os.environ["KEEP_RATIO"] = str(self.power)
        return super().score(signals)


class Switching(Sound):
    """Switches the default dtype.

    power: of the length.
    """

    def score(self, signals: Signals) -> Tensor:
        torch.set_default_dtype(torch.float64)
        return super().score(signals)


class Locked(Sound):
    """Holds a lock, which cannot be copied.

    power: of the length.
    """

    _lock: Any = PrivateAttr(default_factory=threading.Lock)


BROKEN: dict[str, list[type[Component]]] = {
    "kind_is_that_of_its_base": [OfAnotherKind],
    "revision_is_a_positive_integer": [RevisedInWords],
    "class_is_documented": [Undocumented],
    "parameters_are_documented": [Unexplained],
    "component_is_frozen": [Thawed],
    "unknown_parameters_are_refused": [Tolerant],
    "defaults_are_valid": [WrongDefault, ListByDefault],
    "equal_parameters_make_equal_components": [Listed, Alike],
    "copies_are_equal": [Uncopied],
    "round_trip_keeps_parameters": [Holder],
    "needs_exist": [Misread, NamedNeeds],
    "examples_are_repeatable": [RandomExamples],
    "bounds_hold": [Clamped, Stricter, BreaksAtItsBound],
    "every_parameter_matters": [Dead, Opaque],
    "declarations_do_not_change": [Growing],
    "no_state_is_kept": [Remembering],
    "global_settings_are_left_alone": [Switching, Imprecise, Environmental],
}
"""By check the components that fail it; `name_leads_to_the_class` needs a registration."""
