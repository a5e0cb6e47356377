"""From the user's words and pictures to the model's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vtprune.cli.console import CliError, note

if TYPE_CHECKING:
    from PIL import Image

QUESTION = "What is in the picture?"


def placeholder(processor: Any) -> str | None:
    """The text that stands for an image in a prompt, or None if the processor does not say."""
    token = getattr(processor, "image_token", None)
    return token if isinstance(token, str) else None


def count_placeholders(processor: Any, prompt: str | None) -> int:
    """How many images the prompt already asks for."""
    token = placeholder(processor)
    return prompt.count(token) if prompt and token else 0


def complete_prompt(processor: Any, prompt: str | None, images: int) -> str:
    """The prompt with a placeholder for each image; adding them is said on stderr.

    A prompt without any goes through the processor's chat template or, if it has none, gets the placeholders put in
    front. Raises CliError if the prompt has placeholders, but not as many as there are images.
    """
    token = placeholder(processor)
    present = count_placeholders(processor, prompt)
    if prompt is not None and present == images:
        return prompt
    if present:
        raise CliError(f"the prompt has {present} placeholders {token!r}, but there are {images} images")
    question = QUESTION if prompt is None else prompt
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        how = "through the processor's chat template"
    elif token is not None:
        text, how = f"{token}\n" * images + question, f"as {token!r} in front"
    else:
        raise CliError(
            f"the prompt has no image placeholder, and {type(processor).__name__} has neither a chat template nor an "
            f"image_token to add one; write the model's own placeholder into --prompt"
        )
    note(f"placeholders for {images} image{'s' if images != 1 else ''} were added {how}: {text!r}")
    return text


def encode(processor: Any, text: str, images: Sequence[Image.Image], model: Any) -> Any:
    """The inputs of ``model.generate`` for one prompt: ``input_ids`` ``[1, token]``, pixels and so on, on the model's
    device and in its dtype. Raises CliError if the processor rejects the prompt or the images."""
    start = getattr(getattr(processor, "tokenizer", None), "bos_token", None)
    options = {"add_special_tokens": False} if start and text.startswith(start) else {}
    try:
        inputs = processor(text=[text], images=list(images), return_tensors="pt", **options)
    except (ValueError, TypeError, IndexError) as error:
        raise CliError(
            f"{type(processor).__name__} cannot encode this prompt with {len(images)} images: {error}"
        ) from error
    return inputs.to(model.device, dtype=model.dtype)
