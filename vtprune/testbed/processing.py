"""A processor for Qwen2.5-VL without torchvision, which transformers' own needs for its video half.

It takes the arguments that vtprune and ordinary scripts give, and makes the tensors that
`Qwen2_5_VLForConditionalGeneration` takes. `tests/testbed/test_processing.py` compares prompts with those of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, BatchFeature, PreTrainedTokenizerFast, Qwen2VLImageProcessorPil

FPS = 2.0
Frames = Sequence[Image.Image]


class QwenProcessor:
    """Text, images and videos to a model's inputs, and tokens back to text.

    image_token, video_token: the placeholder of one visual in a text; a call repeats it once for every vision token.
    """

    def __init__(
        self, image_processor: Qwen2VLImageProcessorPil, tokenizer: PreTrainedTokenizerFast, chat_template: str
    ) -> None:
        self.image_processor, self.tokenizer, self.chat_template = image_processor, tokenizer, chat_template
        self.image_token: str = tokenizer.image_token
        self.video_token: str = tokenizer.video_token
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids([self.image_token, self.video_token])

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> QwenProcessor:
        """The processor whose files stand beside a model's weights."""
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        template = (Path(folder) / "chat_template.jinja").read_text(encoding="utf-8")
        images = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
        return cls(images, tokenizer, template)

    def __call__(
        self,
        images: Image.Image | Sequence[Image.Image] | Sequence[Sequence[Image.Image]] | None = None,
        text: str | Sequence[str] = "",
        videos: Sequence[Frames] | Sequence[Sequence[Frames]] | None = None,
        *,
        fps: float | Sequence[float] | None = None,
        video_metadata: Sequence[Any] | None = None,
        return_tensors: str = "pt",
        padding: bool | str = True,
        add_special_tokens: bool = True,
        **ignored: Any,
    ) -> BatchFeature:
        """Encode a batch.

        text: one prompt or several, with one placeholder per visual. images, videos: all of the batch in the order of
        their placeholders, or one list per prompt; a video is its frames. fps: frames per second of all videos or of
        each (2 if neither it nor ``video_metadata`` says). Frames are taken as they are, never sampled; the last one is
        repeated where the model fuses frames and they do not come out even.

        Returns ``input_ids``, ``attention_mask`` and ``mm_token_type_ids`` (0 text, 1 image, 2 video), int64
        ``[batch, token]``, padded on the left; ``pixel_values`` and ``pixel_values_videos``, float32 ``[patch, dim]``;
        ``image_grid_thw`` and ``video_grid_thw``, int64 ``[visual, 3]``; ``second_per_grid_ts``, float32 ``[video]``.

        Raises:
            ValueError: if placeholders and visuals do not match, or for another ``return_tensors`` than "pt".
            TypeError: for an option that this processor does not know.
        """
        if ignored.keys() - {"do_sample_frames", "return_mm_token_type_ids"} or ignored.get("do_sample_frames"):
            raise TypeError(
                f"QwenProcessor does not take {sorted(ignored)}; it samples no frames and resizes by itself"
            )
        if return_tensors != "pt":
            raise ValueError(f"return_tensors is {return_tensors!r}: this processor makes PyTorch tensors only ('pt')")
        texts = [text] if isinstance(text, str) else list(text)
        found: dict[str, Tensor] = {}
        if pictures := _flat(images):
            found.update(self.image_processor(pictures, return_tensors="pt"))
        if clips := _flat_videos(videos):
            found.update(self._videos(clips, _rates(fps, video_metadata, len(clips))))
        expanded = self._expand(texts, found)
        encoded = self.tokenizer(
            expanded, padding=padding, add_special_tokens=add_special_tokens, return_tensors=return_tensors
        )
        ids = encoded["input_ids"]
        kinds = (ids == self.image_token_id).long() + 2 * (ids == self.video_token_id).long()
        return BatchFeature({**encoded, "mm_token_type_ids": kinds, **found})

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        *,
        chat_template: str | None = None,
        tokenize: bool = False,
        add_generation_prompt: bool = False,
        **options: Any,
    ) -> str | list[str]:
        """The text of a conversation, or of each of several; its visuals become placeholders.

        Raises ValueError if asked to tokenize: call the processor on the text and the visuals instead.
        """
        if tokenize:
            raise ValueError("this processor does not tokenize here: pass the text and the visuals to the processor")
        template = chat_template or self.chat_template
        return self.tokenizer.apply_chat_template(
            conversation,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **options,
        )

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """As the tokenizer's."""
        return self.tokenizer.batch_decode(*args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """As the tokenizer's."""
        return self.tokenizer.decode(*args, **kwargs)

    def _videos(self, clips: Sequence[Frames], rates: Sequence[float]) -> dict[str, Tensor]:
        """Frames as images, then ``temporal_patch_size`` frames to each patch."""
        fused = self.image_processor.temporal_patch_size
        patches, grids = [], []
        for clip in clips:
            frames = [*clip, *[clip[-1]] * (-len(clip) % fused)]
            single = self.image_processor(frames, temporal_patch_size=1, return_tensors="pt")
            _, height, width = single["image_grid_thw"][0].tolist()
            time = len(frames) // fused
            patches.append(
                rearrange(
                    single["pixel_values"],
                    "(time fused place) (color pixel) -> (time place) (color fused pixel)",
                    time=time,
                    fused=fused,
                    color=3,
                )
            )
            grids.append([time, height, width])
        return {
            "pixel_values_videos": torch.cat(patches),
            "video_grid_thw": torch.tensor(grids),
            "second_per_grid_ts": torch.tensor([fused / rate for rate in rates]),
        }

    def _expand(self, texts: Sequence[str], found: Mapping[str, Tensor]) -> list[str]:
        """Each placeholder repeated once for every vision token of its visual."""
        expanded = list(texts)
        merged = self.image_processor.merge_size**2
        for token, key in ((self.image_token, "image_grid_thw"), (self.video_token, "video_grid_thw")):
            sizes = (found[key].prod(-1) // merged).tolist() if key in found else []
            asked = sum(one.count(token) for one in expanded)
            if asked != len(sizes):
                raise ValueError(f"the text has {asked} placeholders {token!r}, but {len(sizes)} visuals were given")
            rest = iter(sizes)
            for index, one in enumerate(expanded):
                first, *parts = one.split(token)
                expanded[index] = first + "".join(token * next(rest) + part for part in parts)
        return expanded


def _flat(values: Any) -> list[Any]:
    """All values of a batch in order, however they are nested."""
    if values is None:
        return []
    return [one for part in values for one in _flat(part)] if isinstance(values, list | tuple) else [values]


def _flat_videos(videos: Any) -> list[Frames]:
    if videos is None or len(videos) == 0:
        return []
    if isinstance(videos[0], Image.Image):
        return [videos]
    return [video for part in videos for video in _flat_videos(part)]


def _rates(fps: float | Sequence[float] | None, metadata: Sequence[Any] | None, count: int) -> list[float]:
    """Frames per second of each video."""
    if fps is None and metadata is not None:
        fps = [one["fps"] if isinstance(one, Mapping) else one.fps for one in _flat(metadata)]
    rates = [FPS if fps is None else fps] * count if fps is None or isinstance(fps, int | float) else list(fps)
    if len(rates) != count or not all(rate > 0 for rate in rates):
        raise ValueError(f"fps is {rates}: expected a positive number of frames per second for each of {count} videos")
    return rates
