"""The modes: the ways of calling a model in which removal is verified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from vtprune.core.errors import did_you_mean
from vtprune.verify.subjects import UnknownVerificationError

if TYPE_CHECKING:
    from vtprune.verify.prompts import Prompt
    from vtprune.verify.settings import Setup


ATTENTIONS = ("sdpa", "eager")


@dataclass(frozen=True)
class Mode:
    """A way of calling a model.

    group: the table of docs/verified.md it stands in; summary: what is done, for a reader.
    every_site: whether it is tried at every site, not only at those of the full list.
    attentions: the attention implementations it is tried with.
    costly: takes minutes; only run where it is asked for by name.
    """

    name: str
    group: str
    summary: str
    every_site: bool = False
    attentions: tuple[str, ...] = ("sdpa",)
    costly: bool = False


MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("single", "prompts", "one sample with one image", True, ATTENTIONS),
        Mode("padded", "prompts", "a batch of 1, 2, 0 and 1 images, padded on the left", True, ATTENTIONS),
        Mode("padded_right", "prompts", "the same padded on the right; a call, no generation", False, ATTENTIONS),
        Mode("several_images", "prompts", "two images in one sample", True, ATTENTIONS),
        Mode("interleaved", "prompts", "three and two images with text before, between and after", False, ATTENTIONS),
        Mode("video", "prompts", "an image and a video, and a video alone", False, ATTENTIONS),
        Mode("sampling", "generation", "the same seed as the reference"),
        Mode("beams", "generation", "three beams"),
        Mode("sequences", "generation", "num_return_sequences=3, sampled"),
        Mode("prompt_lookup", "generation", "drafts looked up in the prompt, compared with no drafts"),
        Mode("assisted", "generation", "drafts of an assistant model, compared with no drafts"),
        Mode("dialogue", "generation", "a second turn with a new image continues the cache of the first"),
        Mode("no_cache", "generation", "use_cache=False"),
        Mode("chunked_prefill", "generation", "prefill_chunk_size=4"),
        Mode("static_cache", "caches", "cache_implementation='static'"),
        Mode("quantized_cache", "caches", "cache_implementation='quantized'"),
        Mode("offloaded_cache", "caches", "cache_implementation='offloaded'"),
        Mode("bf16", "precision and training", "bfloat16, within twice the unpruned model's own rounding"),
        Mode("fp16", "precision and training", "float16, within twice the unpruned model's own rounding"),
        Mode("gradient", "precision and training", "gradients of parameters and pixels"),
        Mode("checkpointing", "precision and training", "gradients with gradient checkpointing"),
        Mode("compile", "compilation and devices", "torch.compile (backend eager) inside the with-block", costly=True),
        Mode(
            "compiled_before",
            "compilation and devices",
            "torch.compile (backend eager) before the with-block",
            costly=True,
        ),
    )
}


def mode(name: str) -> Mode:
    """The mode of that name; raises UnknownVerificationError with the nearest name."""
    if name not in MODES:
        raise UnknownVerificationError(f"{name!r} is not a mode of verification.{did_you_mean(name, MODES)}")
    return MODES[name]


def parts(name: str) -> tuple[Prompt, Setup]:
    """How a mode makes its prompt and sets up its model."""
    import torch

    from vtprune.verify import plays, prompts, settings
    from vtprune.verify.settings import calling

    generating: Callable[..., Any] = lambda **options: partial(plays.generate, **options)  # noqa: E731
    cached: Callable[[str], Setup] = lambda kind: calling(  # noqa: E731
        generating(cache_implementation=kind), plays.generate
    )
    lookup = calling(generating(prompt_lookup_num_tokens=4), plays.generate)
    without_cache = calling(generating(steps=plays.FEW, use_cache=False), generating(steps=plays.FEW))
    how: dict[str, tuple[Prompt, Setup]] = {
        "single": (prompts.single, settings.ordinary),
        "padded": (prompts.padded, settings.ordinary),
        "padded_right": (prompts.padded_right, calling(plays.forward)),
        "several_images": (prompts.several_images, settings.ordinary),
        "interleaved": (prompts.interleaved, settings.ordinary),
        "video": (prompts.video, settings.ordinary),
        "sampling": (prompts.pair, calling(plays.sampled())),
        "beams": (prompts.pair, calling(generating(num_beams=3))),
        "sequences": (prompts.pair, calling(plays.sampled(num_return_sequences=3))),
        "prompt_lookup": (prompts.repeating, lookup),
        "assisted": (prompts.single, settings.assisted),
        "no_cache": (prompts.pair, without_cache),
        "chunked_prefill": (prompts.single, calling(generating(prefill_chunk_size=4), plays.generate)),
        "static_cache": (prompts.pair, cached("static")),
        "quantized_cache": (prompts.pair, cached("quantized")),
        "offloaded_cache": (prompts.pair, cached("offloaded")),
        "bf16": (prompts.padded, settings.precision(torch.bfloat16)),
        "fp16": (prompts.padded, settings.precision(torch.float16)),
        "gradient": (prompts.pair, settings.differentiable),
        "checkpointing": (prompts.pair, settings.checkpointed),
        "compile": (prompts.single, settings.compiled_inside),
        "compiled_before": (prompts.single, settings.compiled_before),
    }
    return how[name]
