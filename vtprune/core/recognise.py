"""Recognising a model family by its structure, where nobody has written an adapter for it.

What transformers' vision-language models have in common is looked for: a decoder whose layers get rotary embeddings
from outside, placeholder tokens named in the config, ``get_image_features``, a tower of layers. Everything that could
make pruning wrong must be one of the things known here; an argument of a decoder layer or a part of an attention that
is not is a reason to refuse. No grid and no map to the tower's rows is ever guessed, so signals that need them are not
provided.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, get_args

from torch import nn

from vtprune.core.adapter import Adapter, Modality
from vtprune.core.engine.cost import CostModel, vision_flops
from vtprune.core.engine.deepstack import METHOD as DEEPSTACK
from vtprune.core.errors import first_line
from vtprune.core.recognised_images import features_method, images, unread
from vtprune.core.signals import KINDS

TOWERS = ("vision_tower", "visual", "vision_model", "vision_encoder", "image_tower", "vision_transformer")
SILENT = ("audio_tower", "speech_tower")
PROJECTORS = (
    "multi_modal_projector",
    "mm_projector",
    "connector",
    "aligner",
    "projector",
    "merger",
    "visual.merger",
    "vision_projection",
    "language_projection",
)
ATTENTIONS = ("self_attn", "attention", "attn")
PLACEHOLDERS: Mapping[Modality, tuple[str, ...]] = {
    "image": ("image_token_id", "image_token_index"),
    "video": ("video_token_id", "video_token_index"),
}
MODEL_ARGUMENTS = frozenset(
    [
        "input_ids",
        "attention_mask",
        "position_ids",
        "past_key_values",
        "inputs_embeds",
        "use_cache",
        "cache_position",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
        "logits_to_keep",
    ]
)
LAYER_ARGUMENTS = frozenset(
    [
        "hidden_states",
        "attention_mask",
        "position_ids",
        "past_key_values",
        "past_key_value",
        "use_cache",
        "cache_position",
        "position_embeddings",
        "output_attentions",
        "output_router_logits",
        "logits_to_keep",
    ]
)
DEEPSTACK_ARGUMENTS = frozenset({"visual_pos_masks", "deepstack_visual_embeds"})
LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
ATTENTION_PART = re.compile(r"^((q|k|v|o|qkv|out)_proj|query_key_value|dense|(q|k|v)_(norm|layernorm)|\w*dropout)$")
LAYER_PART = re.compile(
    r"^(self_attn|mlp|feed_forward|\w*moe|\w*experts?|router|gate|\w*(norm|layernorm|dropout)\d?|act\w*)$"
)
MODEL_PART = re.compile(r"^(embed_tokens|embedding_dropout|layers|\w*norm|\w*rotary_emb\w*)$")
CROSS = re.compile(r"cross_?attn|cross_?attention|encoder_attn|encoder_attention")
GUESSED = frozenset({"grid", "vision_attention"})
"""Signals that would need a guess about the order of the tower's rows."""

_warned: set[str] = set()


@dataclass(frozen=True)
class Recognition:
    """What was found in a model. found: paths under ``model.base_model`` by what they are; missing: why it cannot be
    served; notes: what can be served only in part, and why. adapter: None if anything is missing."""

    found: Mapping[str, str]
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    adapter: Adapter | None


def recognise(model: nn.Module) -> Adapter | None:
    """An adapter made from the model's structure, with one UserWarning per model class; None if there is none."""
    seen = examine(model)
    name = type(model).__name__
    if seen.adapter is not None and name not in _warned:
        _warned.add(name)
        warnings.warn(
            f"no adapter is registered for {name}; it was recognised by its structure, and that was not verified. "
            f"Compare with the masked reference before relying on it, or write an adapter: `vtprune adapters inspect "
            f"--skeleton FILE` makes a start",
            UserWarning,
            stacklevel=7,  # the caller of vtprune.prune
        )
    return seen.adapter


