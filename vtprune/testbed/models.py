"""The trained miniature models of the testbed, by name; others that `training.testbed` made, by folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vtprune.core.errors import LoadError, UnknownNameError, did_you_mean

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

WEIGHTS: Final = Path(__file__).parent / "weights"
_FILES: Final = ("config.json", "model.safetensors", "tokenizer.json", "processor_config.json")


def names() -> list[str]:
    """The models that `load` knows, sorted: one folder of `weights/` each."""
    return sorted(path.parent.name for path in WEIGHTS.glob("*/config.json"))


def folder(name: str) -> Path:
    """The folder of a model: configuration, weights, tokenizer, processor, model card. Transformers can load it.

    Raises:
        UnknownNameError: if there is no model of that name.
    """
    if name not in names():
        hint = f" The folder of that name is loaded as './{name}'." if Path(name).is_dir() else ""
        raise UnknownNameError(f"the testbed has no model {name!r}.{did_you_mean(name, names())}{hint}")
    return WEIGHTS / name


def load(name: str | Path = "nano", dtype: torch.dtype | None = None) -> tuple[PreTrainedModel, Any]:
    """A trained model (on the CPU, in evaluation mode, without gradients) and its processor.

    name: one of `names()`, or a folder that `training.testbed.export` wrote, as a `Path` or a string with a path
    separator (``"runs/mini/mini"``, ``"./mini"``). dtype: float32 if None; the weights are stored in bfloat16. The
    processor of ``nano`` is transformers' `LlavaProcessor`; that of ``mrope`` is
    `vtprune.testbed.processing.QwenProcessor`, which does what transformers' own does and needs no torchvision.

    Raises:
        UnknownNameError: if there is no model of that name.
        LoadError: for a folder that is not there or holds no model.
    """
    if isinstance(name, str) and not _is_path(name):
        return load_folder(folder(name), dtype)
    return load_folder(Path(name).expanduser(), dtype)


def _is_path(name: str) -> bool:
    return any(mark in name for mark in (os.sep, os.altsep) if mark) or name.startswith((".", "~"))


def _check(where: Path) -> None:
    """Raise LoadError, with what to do, for a folder without a model."""
    if not where.is_dir():
        what = "is a file, not a folder" if where.exists() else "does not exist"
        raise LoadError(f"model folder {where} {what}; the current directory is {Path.cwd()}")
    if missing := [name for name in _FILES if not (where / name).is_file()]:
        inner = sorted(path.parent.name for path in where.glob("*/config.json"))
        cause = (
            f"the model is in {where / inner[0]}"
            if inner
            else "it is the folder of a training run: training.testbed.export makes a model of it"
            if (where / "checkpoint.pt").is_file()
            else "expected a folder that training.testbed.export wrote"
        )
        raise LoadError(f"{where} holds no model of the testbed: {', '.join(missing)} missing; {cause}")


def load_folder(where: Path, dtype: torch.dtype | None = None) -> tuple[PreTrainedModel, Any]:
    """As `load`, from a folder like those of `weights/`.

    Raises:
        LoadError: if it is not there or holds no model.
    """
    _check(where)
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
