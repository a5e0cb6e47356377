"""From a task's samples to a model's inputs: chat template, processor, padding on the left."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from vtprune.core.errors import VtpruneError
from vtprune.core.task import Sample, Video


class PromptError(VtpruneError):
    """Samples that a processor cannot encode."""


def render(processor: Any, sample: Sample) -> str:
    """The prompt of one sample: one user turn through the processor's chat template or, without one, the sample's
    content with the processor's placeholders in it.

    Raises PromptError if there is neither a template nor a placeholder.
    """
    if getattr(processor, "chat_template", None):
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "video" if isinstance(part, Video) else "image"}
            for part in sample.content
        ]
        text: str = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return text
    parts = [part if isinstance(part, str) else _placeholder(processor, part) for part in sample.content]
    return "\n".join(parts)


def _placeholder(processor: Any, part: Image.Image | Video) -> str:
    name = "video_token" if isinstance(part, Video) else "image_token"
    token = getattr(processor, name, None)
    if not isinstance(token, str):
        raise PromptError(
            f"{type(processor).__name__} has neither a chat template nor a {name}, so the place of a visual cannot be "
            f"written; use the model's own chat template (processor.chat_template)"
        )
    return token


def encode(processor: Any, samples: Sequence[Sample], images_kwargs: Mapping[str, Any] | None = None) -> Any:
    """The inputs of ``model.generate`` for a batch, on the CPU, padded on the left.

    images_kwargs: passed to the image processor. Raises PromptError if the processor rejects them, naming the samples.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    tokenizer.padding_side = "left"
    texts = [render(processor, sample) for sample in samples]
    images = [[part for part in sample.visuals if isinstance(part, Image.Image)] for sample in samples]
    clips = [part for sample in samples for part in sample.visuals if isinstance(part, Video)]
    given: dict[str, Any] = {}
    if any(images):
        given["images"] = images
        if images_kwargs:
            given["images_kwargs"] = dict(images_kwargs)
    if clips:
        given["videos"] = [list(clip.frames) for clip in clips]
        if _takes_metadata(processor):
            given["video_metadata"] = [_metadata(clip) for clip in clips]
            given["do_sample_frames"] = False
    start = getattr(tokenizer, "bos_token", None)
    if start and texts[0].startswith(start):
        given["add_special_tokens"] = False
    try:
        return processor(text=texts, padding=True, return_tensors="pt", **given)
    except (ValueError, TypeError, IndexError, KeyError) as error:
        hint = " Does this processor take videos? A task may offer them as images." if clips else ""
        raise PromptError(
            f"{type(processor).__name__} cannot encode samples {samples[0].id} to {samples[-1].id}: "
            f"{type(error).__name__}: {error}.{hint}"
        ) from error


def _takes_metadata(processor: Any) -> bool:
    """Whether a processor can be told the rate of a clip, on which the temporal positions of its tokens may depend."""
    takes = "video_metadata" in inspect.signature(processor.__call__).parameters
    return takes or getattr(processor, "video_processor", None) is not None


def _metadata(clip: Video) -> dict[str, Any]:
    """As transformers' `VideoMetadata`: every frame is given, none is left out."""
    count = len(clip.frames)
    return {"total_num_frames": count, "fps": clip.fps, "frames_indices": list(range(count))}
