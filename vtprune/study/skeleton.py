"""A model without its weights: enough to check recipes against it and to count what it would cost."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtprune.core.errors import LoadError, VtpruneError, first_line
from vtprune.loading import TESTBED, require_adapter
from vtprune.study.cell import ModelRef
from vtprune.study.identity import folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@lru_cache(maxsize=4)
def skeleton(ref: ModelRef) -> tuple[PreTrainedModel, Any]:
    """The model with its parameters on PyTorch's meta device, and its processor. (Testbed models are so small that they
    come whole.) Of a Hub id only the configuration and the processor are fetched.

    Raises LoadError if there is no such model here or on the Hub, UnsupportedModelError if no adapter knows it.
    """
    if ref.id.startswith(TESTBED):
        from vtprune.testbed.models import load

        return load(ref.id.removeprefix(TESTBED))
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    where: str | Path = folder(ref) or ref.id
    version = {} if isinstance(where, Path) or ref.revision is None else {"revision": ref.revision}
    options = {} if ref.attn is None else {"attn_implementation": ref.attn}
    try:
        config = AutoConfig.from_pretrained(where, **version)
        require_adapter(config)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, **options)
        return model.eval(), AutoProcessor.from_pretrained(where, **version)
    except VtpruneError:
        raise
    except Exception as error:
        raise LoadError(first_line(error)) from error
