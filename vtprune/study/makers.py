"""Which distributions made the results of a study, and how far they are the ones installed here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vtprune.core.errors import VtpruneError
from vtprune.core.plugins import GROUP, plugins, registry

SHOWN = 4
"""Of a distribution's components, how many are named."""


@dataclass(frozen=True)
class Part:
    """A component, task or adapter that acted; revision: None of an adapter."""

    kind: str
    name: str
    revision: int | None

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + ("" if self.revision is None else f" revision {self.revision}")


@dataclass(frozen=True)
class Maker:
    """One version of a distribution whose components acted."""

    distribution: str
    version: str
    parts: tuple[Part, ...]

    @property
    def is_third_party(self) -> bool:
        """Whether it is another distribution than vtprune."""
        return self.distribution != GROUP

    def __str__(self) -> str:
        more = f" and {len(self.parts) - SHOWN} more" if len(self.parts) > SHOWN else ""
        return f"{self.distribution} {self.version} ({', '.join(map(str, self.parts[:SHOWN]))}{more})"


def makers(identities: Iterable[Mapping[str, Any]]) -> tuple[Maker, ...]:
    """Who made the cells with these identities, vtprune first, then by name and version; needs no plugin."""
    found: dict[tuple[str, str], set[Part]] = {}
    for identity in identities:
        for part in _parts(identity):
            if part.get("origin") is not None:
                key = (str(part["origin"]), str(part["version"]))
                found.setdefault(key, set()).add(Part(part["kind"], part["name"], part["revision"]))
    ordered = sorted(found, key=lambda key: (key[0] != GROUP, *key))
    return tuple(Maker(*key, tuple(sorted(found[key], key=lambda part: (part.kind, part.name)))) for key in ordered)


def _parts(identity: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for kind in ("task", "adapter"):
        if isinstance(part := identity.get(kind), Mapping):
            yield {"kind": kind, **part}
    if isinstance(variant := identity.get("variant"), Mapping):
        yield from variant.get("components", ())


def missing(made_by: Iterable[Maker]) -> tuple[str, ...]:
    """A sentence for each distribution that is not installed here, does not work here, or is another version or another
    revision than the one that made results; nothing where all are as they were."""
    return tuple(text for maker in made_by if (text := _difference(maker)))


def _difference(maker: Maker) -> str:
    made = f"results were made with {maker}"
    found = [plugin for plugin in plugins() if plugin.distribution == maker.distribution]
    if not found:
        return f"{made}, which is not installed here; `pip install {maker.distribution}=={maker.version}` to go on"
    if all(plugin.state != "active" for plugin in found):
        return f"{made}; here it cannot be used: {'; '.join(map(str, found))}"
    changes = [change for part in maker.parts if (change := _change(part))]
    if found[0].version != maker.version:
        changes.insert(0, f"installed here is {maker.distribution} {found[0].version}")
    return f"{made}; {', '.join(changes)}" if changes else ""


def _change(part: Part) -> str:
    """What differs between a component as it acted and as it is here."""
    if part.name not in registry().names(part.kind):
        return f"the {part.kind} {part.name} is not there any more"
    if part.revision is None:
        return ""
    try:
        here = registry().load(part.kind, part.name).revision
    except (VtpruneError, AttributeError) as error:
        return f"the {part.kind} {part.name} cannot be loaded ({error})"
    return "" if here == part.revision else f"the {part.kind} {part.name} is revision {here} here"
