"""Checks of an adapter's declaration: names, paths, placeholders, capabilities."""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from vtprune.core.errors import did_you_mean
from vtprune.core.signals import KINDS
from vtprune.testing.adapter_suite.encoding import encode
from vtprune.testing.adapter_suite.frame import adapter_check, declares
from vtprune.testing.adapter_suite.trial import Trial
from vtprune.testing.checking import fail

NAME = re.compile(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?/)?[a-z][a-z0-9_]*")


@adapter_check(refused=True)
def check_adapter_has_a_name_and_a_summary(trial: Trial) -> None:
    """The name is one that can be registered, and the summary is a line of text."""
    adapter = trial.adapter
    if not NAME.fullmatch(adapter.name):
        fail(
            f"the name is {adapter.name!r}; expected lower-case letters, digits and _, beginning with a letter",
            "`name`",
        )
    if not adapter.summary.strip() or "\n" in adapter.summary:
        fail(f"the summary is {adapter.summary!r}; expected half a sentence in one line", "`summary`")


@adapter_check(refused=True)
def check_adapter_claims_model_classes(trial: Trial) -> None:
    """At least one model class is claimed, by its name, and the model that it is tried on is of one."""
    adapter = trial.adapter
    if isinstance(adapter.architectures, str) or not adapter.architectures or not all(adapter.architectures):
        fail(
            f"architectures are {adapter.architectures!r}; expected at least one model class name in a tuple",
            "`architectures`; a tuple of one needs a comma",
        )
    if not trial.has_model:
        return
    names = [ancestor.__name__ for ancestor in type(trial.model).__mro__]
    if not set(names) & set(adapter.architectures):
        near = did_you_mean(names[0], adapter.architectures)
        fail(
            f"the model is a {names[0]}, but architectures are {', '.join(adapter.architectures)}.{near}",
            "`architectures`",
        )
    tower = getattr(getattr(trial.model.config, "vision_config", None), "model_type", None)
    if adapter.tower_types and tower not in adapter.tower_types:
        fail(f"the model's tower is a {tower!r}, but tower_types are {', '.join(adapter.tower_types)}", "`tower_types`")


@adapter_check(refused=True)
def check_adapter_names_known_signals(trial: Trial) -> None:
    """What it provides are kinds of signals that exist."""
    for name in sorted(trial.adapter.provides):
        if name not in KINDS:
            fail(f"it provides {name!r}, which is no kind of signal.{did_you_mean(name, KINDS)}", "`provides`")


@adapter_check(refused=True)
def check_adapter_refuses_with_a_reason(trial: Trial) -> None:
    """An adapter that refuses its family says why, in a sentence."""
    reason = trial.adapter.unsupported
    if reason is not None and len(reason.split()) < 4:
        fail(f"unsupported is {reason!r}; expected a sentence that says why", "`unsupported`")


def _follow(root: nn.Module, path: str, field: str, within: str) -> Any:
    """What a dotted path leads to; fails with the nearest name at the first step that leads nowhere."""
    here: Any = root
    for number, step in enumerate(path.split(".")):
        if not hasattr(here, step):
            known = [name for name, _ in here.named_children()] if isinstance(here, nn.Module) else []
            at = ".".join([within, *path.split(".")[:number]])
            fail(
                f"{field} is {path!r}, but {at} ({type(here).__name__}) has no {step!r}.{did_you_mean(step, known)}",
                f"`{field}`",
            )
        here = getattr(here, step)
    return here


def _paths(trial: Trial) -> Iterator[tuple[str, str]]:
    adapter = trial.adapter
    yield from (("language_model", adapter.language_model), ("vision_tower", adapter.vision_tower))
    yield from (
        (field, path) for field in ("projector", "video_tower") if (path := getattr(adapter, field)) is not None
    )
    yield from (("mergers", path) for path in adapter.mergers)


