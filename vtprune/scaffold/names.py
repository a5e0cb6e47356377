"""What a new package is called: the distribution, its module, the names that it registers."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from vtprune.core.errors import PluginError

PEP_508 = re.compile(r"[A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9]", re.IGNORECASE)
PREFIX = "vtprune-"
TAKEN = frozenset({"vtprune", "tests", "test", "src", "docs", "examples", "site", "conftest"})
"""Modules that would clash with vtprune, or with folders of the new package."""
LONGEST = 40
"""Letters of a name; the lines of the templates hold that many."""


@dataclass(frozen=True)
class Names:
    """distribution: canonical (PEP 503), what `pip install` takes and the prefix of the registered names. module: the
    package that is imported."""

    distribution: str
    module: str

    @property
    def short(self) -> str:
        """Of the recipe and the entry point: ``entropy`` of ``vtprune-entropy``; the module where that is no name that
        can be registered (``3d``)."""
        short = self.distribution.removeprefix(PREFIX)
        return short if short.replace("-", "_").isidentifier() else self.module

    def registered(self, name: str) -> str:
        """The full name of something that the package registers."""
        return f"{self.distribution}/{name}"


def canonical(name: str) -> str:
    """The canonical form of a distribution's name (PEP 503): ``Acme_Tools`` is ``acme-tools``.

    Raises PluginError for a name that no index takes, and for vtprune's own.
    """
    if not PEP_508.fullmatch(name):
        raise PluginError(
            f"{name!r} is no name of a distribution: letters, digits, '-', '_' and '.', a letter or digit first and "
            f"last (PEP 508), e.g. {_letters(name) or 'vtprune-entropy'!r}"
        )
    found = re.sub(r"[-_.]+", "-", name).lower()
    if len(found) > LONGEST:
        raise PluginError(f"{found!r} has {len(found)} letters; {LONGEST} at most")
    if found == "vtprune":
        raise PluginError("'vtprune' is vtprune itself; a plugin has a name of its own, e.g. 'vtprune-entropy'")
    return found


def resolve(name: str, module: str | None = None, home: Path | None = None) -> Names:
    """The names of a new package.

    name: of the distribution. module: of the package to import; by default the name with underscores. home: the
    package's folder if it is being written again; an installed module or distribution of that name may come from it.
    Raises PluginError, with the reason, for a name that no index takes, that is no Python module or that is taken.
    """
    distribution_name = canonical(name)
    _is_free(distribution_name, home)
    package = distribution_name.replace("-", "_") if module is None else module
    _is_module(package, home, chosen=module is not None)
    return Names(distribution_name, package)


def _is_module(module: str, home: Path | None, *, chosen: bool) -> None:
    """Raise PluginError if a package cannot be called ``module``."""
    elsewhere = "another one" if chosen else "--package MODULE, or another NAME"
    if not module.isidentifier() or not module.isascii():
        raise PluginError(f"{module!r} cannot be imported, for it is no Python identifier; give {elsewhere}")
    if keyword.iskeyword(module):
        raise PluginError(f"{module!r} is a word of Python itself; give {elsewhere}")
    if module in TAKEN or module in sys.stdlib_module_names:
        whose = "Python's standard library" if module in sys.stdlib_module_names else "vtprune or the new package"
        raise PluginError(f"the module name {module!r} is used by {whose}; give {elsewhere}")
    if len(module) > LONGEST:
        raise PluginError(f"{module!r} has {len(module)} letters; {LONGEST} at most")
    try:
        found = importlib.util.find_spec(module)
    except ValueError:  # a module without a spec, such as __main__
        found = None
    if found is None or not found.origin:
        return  # nothing, or a mere folder in the path, which a package goes before
    if home is None or not Path(found.origin).resolve().is_relative_to(home.resolve()):
        raise PluginError(f"a module {module!r} is already installed ({found.origin}); give {elsewhere}")


def _is_free(name: str, home: Path | None) -> None:
    """Raise PluginError if another distribution of that name is installed."""
    try:
        there = distribution(name)
    except PackageNotFoundError:
        return
    direct = there.read_text("direct_url.json") or ""
    if home is not None and home.resolve().as_uri() in direct:
        return
    raise PluginError(
        f"a distribution {name!r} is already installed ({there.version}), and its names would be yours; give another "
        f"NAME, or uninstall it"
    )


def _letters(name: str) -> str:
    """What is left of a bad name that would be a good one."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
