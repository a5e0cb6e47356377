"""An adapter at work on a tiny model, with what its checks share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

import vtprune
from vtprune.core.adapter import Adapter, Parts, VisionCall, VisionInput
from vtprune.core.component import Scorer
from vtprune.core.engine.layers import LayerKind, layer_kinds
from vtprune.core.lookup import locate, serving
from vtprune.core.report import Report
from vtprune.core.signals import Need, Signals
from vtprune.testing.adapter_suite.encoding import Asked, asked, encode
from vtprune.testing.adapter_suite.subject import FIRST_SEED, AdapterSubject
from vtprune.testing.models.tiny import forget_dialogue
from vtprune.verify import plays, prompts
from vtprune.verify.compare import Seen

T = TypeVar("T")
BATCH = (1, 2, 0, 1)
LONG = 256
"""Text tokens of a prompt without an image: enough for most ids of a small vocabulary."""
STEPS = 4
"""The prompt and three decoding steps."""
Inputs = dict[str, Tensor]


class Encoded(NamedTuple):
    """A call of the unhooked model, and what the adapter makes of it."""

    asked: Asked
    call: VisionCall
    images: list[VisionInput]


class Spy(Scorer):
    """Keeps what comes later in the prompt, and notes the signals that it was given, sample by sample."""

    wanted: tuple[Need, ...] = ()
    seen: ClassVar[list[tuple[Any, Tensor, dict[Need, Tensor]]]] = []

    def needs(self) -> frozenset[Need]:
        return frozenset(self.wanted)

    def score(self, signals: Signals) -> Tensor:
        for sample, layout in enumerate(signals.layouts):
            values = {need: signals.get(need)[sample].clone() for need in self.wanted}
            self.seen.append((layout, signals.alive[sample], values))
        return signals.alive.float()


class Scattered(Scorer):
    """Scores that go up and down along the prompt, the same for every sample; needs nothing of a model."""

    def score(self, signals: Signals) -> Tensor:
        """float32 ``[batch, vision]``."""
        return ((signals.alive * 37 + 11) % 101).float()


class Trial:
    """An adapter and what it is tried on; the subject of the checks of kind ``adapter``.

    Everything in it is made once. Inputs are named: ``one`` (a sample with an image), ``two`` (one with two images, of
    different sizes if the family has them), ``batch`` (1, 2, 0 and 1 images, padded on the left), ``last`` (a prompt
    that ends in an image), ``text`` (no image) and ``video``.
    """

    kind: ClassVar[str] = "adapter"
    expected_failures: ClassVar[Mapping[str, str]] = {}

    def __init__(self, adapter: Adapter, subject: AdapterSubject | None) -> None:
        self.adapter, self._subject = adapter, subject
        self._kept: dict[Any, Any] = {}

    def __str__(self) -> str:
        on = "" if self._subject is None else f" on {getattr(self._subject, 'name', None) or type(self.model).__name__}"
        return f"adapter {self.adapter.name!r}{on}"

    @property
    def has_model(self) -> bool:
        """Whether there is a model to try it on: not for a family that it refuses altogether."""
        return self._subject is not None

    @property
    def model(self) -> Any:
        """The tiny model."""
        assert self._subject is not None
        return self._subject.model

    @property
    def make_inputs(self) -> Callable[..., Inputs]:
        """The maker of its inputs."""
        assert self._subject is not None
        return self._subject.make_inputs

    @contextmanager
    def active(self) -> Iterator[None]:
        """The adapter serves the model, without warnings that nothing is verified yet; no dialogue is left over."""
        if self._subject is None:
            yield
            return
        forget_dialogue(self.model)
        with serving(self.model, self.adapter), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield
            finally:
                forget_dialogue(self.model)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What ``make`` gives, made at the first call."""
        if key not in self._kept:
            self._kept[key] = make()
        found: T = self._kept[key]
        return found

    @cached_property
    def parts(self) -> Parts:
        """The modules."""
        return locate(self.model)

    @cached_property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The decoder layers."""
        return layer_kinds(self.parts)

    # -- prompts and what the unhooked model makes of them -----------------------------------------------------------

    def inputs(self, name: str) -> Inputs:
        """Inputs by their name."""
        return self.once(("inputs", name), lambda: _PROMPTS[name](self))

    def vision(self, inputs: Inputs) -> Tensor:
        """bool ``[batch, token]``: placeholders, by the ids in the model's config."""
        return torch.isin(inputs["input_ids"], torch.tensor(sorted(self.parts.placeholder_ids.values())))

    def asked(self, name: str) -> list[Asked]:
        """The encoding calls of a prompt."""
        return self.once(("asked", name), lambda: asked(self.model, self.inputs(name)))

    def encoded(self, name: str) -> list[Encoded]:
        """The encoding calls, their features, and the rectangles that the adapter finds in them."""

        def make() -> list[Encoded]:
            with torch.no_grad():
                calls = [(each, encode(self.model, each)) for each in self.asked(name)]
            return [Encoded(each, call, self.adapter.images(self.model, call)) for each, call in calls]

        return self.once(("encoded", name), make)

    def plain(self, name: str) -> dict[int, Seen]:
        """What the unhooked model gives: a call (0) and greedy generation (1)."""

        def make() -> dict[int, Seen]:
            inputs = self.inputs(name)
            return {0: plays.forward(self.model, inputs), 1: plays.generate(self.model, inputs, STEPS)}

        return self.once(("plain", name), make)

    # -- sites ---------------------------------------------------------------------------------------------------------

    @property
    def layer(self) -> int:
        """The decoder layer at which tokens are dropped: the first one behind layer 0 with a cache of its own."""
        return next((kind.index for kind in self.kinds[1:] if kind.has_cache), 1)

    @property
    def cached_layer(self) -> int:
        """The first decoder layer with keys and values of its own."""
        return next(kind.index for kind in self.kinds if kind.has_cache)

    def site(self, kind: str) -> str:
        """A site of that kind."""
        return {
            "tower": lambda: f"vision.layers[{max(0, self.tower_depth - 1)}]",
            "vision": lambda: "vision.output",
            "projector": lambda: "projector.output",
            "llm": lambda: f"llm.layers[{self.layer}]",
            "kv": lambda: f"llm.layers[{self.cached_layer}].kv",
        }[kind]()

    @property
    def tower_depth(self) -> int:
        """How many vision layers lead to the features: as declared, else all of them."""
        depth = self.adapter.tower_depth
        return len(self.parts.vision_layers) if depth is None else depth(self.model)

    def prune(self, kind: str, **stage: Any) -> vtprune.Run:
        """A stage at a site of that kind; about half of the tokens leave unless the options say otherwise."""
        own = {"site": self.site(kind), "scorer": Scattered(), "budget": 0.5, **stage}
        return vtprune.prune(self.model, {"stages": [own]})

    def shared(self, stage: Mapping[str, Any], share: bool) -> vtprune.Run:
        """A stage with ``share_images`` or without."""
        return vtprune.prune(self.model, {"stages": [dict(stage)]}, share_images=share)

    def spied(self, name: str, kind: str, *wanted: Need) -> tuple[list[tuple[Tensor, dict[Need, Tensor]]], Report]:
        """What components see at a site of that kind: for each sample with an image the survivors and the signals."""
        Spy.seen.clear()
        with torch.no_grad(), self.prune(kind, scorer=Spy(wanted=wanted), budget=1.0) as run:
            if any(need.kind == "annotation" for need in wanted):
                run.annotate(lambda sample, layout: torch.linspace(0, 1, layout.vision))
            self.model(**self.inputs(name))
        by_layout = {id(layout): (alive, values) for layout, alive, values in Spy.seen}
        Spy.seen.clear()
        return [by_layout[id(layout)] for layout in run.report.layouts if layout.vision], run.report