@adapter_check()
def check_adapter_paths_lead_to_modules(trial: Trial) -> None:
    """Every path leads to a module, vision_layers to a list of layers, vision_attention to a module in each."""
    adapter, base = trial.adapter, trial.model.base_model
    for field, path in _paths(trial):
        found = _follow(base, path, field, "base_model")
        if not isinstance(found, nn.Module):
            fail(f"{field} is {path!r}, which leads to {type(found).__name__}, not to a module", f"`{field}`")
    if adapter.vision_layers is None:
        return
    for tower in filter(None, (adapter.vision_tower, adapter.video_tower)):
        layers = _follow(attrgetter(tower)(base), adapter.vision_layers, "vision_layers", tower)
        if not isinstance(layers, nn.ModuleList | nn.Sequential) or not len(layers):
            fail(
                f"vision_layers is {adapter.vision_layers!r}, which leads to {type(layers).__name__}; expected a "
                "list of "
                f"layers (ModuleList or Sequential)",
                "`vision_layers`",
            )
        for number, layer in enumerate(layers if adapter.vision_attention is not None else ()):
            assert adapter.vision_attention is not None
            _follow(layer, adapter.vision_attention, "vision_attention", f"{tower}.{adapter.vision_layers}[{number}]")


@adapter_check()
def check_adapter_language_model_is_the_decoder(trial: Trial) -> None:
    """language_model is what transformers takes for the decoder, and its layers are run in their order."""
    decoder, found = trial.model.get_decoder(), trial.parts.language_model
    if found is not decoder:
        names = {module: name for name, module in trial.model.base_model.named_modules()}
        fail(
            f"language_model is {trial.adapter.language_model!r} ({type(found).__name__}), but the model's decoder is "
            f"{names.get(decoder, '?')!r} ({type(decoder).__name__})",
            "`language_model`",
        )


@adapter_check(declares("vision_layers"))
def check_adapter_vision_layers_run_in_order(trial: Trial) -> None:
    """The vision layers run one after the other, in their order, when an image is encoded."""
    layers, order, asked = trial.parts.vision_layers, list[int](), trial.asked("one")[0]
    handles = [
        layer.register_forward_pre_hook(lambda *_, number=number: order.append(number))
        for number, layer in enumerate(layers)
    ]
    try:
        with torch.no_grad():
            encode(trial.model, asked)
    finally:
        for handle in handles:
            handle.remove()
    path = f"{trial.adapter.vision_tower}.{trial.adapter.vision_layers}"
    if not order:
        fail(
            f"none of the {len(layers)} layers at {path} ran when an image was encoded",
            "`vision_tower`, `vision_layers`",
        )
    needed = list(range(trial.tower_depth))
    rounds = [at for at, number in enumerate(order) if number == order[0]]
    first = order[: rounds[1]] if len(rounds) > 1 else order
    if first[: len(needed)] != needed:
        fail(f"the layers at {path} ran in the order {first}; expected {needed}", "`vision_layers`")


@adapter_check()
def check_adapter_placeholders_are_in_the_config(trial: Trial) -> None:
    """Each placeholder names an attribute of the config that holds a token id, and a prompt with an image has that of
    images."""
    config, placeholders = trial.model.config, trial.adapter.placeholders
    if not placeholders:
        fail("there are no placeholders, so no token of a prompt would be vision", "`placeholders`")
    vocabulary = trial.model.get_input_embeddings().num_embeddings
    for modality, name in placeholders.items():
        if modality not in ("image", "video"):
            fail(f"placeholders has the modality {modality!r}; expected image or video", "`placeholders`")
        token: Any = getattr(config, name, None)
        if not isinstance(token, int):
            known = [key for key in config.to_dict() if key.endswith(("_id", "_index"))]
            near = did_you_mean(name, known)
            fail(f"the config has no token id {name!r} (found {token!r}).{near}", "`placeholders`")
        if not 0 <= token < vocabulary:
            fail(f"config.{name} is {token}, outside the {vocabulary} rows of the embeddings", "`placeholders`")
    if "image" in placeholders:
        ids, token = trial.inputs("one")["input_ids"], getattr(config, placeholders["image"])
        if not bool((ids == token).any()):
            seen = ids.flatten().mode().values.item()
            fail(
                f"a prompt with an image holds no token {token} (config.{placeholders['image']}); its most frequent "
                "token "
                f"is {seen}",
                "`placeholders['image']` names another token's id",
            )
