"""An independent reference for an adapter's row maps: which rows of the model's own tensors each token depends on."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor

from tests.adapters.exactness import SEED, adapter_of, tiny
from vtprune.core.adapter import VisionCall, VisionInput
from vtprune.core.engine.tower import returned_features, tokens_of
from vtprune.core.lookup import locate
from vtprune.testing.models.tiny import Inputs

IMAGES = (1, 2)


def _encoded(name: str, inputs: Inputs) -> tuple[VisionCall, list[VisionInput]]:
    model: Any = tiny(name).model
    names = signature(model.model.get_image_features).parameters
    arguments = {key: value for key, value in inputs.items() if key in names}
    output = model.model.get_image_features(**arguments)
    call = VisionCall("image", arguments, output, returned_features(output))
    return call, adapter_of(name).images(model, call)


def assert_rows_are_those_that_matter(name: str, inputs: Inputs | None = None) -> None:
    """A token's gradient in the last vision layer's output, and in the projector's input, is non-zero at its rows
    alone. (What follows the last layer acts on every row, or on every window, by itself.)"""
    inputs = tiny(name).make_inputs(IMAGES, seed=SEED) if inputs is None else inputs
    parts = locate(tiny(name).model)
    assert parts.projector is not None
    seen: dict[str, list[Tensor]] = {"tower": [], "projector": []}

    def leaf(kind: str, tensor: Tensor) -> Tensor:
        seen[kind].append(tensor.detach().requires_grad_())
        return seen[kind][-1]

    def layer_ends(module: Any, args: Any, output: Any) -> Any:
        return (leaf("tower", output[0]), *output[1:]) if isinstance(output, tuple) else leaf("tower", output)

    def projector_starts(module: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (leaf("projector", args[0]), *args[1:]), kwargs
        first = next(iter(kwargs))
        return args, {**kwargs, first: leaf("projector", kwargs[first])}

    adapter = parts.adapter
    assert adapter.tower_rows is not None
    assert adapter.projector_rows is not None
    hooks = {
        "tower": lambda: parts.vision_layers[-1].register_forward_hook(layer_ends),
        "projector": lambda: parts.projector.register_forward_pre_hook(projector_starts, with_kwargs=True),
    }
    for kind, rows_of in (("tower", adapter.tower_rows), ("projector", adapter.projector_rows)):
        with torch.enable_grad(), hooks[kind]():
            call, images = _encoded(name, inputs)
            rows = torch.cat(rows_of(parts.model, call, images))
            features = torch.cat(call.features)
            assert len(rows) == len(features) == sum(image.tokens for image in images)
            direction = torch.randn(features.shape[1], generator=torch.Generator().manual_seed(0))
            for token, feature in enumerate(features @ direction):
                found = torch.autograd.grad(feature, seen[kind], retain_graph=True, allow_unused=True)
                gradients = [
                    torch.zeros_like(at) if grad is None else grad for at, grad in zip(seen[kind], found, strict=True)
                ]
                flat = torch.cat([grad.flatten(0, -2) for grad in gradients])
                touched = (flat != 0).any(-1).nonzero()[:, 0].tolist()
                assert touched == sorted(rows[token].tolist()), f"{kind}, token {token}"


def assert_project_is_the_projector(name: str) -> None:
    """`project` on the projector's input, gathered by the map, gives the features that the model made."""
    inputs = tiny(name).make_inputs(IMAGES, seed=SEED)
    parts = locate(tiny(name).model)
    adapter, given = parts.adapter, list[Tensor]()
    assert parts.projector is not None
    assert adapter.project is not None
    assert adapter.projector_rows is not None
    hook = parts.projector.register_forward_pre_hook(
        lambda _, args, kwargs: given.append(next(iter((*args, *kwargs.values())))), with_kwargs=True
    )
    with hook:
        call, images = _encoded(name, inputs)
    rows = torch.cat(adapter.projector_rows(parts.model, call, images))
    features = torch.cat(call.features)
    some = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: len(rows) // 2]
    made = adapter.project(parts.model, tokens_of(given, rows[some]))
    torch.testing.assert_close(made, features[some])
