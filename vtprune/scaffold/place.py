"""Putting files into a folder: all of them, or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vtprune.core.errors import PluginError


def place(files: Mapping[str, str], folder: Path, *, force: bool = False) -> list[Path]:
    """Write ``files`` (path in the folder to text, UTF-8) and return those that replaced another.

    They are written beside the folder first and then moved, so that a failure leaves everything as it was. With
    ``force`` a folder that exists keeps its other files. Raises PluginError if it holds something and ``force`` is
    not given, if a file stands where a folder should be or the other way round, and if the parent does not exist;
    OSError from the file system.
    """
    parent = folder.parent
    if not parent.is_dir():
        raise PluginError(f"{parent} is no folder; make it first, or give another one by --into")
    if os.path.lexists(folder) and not folder.is_dir():
        raise PluginError(f"{folder} exists and is no folder; move it away, or give another NAME or --into")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise PluginError(
            f"{folder} exists and is not empty; give another NAME or --into, or --force to write into it (files of the "
            f"same names are replaced, others stay)"
        )
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=parent) as scratch:
        fresh = Path(scratch, "new")
        for path, text in files.items():
            target = fresh / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8", newline="\n")
        if not folder.is_dir():
            fresh.rename(folder)
            return []
        return _move(sorted(files), fresh, folder, Path(scratch, "old"))


def _move(paths: list[str], fresh: Path, folder: Path, aside: Path) -> list[Path]:
    """Move files into a folder that exists; what they replace goes ``aside``, and comes back if anything fails."""
    made: list[Path] = []
    placed: list[Path] = []
    replaced: list[Path] = []
    try:
        for path in paths:
            target = folder / path
            for missing in reversed([above for above in target.relative_to(folder).parents if above.name]):
                if not (folder / missing).is_dir():
                    (folder / missing).mkdir()
                    made.append(folder / missing)
            if os.path.lexists(target):
                if target.is_dir():
                    raise PluginError(f"{target} is a folder where the package has a file; move it away")
                kept = aside / path
                kept.parent.mkdir(parents=True, exist_ok=True)
                os.replace(target, kept)
                replaced.append(target)
            os.replace(fresh / path, target)
            placed.append(target)
    except BaseException:
        for target in placed:
            target.unlink()
        for target in replaced:
            shutil.move(aside / target.relative_to(folder), target)
        for directory in reversed(made):
            directory.rmdir()
        raise
    return replaced
