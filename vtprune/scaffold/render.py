"""The files of a new package, made of the templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template

from packaging.version import Version

from vtprune.scaffold.names import Names


@dataclass(frozen=True)
class Part:
    """One component of the scaffold. stage: what a recipe says beside its registered name."""

    name: str
    attribute: str
    summary: str
    stage: str = ""


PARTS = {
    "scorer": Part("head_entropy", "HeadEntropy", "attention on which the heads disagree", "power: 0.5"),
    "allocator": Part("by_size", "BySize", "images share by a power of their sizes", "power: 0.5"),
    "selector": Part("peaks", "Peaks", "the best of those that look alike, then the rest", "threshold: 0.9"),
    "reducer": Part("nearest_in_order", "NearestInOrder", "the rest goes into the nearest neighbour", "strength: 1.0"),
}
"""By kind, in the order of a recipe's stage."""
DEFAULT_KINDS = ("scorer", "selector")


def render(names: Names, kinds: Sequence[str], version: str, api: int) -> dict[str, str]:
    """Path in the package's folder to text.

    kinds: of `PARTS`, at least one; version: of vtprune, which the package then requires (see `requirement`); api:
    the plugin API that it is written for.
    """
    chosen = {kind: part for kind, part in PARTS.items() if kind in kinds}
    assert chosen
    first = next(iter(chosen.values()))
    values = {
        "distribution": names.distribution,
        "module": names.module,
        "short": names.short,
        "recipe": names.registered(names.short),
        "first": names.registered(first.name),
        "purpose": _sentence(list(chosen)),
        "requires": requirement(version),
        "api": str(api),
        "registrations": "\n".join(
            [
                _registration(kind, part.name, f"{names.module}.{kind}:{part.attribute}", part.summary)
                for kind, part in chosen.items()
            ]
            + [_registration("recipe", names.short, f"{names.module}:recipes/{names.short}.yaml", _used(chosen))]
        ),
        "stage": "\n".join(f"    {line}" for line in _stage(names, chosen)),
        "targets": "\n".join(f'    "{names.registered(part.name)}",' for part in chosen.values()),
        "table": "\n".join(
            [f"| {kind} | `{names.registered(part.name)}` | {part.summary} |" for kind, part in chosen.items()]
            + [f"| recipe | `{names.registered(names.short)}` | {_used(chosen)} |"]
        ),
    }
    sources = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        ".gitignore": "gitignore",
        f"{names.module}/__init__.py": "init.py",
        f"{names.module}/py.typed": "py.typed",
        f"{names.module}/plugin.py": "plugin.py",
        **{f"{names.module}/{kind}.py": f"{kind}.py" for kind in chosen},
        f"{names.module}/recipes/{names.short}.yaml": "recipe.yaml",
        "tests/test_conformance.py": "test_conformance.py",
        **{f"tests/test_{kind}.py": f"test_{kind}.py" for kind in chosen},
    }
    folder = files("vtprune.scaffold").joinpath("template")
    return {
        path: Template(folder.joinpath(f"{source}.template").read_text(encoding="utf-8")).substitute(values)
        for path, source in sources.items()
    }


def requirement(version: str) -> str:
    """The versions of vtprune to ask for, given the installed one: up to the next that may break a plugin.

    >>> requirement("0.1.4"), requirement("1.3.0"), requirement("0.2.0.dev1")
    ('>=0.1,<0.2', '>=1.3,<2', '>=0.2.0.dev1,<0.3')
    """
    found = Version(version)
    least = found.public if found.is_prerelease else f"{found.major}.{found.minor}"
    return f">={least},<{found.major + 1 if found.major else f'0.{found.minor + 1}'}"


def _registration(kind: str, name: str, target: str, summary: str) -> str:
    """A call of ``registrar.add``, an argument a line, so that long names need no other layout."""
    arguments = (f'"{kind}"', f'"{name}"', f'"{target}"', f'summary="{summary}"')
    return "\n".join(["    registrar.add(", *(f"        {argument}," for argument in arguments), "    )"])


def _stage(names: Names, chosen: dict[str, Part]) -> list[str]:
    """The lines of a stage that uses the components, with a scorer of vtprune where none is among them."""
    lines = [] if "scorer" in chosen else ["scorer: {name: attention, query: last}"]
    for kind, part in chosen.items():
        lines += [f"{kind}: {{name: {names.registered(part.name)}, {part.stage}}}"]
    return lines


def _used(chosen: dict[str, Part]) -> str:
    kinds = list(chosen)
    if len(kinds) == 1:
        return f"the {kinds[0]} before decoder layer 2"
    return f"the {', '.join(kinds[:-1])} and {kinds[-1]} before decoder layer 2"


def _sentence(kinds: list[str]) -> str:
    articled = [f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}" for kind in kinds]
    text = articled[0] if len(articled) == 1 else f"{', '.join(articled[:-1])} and {articled[-1]}"
    return text[0].upper() + text[1:]
