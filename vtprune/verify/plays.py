"""Ways of calling a model. Each takes the model and its inputs and says what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vtprune.verify.compare import Seen

STEPS = 20
FEW = 8
Play = Callable[[Any, Mapping[str, Tensor]], Seen]


@torch.no_grad()
def forward(model: Any, inputs: Mapping[str, Tensor]) -> Seen:
    """One call of the model."""
    return Seen(forward=model(**inputs).logits)


@torch.no_grad()
def generate(model: Any, inputs: Mapping[str, Tensor], steps: int = STEPS, **options: Any) -> Seen:
    """Generate from a fixed seed; greedy unless the options say otherwise."""
    torch.manual_seed(0)
    greedy = not options.get("do_sample") and options.get("num_beams", 1) == 1
    settings = {"do_sample": False, "use_cache": True, **options}
    output = model.generate(
        **inputs, max_new_tokens=steps, return_dict_in_generate=True, output_logits=True, **settings
    )
    tokens = output.sequences[:, inputs["input_ids"].shape[1] :]
    return Seen(tokens=tokens, logits=torch.stack(list(output.logits)), tied=greedy)


def gradients(model: Any, inputs: Mapping[str, Tensor]) -> Seen:
    """Loss on the logits of text, backward, gradients of every parameter and of the pixels."""
    model.zero_grad(set_to_none=True)
    given = dict(inputs)
    pixels = {name: tensor.clone().requires_grad_() for name, tensor in given.items() if tensor.is_floating_point()}
    with torch.enable_grad():
        logits = model(**{**given, **pixels}, use_cache=False).logits
        text = text_of(model, inputs)
        weights = torch.randn(logits[text].shape, generator=torch.Generator().manual_seed(0)).to(logits)
        (logits[text] * weights).mean().backward()
    found = {name: p.grad for name, p in [*model.named_parameters(), *pixels.items()] if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return Seen(forward=logits.detach(), gradients=found)


def text_of(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """bool ``[batch, token]``: real tokens that are no placeholder."""
    from vtprune.core.lookup import locate

    ids = torch.tensor(sorted(locate(model).placeholder_ids.values()))
    return inputs["attention_mask"].bool() & ~torch.isin(inputs["input_ids"], ids)


def sampled(**options: Any) -> Play:
    """Sampling at a temperature at which the likeliest token is often not taken."""
    return partial(generate, do_sample=True, temperature=1.5, **options)


@contextmanager
def attributes(owner: Any, **values: Any) -> Iterator[None]:
    """Instance attributes for a while."""
    missing = object()
    before = {name: vars(owner).get(name, missing) for name in values}
    for name, value in values.items():
        object.__setattr__(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is missing:
                vars(owner).pop(name, None)
            else:
                object.__setattr__(owner, name, value)


def few(model: Any, inputs: Mapping[str, Tensor]) -> Seen:
    """The prompt and one decoding step."""
    return generate(model, inputs, 2)


def without_dropout(model: nn.Module) -> None:
    """Dropout would make two runs in training mode differ."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