def _two(trial: Trial) -> Inputs:
    """Two images, of different sizes if some seed draws them."""
    seeds = range(FIRST_SEED, FIRST_SEED + 6)
    made = [trial.make_inputs((2,), seed=seed, text=prompts.SHORT) for seed in seeds]
    for inputs in made:
        calls = [encode(trial.model, each) for each in asked(trial.model, inputs)]
        images = [image for call in calls for image in trial.adapter.images(trial.model, call)]
        if len({image.tokens for image in images if not image.row_ends}) > 1 or len({i.grid for i in images}) > 2:
            return inputs
    return made[0]


def _last(trial: Trial) -> Inputs:
    """The prompt with one image, cut behind its last vision token."""
    inputs = trial.inputs("one")
    shape = inputs["input_ids"].shape
    stop = int(trial.vision(inputs)[0].nonzero().max()) + 1
    return {name: tensor[:, :stop] if tensor.shape == shape else tensor for name, tensor in inputs.items()}


def _one(trial: Trial) -> Inputs:
    return trial.make_inputs((1,), seed=FIRST_SEED, text=prompts.SHORT)


def _batch(trial: Trial) -> Inputs:
    return trial.make_inputs(BATCH, seed=FIRST_SEED, text=prompts.SHORT)


def _text(trial: Trial) -> Inputs:
    return trial.make_inputs((0,), seed=FIRST_SEED, text=(LONG, LONG))


def _video(trial: Trial) -> Inputs:
    return prompts.video(trial)  # type: ignore[arg-type]


_PROMPTS: dict[str, Callable[[Trial], Inputs]] = {
    "one": _one,
    "two": _two,
    "batch": _batch,
    "last": _last,
    "text": _text,
    "video": _video,
}
