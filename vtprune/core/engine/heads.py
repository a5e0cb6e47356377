"""How many heads an attention module has, read off the module first and off its config last.

Modules come first because layers of one model may differ where its config has one number (Gemma4), and because some
configs name no KV heads at all (Persimmon, GPT-NeoX).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from vtprune.core.errors import UnsupportedModelError

FUSED = ("query_key_value", "qkv_proj", "qkv")
"""Names of one projection that makes queries, keys and values."""


def kv_heads_of(attention: nn.Module, config: Any = None) -> int:
    """KV heads of an attention module: the number of heads of its cache.

    config: the text config, asked last, for modules that hold none. Read off the width of the key projection, else the
    query heads and how many of them share a KV head, else the numbers that module or config state, else the width of a
    projection that makes queries, keys and values at once. Raises UnsupportedModelError where none of them tells.
    """
    if (width := _width(attention, "k_proj", "out_features")) is not None:
        return width // head_dim_of(attention)
    if isinstance(groups := getattr(attention, "num_key_value_groups", None), int):
        return query_heads_of(attention, config) // groups
    places = [(where, name) for where in _places(attention, config) for name in ("num_key_value_heads", "num_kv_heads")]
    found = _first(places)
    if found is None:
        found = _of_fused(attention, config)
    return _required(found, places, attention)


def query_heads_of(attention: nn.Module, config: Any = None) -> int:
    """Query heads of an attention module: by the width of the output projection (a gated query projection is wider than
    its heads), else as module or config say. Raises UnsupportedModelError where none of them tells."""
    if (width := _width(attention, "o_proj", "in_features")) is not None:
        return width // head_dim_of(attention)
    places = [(where, name) for where in _places(attention, config) for name in ("num_heads", "num_attention_heads")]
    return _required(_first(places), places, attention)


def head_dim_of(attention: nn.Module) -> int:
    """Numbers in one head's key. Raises UnsupportedModelError for a module that does not say."""
    return _required(own_head_dim(attention), [(attention, "head_dim")], attention)


def own_head_dim(module: nn.Module) -> int | None:
    """Of an attention module, which says so or (towers of SAM's kind) has fused projections; None for others."""
    if isinstance(found := getattr(module, "head_dim", None), int):
        return found
    fused, heads = getattr(module, "qkv", None), getattr(module, "num_attention_heads", None)
    return fused.out_features // 3 // heads if isinstance(fused, nn.Linear) and isinstance(heads, int) else None


def _of_fused(attention: nn.Module, config: Any) -> int | None:
    widths = (_width(attention, name, "out_features") for name in FUSED)
    width = next((width for width in widths if width is not None), None)
    if width is None:
        return None
    rest = width // head_dim_of(attention) - query_heads_of(attention, config)
    return rest // 2 if rest > 0 and rest % 2 == 0 else None


def _width(attention: nn.Module, projection: str, side: str) -> int | None:
    found = getattr(getattr(attention, projection, None), side, None)
    return found if isinstance(found, int) else None


def _places(attention: nn.Module, config: Any) -> tuple[object, ...]:
    return attention, getattr(attention, "config", None), config


def _first(places: Sequence[tuple[object, str]]) -> int | None:
    values = (getattr(where, name, None) for where, name in places)
    return next((value for value in values if isinstance(value, int)), None)


def _required(found: int | None, places: Sequence[tuple[object, str]], attention: nn.Module) -> int:
    if found is not None:
        return found
    names = " or ".join(dict.fromkeys(f"`{name}`" for _, name in places))
    raise UnsupportedModelError(
        f"{type(attention).__name__} has no integer {names}, on itself or in its config; expected an attention module "
        f"of the Hugging Face shape. It may be another module of the layer, or an attention with compressed heads"
    )
