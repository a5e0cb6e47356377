"""Where the source of a module lies, found without importing it or any package that it is in."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import decode_source
from pathlib import Path

from vtprune.core.errors import VtpruneError


class UnreadableError(VtpruneError):
    """Something whose source is not there, or does not say what was asked."""


@cache
def spec_of(module: str) -> ModuleSpec | None:
    """The spec that an import would find, or None.

    `importlib.util.find_spec` imports the packages around a module; here the finders are asked for one after the other,
    each in the folders of the one before.
    """
    if (loaded := sys.modules.get(module)) is not None and (known := getattr(loaded, "__spec__", None)) is not None:
        return known if isinstance(known, ModuleSpec) else None
    parent, _, tail = module.rpartition(".")
    folders: list[str] | None = None
    if parent:
        around = spec_of(parent)
        if around is None or around.submodule_search_locations is None:
            return None
        folders = list(around.submodule_search_locations)
    for finder in sys.meta_path:
        if (find_spec := getattr(finder, "find_spec", None)) is None:
            continue
        try:
            found = find_spec(module, folders)
        except KeyError:
            # A namespace package inside another one: its spec asks for the parent among the imported modules.
            return _namespace(module, [os.path.join(folder, tail) for folder in folders or ()])
        if found is not None:
            return found
    return None


def _namespace(module: str, folders: list[str]) -> ModuleSpec:
    spec = ModuleSpec(module, None, is_package=True)
    spec.submodule_search_locations = [folder for folder in folders if os.path.isdir(folder)]
    return spec


def source_of(module: str) -> tuple[str, bool]:
    """A module's source text, and whether it is a package. Raises UnreadableError if there is none."""
    spec = spec_of(module)
    if spec is None:
        raise UnreadableError(f"there is no module {module!r}")
    package = spec.submodule_search_locations is not None
    text: str | None = None
    try:
        if (get_source := getattr(spec.loader, "get_source", None)) is not None:
            text = get_source(module)
        elif spec.origin is not None and spec.origin.endswith(".py"):
            text = decode_source(Path(spec.origin).read_bytes())
    except (ImportError, OSError, UnicodeDecodeError, SyntaxError) as error:
        raise UnreadableError(f"the source of {module} cannot be read: {error}") from error
    if text is None:
        kind = "a namespace package" if spec.loader is None else spec.origin or type(spec.loader).__name__
        raise UnreadableError(f"module {module} has no source ({kind})")
    return text, package


def data_file(package: str, name: str) -> str:
    """The text of a file in a package. Raises UnreadableError if it is not there."""
    spec = spec_of(package)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if spec is None:
        raise UnreadableError(f"there is no package {package!r}")
    if not folders:
        raise UnreadableError(f"{package} is a module; a file can only be found in a package")
    for folder in folders:
        path = Path(folder, name)
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise UnreadableError(f"package {package} has no file {name!r} in {', '.join(folders)}")
