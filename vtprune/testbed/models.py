"""The trained miniature models of the testbed, by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vtprune.core.errors import UnknownNameError, did_you_mean

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

WEIGHTS: Final = Path(__file__).parent / "weights"


def names() -> list[str]:
    """The models that `load` knows, sorted: one folder of `weights/` each."""
    return sorted(path.parent.name for path in WEIGHTS.glob("*/config.json"))


def folder(name: str) -> Path:
    """The folder of a model: configuration, weights, tokenizer, processor, model card. Transformers can load it.

    Raises:
        UnknownNameError: if there is no model of that name.
    """
    if name not in names():
        raise UnknownNameError(f"the testbed has no model {name!r}.{did_you_mean(name, names())}")
    return WEIGHTS / name


def load(name: str = "nano", dtype: torch.dtype | None = None) -> tuple[PreTrainedModel, Any]:
    """A trained model (on the CPU, in evaluation mode, without gradients) and its processor.

    name: one of `names()`. dtype: float32 if None; the weights are stored in bfloat16. The processor of ``nano`` is
    transformers' `LlavaProcessor`; that of ``mrope`` is `vtprune.testbed.processing.QwenProcessor`, which does what
    transformers' own does and needs no torchvision.

    Raises:
        UnknownNameError: if there is no model of that name.
    """
    return load_folder(folder(name), dtype)


def load_folder(where: Path, dtype: torch.dtype | None = None) -> tuple[PreTrainedModel, Any]:
    """As `load`, from a folder like those of `weights/`."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    from vtprune.testbed.processing import QwenProcessor

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a model of five megabytes is there at once
    try:
        model = AutoModelForImageTextToText.from_pretrained(where, dtype=dtype or torch.float32, local_files_only=True)
    finally:
        if bars:
            logging.enable_progress_bar()
    processor: Any
    if model.config.model_type == "qwen2_5_vl":
        processor = QwenProcessor.from_pretrained(where)
    else:
        processor = AutoProcessor.from_pretrained(where, local_files_only=True)
    return model.eval().requires_grad_(False), processor