def examine(model: nn.Module) -> Recognition:
    """Look at a model's structure; its parameters may lie on the meta device."""
    base: Any = getattr(model, "base_model", None)
    if not isinstance(base, nn.Module):
        return Recognition({}, ("a base model (`base_model`, which every model of transformers has)",), (), None)
    found: dict[str, str] = {}
    missing: list[str] = []
    notes: list[str] = []
    placeholders = _placeholders(model, base)
    found.update({f"{kind} placeholder": f"config.{name}" for kind, name in placeholders.items()})
    language = _language_model(model, base, found, missing)
    if language is not None:
        missing.extend(_language_faults(model, language))
    tower = _tower(base, found, notes)
    if tower is None:
        missing.append(f"a vision tower (a module named {', '.join(TOWERS)})")
    if not placeholders:
        if not any(hasattr(base, features_method(kind)) for kind in get_args(Modality)):
            missing.append(f"get_image_features or get_video_features on {type(base).__name__}")
        names = ", ".join(name for each in PLACEHOLDERS.values() for name in each)
        missing.append(
            f"a placeholder token whose embedding is filled with vision features (an integer {names} in the config, "
            f"beside the method that makes the features)"
        )
    paths = _tower_layers(tower, notes) if tower is not None else (None, None)
    for label, path in zip(("vision layers", "vision attention"), paths, strict=True):
        if path is not None:
            found[label] = path
    projector = _projector(base, found, notes)
    if missing or language is None or tower is None:
        return Recognition(found, tuple(missing), tuple(notes), None)
    lacking = {kind: unread(base, kind) for kind in placeholders}
    withheld = set(GUESSED)
    for kind, unclear in lacking.items():
        if unclear:
            withheld.add("sample_seed")
            notes.append(
                f"sample_seed is not provided: {features_method(kind)} takes {', '.join(unclear)}, so which pixels are "
                f"an image's own is unknown"
            )
    notes.append(
        "grid, vision_attention and the site vision.output are not provided: which rows of the tower make up a token, "
        "and how tokens lie in the image, cannot be told from structure"
    )
    adapter = Adapter(
        name=f"recognised:{type(model).__name__}",
        summary=f"{type(model).__name__}, recognised by its structure and not verified",
        architectures=(type(model).__name__,),
        language_model=found["language model"],
        vision_tower=found["vision tower"],
        vision_layers=paths[0],
        vision_attention=paths[1],
        projector=projector,
        placeholders=placeholders,
        images=images,
        provides=frozenset(KINDS) - withheld,
        recognised=True,
    )
    return Recognition(found, (), tuple(notes), adapter)


def explain(seen: Recognition) -> str:
    """What was found and what is missing, in one clause."""
    found = ", ".join(f"{label} ({path})" for label, path in seen.found.items()) or "nothing"
    return f"found: {found}; missing: {'; '.join(seen.missing)}"


WRAPPERS = (
    ("_orig_mod", "torch.compile", "what was compiled before the hooks were put on may run without them"),
    ("module", "a parallel or sharding wrapper", "its replicas are copies that the hooks are not on"),
    ("get_base_model()", "an adapter library such as PEFT", "the layers it added stay active in the wrapped model"),
)


def wrapping(model: nn.Module) -> str | None:
    """Why a wrapper around a model is to be taken off first; None if the model is none."""
    for access, what, why in WRAPPERS:
        inner: Any = getattr(model, access.removesuffix("()"), None)
        inner = inner() if access.endswith("()") and callable(inner) else inner
        if isinstance(inner, nn.Module) and inner is not model:
            return (
                f"{type(model).__name__} is a {type(inner).__name__} wrapped by {what}, and {why}. Pass the wrapped "
                f"model, vtprune.prune(model.{access}, ...), and call that one inside the with-block"
            )
    return None


# -- parts -------------------------------------------------------------------------------------------------------------


def _path(base: nn.Module, wanted: nn.Module) -> str | None:
    return next((name for name, module in base.named_modules() if module is wanted), None)


def _placeholders(model: Any, base: nn.Module) -> dict[Modality, str]:
    chosen: dict[Modality, str] = {}
    for kind, names in PLACEHOLDERS.items():
        named = next((name for name in names if isinstance(_setting(model, name), int)), None)
        if named is not None and hasattr(base, features_method(kind)):
            chosen[kind] = named
    return chosen


def _language_model(model: Any, base: nn.Module, found: dict[str, str], missing: list[str]) -> Any:
    try:
        decoder: Any = model.get_decoder()
    except Exception as error:
        missing.append(f"a language model: get_decoder() of {type(model).__name__} raised {first_line(error)}")
        return None
    if decoder is model or decoder is base or not isinstance(decoder, nn.Module):
        missing.append("a language model apart from the rest (`language_model` or `text_model` of the base model)")
        return None
    for inner in ("", "model", "model.decoder", "decoder"):
        candidate = _get(decoder, inner)
        if isinstance(getattr(candidate, "layers", None), nn.ModuleList) and len(candidate.layers):
            path = _path(base, candidate)
            if path:
                found["language model"] = path
                return candidate
    missing.append(f"decoder layers: {type(decoder).__name__} has no `layers`")
    return None


