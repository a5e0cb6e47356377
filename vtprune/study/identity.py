"""What a cell's id is the hash of: everything that acts on its results, and nothing that only names it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vtprune.core.adapter import Adapter
from vtprune.core.errors import first_line
from vtprune.core.provenance import Provenance, of_adapter, of_class, of_parts
from vtprune.core.recipe import Recipe
from vtprune.core.task import Task
from vtprune.loading import TESTBED, local_folder, pick_device
from vtprune.study.cell import ModelRef, Variant
from vtprune.study.file import is_path

PACKAGES = ("vtprune", "torch", "transformers", "tokenizers", "numpy", "pillow", "torchvision")
"""Torchvision is optional: image processors resize with it where it is installed, and with Pillow where it is not."""

COMMIT = re.compile("[0-9a-f]{40}")


def pinned(ref: ModelRef, notes: list[str]) -> ModelRef:
    """The model with the revision of a Hub id resolved to a commit, so that every worker loads the same weights.

    The commit in the local cache counts before the Hub's, so that a study goes on with the weights it began with. Where
    neither is to be had the reference stays as it is, and a sentence about it is appended to ``notes``.
    """
    if is_pinned(ref):
        return ref
    try:
        return replace(ref, revision=_commit(ref.id, ref.revision))
    except Exception as error:  # offline, private or no such model: loading it says which
        notes.append(
            f"{ref.id}: which commit revision {ref.revision or 'main'!r} is cannot be found out ({first_line(error)}), "
            f"so results are kept under that name and will be computed anew once it can; to pin it, write "
            f"{{id: {ref.id}, revision: COMMIT}} in the study file"
        )
        return ref


def is_pinned(ref: ModelRef) -> bool:
    """Whether it is a folder, a testbed model or a commit; raises as `folder` does."""
    return folder(ref) is not None or COMMIT.fullmatch(ref.revision or "") is not None


def folder(ref: ModelRef) -> Path | None:
    """Where a testbed model or a local model lies; None for a Hub id.

    Raises UnknownNameError for an unknown testbed model, LoadError for a folder that is not there.
    """
    if ref.id.startswith(TESTBED):
        from vtprune.testbed.models import folder as testbed_folder

        return testbed_folder(ref.id.removeprefix(TESTBED))
    return local_folder(ref.id)


def model_identity(ref: ModelRef) -> dict[str, Any]:
    """JSON-ready; a folder counts by its content, wherever it lies. Raises as `folder` and `pick_device` do."""
    where = folder(ref)
    return {
        "id": ref.id if where is None or ref.id.startswith(TESTBED) else None,
        "revision": (ref.revision or "main") if where is None else None,
        "weights": None if where is None else fingerprint(where),
        "dtype": ref.dtype,
        "attn": ref.attn,
        "device": pick_device(ref.device).type,
    }


def task_identity(task: Task, plain: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-ready; plain: the task's `dump`. What lies at a path counts by the task's fingerprint, wherever it lies."""
    content = task.fingerprint()
    acting = {key: value for key, value in plain.items() if not (content and is_path(type(task), key))}
    return {"task": acting, "fingerprint": content, **_origin(of_class("task", type(task)))}


def variant_identity(variant: Variant) -> dict[str, Any]:
    """JSON-ready: the recipe's hash, and each of its components with origin, version and revision."""
    if variant.recipe is None:
        return {"recipe": None, "components": [], "downsample": variant.downsample}
    recipe = Recipe.parse(variant.recipe)
    return {
        "recipe": recipe.hash,
        "components": [part.to_dict() for part in of_parts(list(recipe.stages))],
        "downsample": variant.downsample,
    }


def adapter_identity(adapter: Adapter) -> dict[str, Any]:
    """JSON-ready: the adapter, if it is a third party's; empty for those of vtprune, which `settings_identity` has."""
    part = of_adapter(adapter)
    return {"adapter": _origin(part)} if part is not None and part.is_third_party else {}


def settings_identity(limit: int | None, batch_size: int, threads: int, keep_indices: int) -> dict[str, Any]:
    """JSON-ready: how a study runs its cells, and with which packages."""
    return {
        "limit": limit,
        "batch_size": batch_size,
        "threads": threads,
        "keep_indices": keep_indices,
        "versions": {package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def fingerprint(where: Path) -> str:
    """sha256 (hex) over the names and contents of a model's files: weights, configuration, tokenizer, processor.

    Prose (``.md``), hidden files and folders inside do not count. A file is read again only if its size or its time of
    change differs, so that a notebook notices new weights in the same folder.
    """
    total = hashlib.sha256()
    for path in sorted(where.resolve().iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".md":
            stat = path.stat()
            content = _content(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            total.update(f"{path.name}\0{content}\0".encode())
    return total.hexdigest()


@cache
def _content(path: Path, inode: int, size: int, changed: int) -> str:
    """sha256 (hex) of a file; inode, size and time of change (ns) tell one version of it from the next."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _commit(name: str, revision: str | None) -> str:
    """The commit of a Hub model's snapshot: the cached one, else that of its configuration, which is fetched.

    Raises whatever the download does; an error is not remembered, so the next call asks again.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    path = found if isinstance(found, str) else hf_hub_download(name, "config.json", revision=revision)
    return Path(path).parent.name


def _origin(part: Provenance) -> dict[str, Any]:
    return {key: value for key, value in part.to_dict().items() if key != "kind"}
