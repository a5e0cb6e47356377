"""Models and pictures by name: what the command line and studies load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtprune.core.errors import VtpruneError

if TYPE_CHECKING:
    import torch
    from PIL import Image

TESTBED = "testbed/"
DTYPES = ("auto", "float32", "bfloat16", "float16")


class LoadError(VtpruneError):
    """A model, device or picture that cannot be loaded."""


def pick_device(name: str) -> torch.device:
    """The device of that name, or the fastest one present for ``auto``; raises LoadError if there is none such."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise LoadError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:0, ...") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LoadError(f"device {name!r} is not here: PyTorch sees {torch.cuda.device_count()} CUDA devices; use cpu")
    return device


def load_model(
    name: str | None, dtype: str, device: torch.device, attn: str | None, revision: str | None = None
) -> tuple[Any, Any]:
    """Model (in evaluation mode, on ``device``) and processor; ``name`` None means the embedded default.

    name: ``testbed/NAME`` (a trained miniature model that comes with vtprune), a Hub id or a local directory. revision:
    of a Hub id. dtype: one of `DTYPES`. attn: an attention implementation of transformers.
    Raises LoadError with the likely causes if loading fails.
    """
    import torch

    if name is None or name.startswith(TESTBED):
        from vtprune import testbed

        model, processor = testbed.load_default() if name is None else testbed.load(name.removeprefix(TESTBED))
        if attn is not None:
            _set_attention(model, attn)
        model.to(device=device, dtype=None if dtype == "auto" else getattr(torch, dtype))
        return model, processor
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from vtprune.inspection import require_adapter

    local = Path(name).expanduser()
    if name.startswith((".", "/", "~")) and not local.is_dir():
        raise LoadError(f"model directory {name} does not exist")
    where = str(local) if local.is_dir() else name
    options = {} if attn is None else {"attn_implementation": attn}
    version = {} if revision is None else {"revision": revision}
    try:
        require_adapter(AutoConfig.from_pretrained(where, **version))  # before gigabytes are fetched
        processor = AutoProcessor.from_pretrained(where, **version)
        model = AutoModelForImageTextToText.from_pretrained(where, dtype=dtype, **options, **version)
        return model.to(device).eval(), processor
    except VtpruneError:
        raise
    except Exception as error:
        causes = (
            "the directory holds no complete checkpoint with its processor, or not of an image-text-to-text model"
            if local.is_dir()
            else "the id is wrong, the model is private or gated, this machine is offline, or it is not an "
            "image-text-to-text model"
        )
        raise LoadError(f"model {name!r} cannot be loaded; likely causes: {causes}. {_first_line(error)}") from error


def _set_attention(model: Any, attn: str) -> None:
    try:
        model.set_attn_implementation(attn)
    except (ValueError, ImportError) as error:
        raise LoadError(f"attention {attn!r} cannot be used: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def open_image(path: Path) -> Image.Image:
    """An RGB picture, upright; raises LoadError for a missing or unreadable file."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise LoadError(f"image {path} does not exist; the current directory is {Path.cwd()}") from None
    except UnidentifiedImageError:
        raise LoadError(f"image {path} cannot be read: it is not a picture in a format that Pillow knows") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise LoadError(f"image {path} cannot be read: {error}; the file may be damaged") from error
