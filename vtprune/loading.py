"""Models, configurations and pictures by name: what the command line and studies load."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtprune.core.errors import LoadError, VtpruneError, first_line

if TYPE_CHECKING:
    import torch
    from PIL import Image

TESTBED = "testbed/"
DTYPES = ("auto", "float32", "bfloat16", "float16")


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


def local_folder(name: str) -> Path | None:
    """The folder that a model's name stands for; None if it can only be a Hub id.

    Raises LoadError for what is written as a path (it begins with a dot, a slash or a tilde) and is no folder.
    """
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    if name.startswith((".", "/", "~")):
        raise LoadError(f"model directory {name} does not exist; the current directory is {Path.cwd()}")
    return None


def config_of(name: str) -> Any:
    """The configuration of a testbed model (with or without ``testbed/``), of a local folder (or the ``config.json`` in
    it), or of a Hub id.

    Raises UnknownNameError for a name after ``testbed/`` that the testbed lacks, LoadError with the likely causes for
    anything else that cannot be read.
    """
    from transformers import AutoConfig

    from vtprune.testbed.models import folder, names

    short, file = name.removeprefix(TESTBED), Path(name).expanduser()
    if name.startswith(TESTBED) or (short in names() and not file.is_dir()):
        return AutoConfig.from_pretrained(folder(short))
    local = file.parent if file.is_file() and file.name == "config.json" else local_folder(name)
    try:
        return AutoConfig.from_pretrained(str(local or name))
    except Exception as error:
        causes = (
            "the folder holds no config.json of a model that this transformers knows"
            if local
            else "the id is wrong, the model is private or gated, or this machine is offline"
        )
        raise LoadError(
            f"no configuration of {name!r} can be read; likely causes: {causes}. {first_line(error)}"
        ) from error


def without_weights(config: Any) -> Any:
    """The model of a configuration with its parameters on PyTorch's meta device.

    Raises LoadError if transformers cannot build it.
    """
    import torch
    import transformers

    named = [getattr(transformers, name, None) for name in config.architectures or ()]
    try:
        with quiet(), torch.device("meta"):
            if known := [one for one in named if isinstance(one, type)]:
                return known[0](config).eval()
            return transformers.AutoModelForImageTextToText.from_config(config).eval()
    except Exception as error:
        raise LoadError(
            f"transformers {transformers.__version__} cannot build a model from this {type(config).__name__} "
            f"(architectures: {', '.join(config.architectures or ['none named'])}): {first_line(error)}"
        ) from error


def require_adapter(config: Any) -> None:
    """Check, before any weights are fetched, that a model of this configuration can be pruned.

    Raises UnsupportedModelError with what is missing, or LoadError if transformers cannot build the model.
    """
    from vtprune.core.lookup import find_adapter, is_known, locate, tower_type

    if config.architectures and is_known(config.architectures):
        find_adapter(config.architectures, tower_type(config))
    else:
        locate(without_weights(config))


def load_model(
    name: str | None, dtype: str, device: torch.device, attn: str | None, revision: str | None = None
) -> tuple[Any, Any]:
    """Model (in evaluation mode, on ``device``) and processor; ``name`` None means the embedded default.

    name: ``testbed/NAME`` (a trained miniature model that comes with vtprune), a Hub id or a local directory. revision:
    of a Hub id. dtype: one of `DTYPES`. attn: an attention implementation of transformers.
    Raises UnknownNameError for a name after ``testbed/`` that the testbed lacks, UnsupportedModelError (before weights
    are fetched) if no adapter serves the model and its structure is not recognised either, and LoadError with the
    likely causes if loading fails otherwise.
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

    local = local_folder(name)
    where = str(local or name)
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
            if local
            else "the id is wrong, the model is private or gated, this machine is offline, or it is not an "
            "image-text-to-text model"
        )
        raise LoadError(f"model {name!r} cannot be loaded; likely causes: {causes}. {first_line(error)}") from error


def _set_attention(model: Any, attn: str) -> None:
    try:
        model.set_attn_implementation(attn)
    except (ValueError, ImportError) as error:
        raise LoadError(f"attention {attn!r} cannot be used: {first_line(error)}") from error


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


@contextmanager
def quiet() -> Iterator[None]:
    """Without what transformers and torch remark on configurations and their own deprecations: it means nothing to
    somebody who only looks at a model, or runs many of them."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
