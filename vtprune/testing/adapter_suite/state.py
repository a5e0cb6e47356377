"""Everything outside of the numbers that pruning could leave changed in a model."""

from __future__ import annotations

from typing import Any

from torch import nn

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
)
SELF_WRITTEN = ("rope_deltas",)
"""What transformers notes in a model at every prompt, with and without vtprune."""


class Held:
    """An object that equals itself alone, and is kept alive so that no later one gets its address."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def snapshot(model: Any) -> dict[str, Any]:
    """By a readable name: hooks, attributes, configs and versions of tensors of every module, and the tables of
    attention functions that all models share."""
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        where = name or type(model).__name__
        for kind in HOOKS:
            found[f"{where}.{kind}"] = list(getattr(module, kind).items())
        skipped = {*HOOKS, "_parameters", "_buffers", "_modules", *SELF_WRITTEN}
        for key, value in vars(module).items():
            if key not in skipped:
                found[f"{where}.{key}"] = Held(value)
        config: Any = getattr(module, "config", None)
        if hasattr(config, "to_dict"):
            found[f"{where}.config"] = (config.to_dict(), getattr(config, "_attn_implementation", None))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found[f"tensor {name}"] = (Held(tensor), tensor._version, tensor.requires_grad)
    found["generation_config"] = model.generation_config.to_dict()
    found["the table of attention functions"] = dict(AttentionInterface._global_mapping)
    found["the table of mask functions"] = dict(AttentionMaskInterface._global_mapping)
    found["the local table of attention functions"] = dict(ALL_ATTENTION_FUNCTIONS._local_mapping)
    return found


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what differs, sorted."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def decoder_of(model: Any) -> nn.Module:
    """The language model, as transformers tells."""
    found: nn.Module = model.get_decoder()
    return found