def _get(module: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        module = getattr(module, name, None)
    return module


def _language_faults(model: Any, language: Any) -> Iterator[str]:
    layers = list(language.layers)
    attentions = [getattr(layer, "self_attn", None) for layer in layers]
    # Nothing is judged twice: the layers of a model are mostly of one or two kinds.
    kinds = {_kind(*pair): pair for pair in zip(layers, attentions, strict=True)}.values()
    crossing = [name for layer, _ in kinds for name, _ in layer.named_children() if CROSS.search(name)]
    if crossing or any(CROSS.search(name) for name in _named(language.forward)):
        where = f"its decoder has {', '.join(crossing)}" if crossing else "its decoder takes cross-attention states"
        yield (
            f"vision tokens in the decoder's sequence: {where}, so vision enters by cross-attention and there is no "
            f"token to drop"
        )
        return
    if not any(attentions):
        yield f"decoder layers with a `self_attn` ({type(layers[0]).__name__} has none)"
        return
    if not isinstance(_setting(language, "num_attention_heads"), int):
        yield f"one num_attention_heads for all layers in the config of {type(language).__name__}"
    if getattr(language, "rotary_emb", None) is None:
        yield f"rotary embeddings: {type(language).__name__} has no `rotary_emb`"
    yield from _unknown(language, MODEL_ARGUMENTS | (DEEPSTACK_ARGUMENTS if hasattr(language, DEEPSTACK) else set()))
    yield from _unknown_parts(language, MODEL_PART)
    for layer, attention in kinds:
        name = type(layer).__name__
        if attention is None:
            yield f"an attention in every decoder layer ({name} has no `self_attn`)"
            continue
        if "position_embeddings" not in _named(layer.forward):
            yield f"position_embeddings among the arguments of {name}.forward"
        yield from _unknown(layer, LAYER_ARGUMENTS)
        yield from _unknown(attention, LAYER_ARGUMENTS)
        yield from _unknown_parts(layer, LAYER_PART)
        yield from _unknown_parts(attention, ATTENTION_PART)
    if types := set(_setting(language, "layer_types") or ()) - LAYER_TYPES:
        yield f"layers of the types {' or '.join(sorted(LAYER_TYPES))} only (it has {', '.join(sorted(types))})"
    try:
        CostModel.of(layers, attentions, model.get_output_embeddings(), next(language.parameters()).dtype)
    except Exception as error:
        yield f"sizes that tell what a token costs: {error}"


def _kind(layer: nn.Module, attention: nn.Module | None) -> tuple[Any, ...]:
    parts = () if attention is None else tuple(name for name, _ in attention.named_children())
    return type(layer), type(attention), parts, tuple(name for name, _ in layer.named_children())


def _unknown(module: nn.Module, known: frozenset[str]) -> Iterator[str]:
    if odd := _named(module.forward) - known:
        yield f"a known meaning of what {type(module).__name__}.forward takes as {', '.join(sorted(odd))}"


def _unknown_parts(module: nn.Module, known: re.Pattern[str]) -> Iterator[str]:
    if odd := [name for name, _ in module.named_children() if not known.match(name)]:
        yield f"a known meaning of the parts {', '.join(odd)} of {type(module).__name__}"


def _setting(module: Any, name: str) -> Any:
    """A value of a module's config; None also where the config refuses to give one for all layers."""
    try:
        return getattr(module.config, name, None)
    except Exception:
        return None


def _named(function: Any) -> frozenset[str]:
    kinds = (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
    return frozenset(name for name, p in signature(function).parameters.items() if p.kind not in kinds) - {"self"}


def _tower(base: nn.Module, found: dict[str, str], notes: list[str]) -> nn.Module | None:
    names = [name for name in TOWERS if isinstance(getattr(base, name, None), nn.Module)]
    names += [name for name, _ in base.named_children() if name.endswith("_tower") and name not in (*names, *SILENT)]
    if not names:
        return None
    found["vision tower"] = names[0]
    if len(names) > 1:
        notes.append(f"there are several towers ({', '.join(names)}); only FLOPs of {names[0]} are counted")
    tower: nn.Module = getattr(base, names[0])
    return tower


def _tower_layers(tower: nn.Module, notes: list[str]) -> tuple[str | None, str | None]:
    """Path of the tower's layer list, and of the attention in a layer."""
    lists: list[tuple[int, str, str, nn.ModuleList]] = []
    for path, module in tower.named_modules():
        if not isinstance(module, nn.ModuleList) or not len(module):
            continue
        attention = next((name for name in ATTENTIONS if all(isinstance(_get(m, name), nn.Module) for m in module)), "")
        if attention and path:
            lists.append((len(module), path, attention, module))
    if len(lists) == 1:
        _, path, attention, layers = lists[0]
        try:
            vision_flops(tower, list(layers), 1, [[1]] * len(layers))
        except Exception as error:
            notes.append(f"FLOPs of the vision tower are not counted: {error}")
            return None, None
        return path, attention
    seen = ", ".join(f"{path} ({count})" for count, path, _, _ in lists) or "none"
    notes.append(f"FLOPs of the vision tower are not counted: no single list of its layers was found (seen: {seen})")
    return None, None


def _projector(base: nn.Module, found: dict[str, str], notes: list[str]) -> str | None:
    seen = [path for path in PROJECTORS if isinstance(_get(base, path), nn.Module)]
    if len(seen) == 1:
        found["projector"] = seen[0]
        return seen[0]
    notes.append(
        f"no single projector was recognised (seen: {', '.join(seen) or 'none'}), so its FLOPs are not counted"
    )
    return None
