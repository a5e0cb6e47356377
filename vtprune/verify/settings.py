"""What a mode sets up: which model, and how it is called."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from vtprune.testing.models.tiny import Inputs, Tiny
from vtprune.verify import plays
from vtprune.verify.compare import TOLERANCE, Seen, distance
from vtprune.verify.plays import Play, attributes
from vtprune.verify.prompts import NotApplicable


@dataclass(frozen=True)
class Setting:
    """A mode at work on one model.

    pairs: the ways of calling it that the mode is about, each with how the same is asked of the masked reference,
        which differs where the mode is but another way to the same answer.
    tolerance: largest difference of a logit.
    """

    model: Any
    inputs: Inputs
    pairs: tuple[tuple[Play, Play], ...]
    tolerance: float = TOLERANCE


Setup = Callable[[Tiny, Inputs], AbstractContextManager[Setting]]


def fresh(model: Any, dtype: torch.dtype | None = None) -> Any:
    """The same weights in a model of its own, without the hooks that others have put on the first one."""
    with torch.random.fork_rng(devices=[]):
        made = type(model)(copy.deepcopy(model.config)).eval()
    made.load_state_dict(model.state_dict())
    made.set_attn_implementation(model.get_decoder().config._attn_implementation)
    made.generation_config = copy.deepcopy(model.generation_config)
    return made.requires_grad_(False).to(dtype or next(model.parameters()).dtype)


BOTH = ((plays.forward, plays.forward), (plays.generate, plays.generate))


def calling(play: Play, expected: Play | None = None) -> Setup:
    """The shared model, called in this way."""

    @contextmanager
    def setup(tiny: Tiny, inputs: Inputs) -> Iterator[Setting]:
        yield Setting(tiny.model, inputs, ((play, expected or play),))

    return setup


@contextmanager
def ordinary(tiny: Tiny, inputs: Inputs) -> Iterator[Setting]:
    """The shared model: a call, and greedy generation."""
    yield Setting(tiny.model, inputs, BOTH)


@contextmanager
def assisted(tiny: Tiny, inputs: Inputs) -> Iterator[Setting]:
    """Drafts of an assistant, which is an unpruned copy of the model."""
    play = partial(plays.generate, assistant_model=fresh(tiny.model))
    yield Setting(tiny.model, inputs, ((play, plays.generate),))


def precision(dtype: torch.dtype) -> Setup:
    """A copy of the model, and the inputs, in another precision. The bound is twice the unpruned model's own rounding:
    the largest difference between its prompt logits in that precision and in float32."""

    @contextmanager
    def setup(tiny: Tiny, inputs: Inputs) -> Iterator[Setting]:
        if any(name.endswith("experts") for name, _ in tiny.model.named_modules()):
            raise NotApplicable("its router may choose other experts under rounding, which no bound covers")
        low = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
        model, real = fresh(tiny.model, dtype), inputs["attention_mask"].bool()
        exact, rounded = plays.forward(tiny.model, inputs).forward, plays.forward(model, low).forward
        assert exact is not None
        assert rounded is not None
        yield Setting(model, low, BOTH, tolerance=2 * distance(rounded[real], exact[real]))

    return setup


@contextmanager
def differentiable(tiny: Tiny, inputs: Inputs) -> Iterator[Setting]:
    """A copy of the model whose parameters want gradients."""
    model = fresh(tiny.model).requires_grad_(True)
    yield Setting(model, inputs, ((plays.gradients, plays.gradients),))


@contextmanager
def checkpointed(tiny: Tiny, inputs: Inputs) -> Iterator[Setting]:
    """The same in training mode with gradient checkpointing, against gradients without it."""
    model = fresh(tiny.model).requires_grad_(True)
    plays.without_dropout(model)
    layer = model.get_decoder().layers[-1]
    middle = layer.mlp if hasattr(layer, "mlp") else layer.feed_forward
    again: list[int] = []

    def play(model: Any, inputs: Any) -> Seen:
        model.train()
        checkpointing(model, True)
        again.clear()
        handle = middle.register_forward_pre_hook(lambda *_: again.append(1))
        try:
            seen = plays.gradients(model, inputs)
        finally:
            handle.remove()
            checkpointing(model, False)
            model.eval()
        if len(again) < 2:
            raise NothingRecomputed("gradient checkpointing computed no layer again")
        return seen

    yield Setting(model, inputs, ((play, plays.gradients),))


def checkpointing(model: Any, on: bool) -> None:
    """Switch gradient checkpointing; transformers renames the switch, and warns of the old name, after 5.17."""
    name = "enable" if on else "disable"
    switch = getattr(model, f"activation_checkpointing_{name}", None) or getattr(
        model, f"gradient_checkpointing_{name}"
    )
    switch(*([{"use_reentrant": False}] if on else []))


class NothingRecomputed(Exception):
    """Gradient checkpointing was asked for and did not happen."""


@contextmanager
def compiled_inside(tiny: Tiny, inputs: Inputs) -> Iterator[Setting]:
    """`torch.compile` of the model's forward while pruning is on; backend ``eager``: traced, no code generated."""

    def play(model: Any, inputs: Any) -> Seen:
        torch._dynamo.reset()
        with attributes(model, forward=torch.compile(model.forward, backend="eager")):
            return plays.few(model, inputs)

    yield Setting(fresh(tiny.model), inputs, ((play, plays.few),))
    torch._dynamo.reset()


@contextmanager
def compiled_before(tiny: Tiny, inputs: Inputs) -> Iterator[Setting]:
    """A forward that was compiled, and has run, before pruning was switched on."""
    model = fresh(tiny.model)
    torch._dynamo.reset()
    traced = torch.compile(model.forward, backend="eager")

    def play(model: Any, inputs: Any) -> Seen:
        with attributes(model, forward=traced):
            return plays.few(model, inputs)

    play(model, inputs)
    yield Setting(model, inputs, ((play, plays.few),))
    torch._dynamo.reset()
