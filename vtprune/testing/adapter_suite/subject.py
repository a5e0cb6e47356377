"""What an adapter is tried on: a tiny model, and a maker of inputs for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vtprune.core.adapter import Adapter
from vtprune.core.errors import VtpruneError, bulleted, did_you_mean

FIRST_SEED = 7
"""Draws images of different sizes, and images that are cut into crops, in the shipped families."""


class SubjectError(VtpruneError, ValueError):
    """What an adapter was to be tried on cannot serve for it; ``problems`` lists every reason."""

    def __init__(self, problems: list[str], what: str | None) -> None:
        self.problems = tuple(problems)
        title = (
            "there is nothing to check the adapter on" if what is None else f"{what} cannot serve to check an adapter"
        )
        super().__init__(bulleted(title, problems))


@runtime_checkable
class AdapterSubject(Protocol):
    """What `check_adapter` needs; `vtprune.testing.models.Tiny` is one.

    model: a small transformers model of the family with random weights, in float32 on the CPU and evaluation mode, with
        sdpa attention; weights must be large enough for a dropped token to show (`vtprune.testing.models.build`).
    make_inputs: ``make_inputs(images=(1,), seed=0, side="left", text=(2, 6))`` returns the keyword arguments of
        ``model(...)``, `input_ids` and `attention_mask` ``[batch, token]`` among them. ``images`` says how many images
        each sample holds, sample ``i`` is drawn from ``seed + i`` alone, ``side`` is where the padding goes, ``text``
        the least and greatest number of text tokens around images. With an argument ``videos`` (how many each sample
        holds), videos are checked too.
    """

    @property
    def model(self) -> Any: ...

    @property
    def make_inputs(self) -> Callable[..., dict[str, Tensor]]: ...


def subjects_of(adapter: Adapter, given: Any = None) -> tuple[AdapterSubject, ...]:
    """The tiny models to try an adapter on.

    given: one, or what makes one: a function of the attention implementation (called with ``"sdpa"``), or
        ``"module:function"``. None: what the adapter names (`Adapter.tiny`), else the shipped tiny models that name
        this adapter as theirs, as far as the installed transformers has their model class.
    Raises SubjectError for what cannot serve, with every reason; also where there is none.
    """
    if given is None and adapter.tiny is None:
        return _shipped(adapter)
    return (_made(adapter.tiny if given is None else given),)


def _shipped(adapter: Adapter) -> tuple[AdapterSubject, ...]:
    from vtprune.testing.models.families import VARIANTS

    own = [each for each in VARIANTS.values() if each.family == adapter.name]
    here = [each for each in own if each.available]
    if not here:
        lacking = f" (transformers lacks {own[0].architecture})" if own else ""
        problem = (
            f"no tiny model of adapter {adapter.name!r} ships with vtprune{lacking}; give `subject=`, an object with "
            "`model` and `make_inputs` such as vtprune.testing.models.Tiny, or set the adapter's field `tiny` to the "
            "function that makes one, 'module:function' (for `vtprune check` the only way)"
        )
        raise SubjectError([problem], None)
    return tuple(each.make() for each in here)


def _made(given: Any) -> AdapterSubject:
    if isinstance(given, str):
        from vtprune.verify.external import load

        given = load(given)
    if not isinstance(given, AdapterSubject) and callable(given) and not isinstance(given, nn.Module | type):
        given = given("sdpa")
    return checked(given)


def checked(given: Any) -> AdapterSubject:
    """A subject that can serve; raises SubjectError with every reason why it cannot."""
    what = getattr(given, "name", None) or type(given).__name__
    if isinstance(given, nn.Module):
        raise SubjectError([f"a model alone says nothing of its inputs; give vtprune.testing.models.Tiny(name, {what}, "
                            f"make_inputs)"], what)  # fmt: skip
    if not isinstance(given, AdapterSubject):
        have = [name for name in dir(given) if not name.startswith("_")]
        problems = [
            f"it has no `{name}`.{did_you_mean(name, have)}"
            for name in ("model", "make_inputs")
            if not hasattr(given, name)
        ]
        raise SubjectError([*problems, "expected an object with `model` and `make_inputs`, such as Tiny"], what)
    problems = [*_model_faults(given.model), *_input_faults(given.make_inputs)]
    if problems:
        raise SubjectError(problems, what)
    return given


def _model_faults(model: Any) -> list[str]:
    if not isinstance(model, nn.Module) or not all(
        hasattr(model, name) for name in ("base_model", "config", "generate")
    ):
        return [f"model is {type(model).__name__}, no transformers model that generates"]
    found = []
    if model.training:
        found.append("the model is in training mode; call model.eval()")
    odd = sorted({str(each.dtype) for each in model.parameters() if each.is_floating_point()} - {"torch.float32"})
    if odd:
        found.append(f"the model's weights are {', '.join(odd)}; expected torch.float32: use model.float()")
    if devices := sorted({each.device.type for each in model.parameters()} - {"cpu"}):
        found.append(f"the model is on {', '.join(devices)}; expected the CPU")
    return found


def _input_faults(make_inputs: Any) -> list[str]:
    if not callable(make_inputs):
        return [f"make_inputs is {type(make_inputs).__name__}, no function"]
    wanted = ("images", "seed", "side", "text")
    accepted = inspect.signature(make_inputs).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in accepted.values()) and (
        missing := [name for name in wanted if name not in accepted]
    ):
        return [f"make_inputs takes no {', '.join(missing)}; expected make_inputs(images, seed, side, text)"]
    both = make_inputs((1, 2), seed=FIRST_SEED, side="left", text=(2, 3))
    if lacking := [name for name in ("input_ids", "attention_mask") if name not in both]:
        return [f"make_inputs gives no {' and no '.join(lacking)}, only {', '.join(both)}"]
    found = []
    for name in ("input_ids", "attention_mask"):
        if both[name].dtype != torch.int64 or both[name].dim() != 2 or len(both[name]) != 2:
            found.append(
                f"{name} is {both[name].dtype} {list(both[name].shape)}; expected torch.int64 [batch=2, token]"
            )
    if not any(tensor.is_floating_point() for tensor in both.values()):
        found.append("make_inputs gives no float tensor: where are the pixels?")
    if found:
        return found
    again = make_inputs((1, 2), seed=FIRST_SEED, side="left", text=(2, 3))
    if any(not torch.equal(both[name], again[name]) for name in both):
        found.append(
            "make_inputs gives something else each time; draw from torch.Generator().manual_seed(seed + sample)"
        )
    alone = make_inputs((2,), seed=FIRST_SEED + 1, side="left", text=(2, 3))["input_ids"][0]
    if not torch.equal(both["input_ids"][1][both["attention_mask"][1].bool()], alone):
        found.append(
            "sample 1 of seed s is not sample 0 of seed s + 1, without the padding; draw each sample from seed + "
            "sample alone"
        )
    return found
