"""Where the parts of a recipe come from: what reports and results record of each component and adapter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from vtprune.core.adapter import Adapter
from vtprune.core.component import Component
from vtprune.core.errors import UnknownNameError
from vtprune.core.plugins import GROUP, registry


@dataclass(frozen=True)
class Provenance:
    """One component class, task class or adapter.

    name: the registered one, ``module:class`` of a class that nothing has registered. origin, version: the distribution
    that registered it, None if nothing has. revision: of its numbers; None of an adapter, which has none.
    """

    kind: str
    name: str
    origin: str | None
    version: str | None
    revision: int | None

    @property
    def is_third_party(self) -> bool:
        """Whether another distribution than vtprune registered it."""
        return self.origin not in (None, GROUP)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


def of_class(kind: str, cls: type[Component]) -> Provenance:
    """Where a component class comes from."""
    try:
        name = registry().name_of(kind, cls)
    except UnknownNameError:
        return Provenance(kind, f"{cls.__module__}:{cls.__qualname__}", None, None, cls.revision)
    entry = registry().entry(kind, name)
    return Provenance(kind, name, entry.origin, entry.version, cls.revision)


def of_adapter(adapter: Adapter) -> Provenance | None:
    """Where an adapter comes from; None for one that was made from a model's structure or that nothing registered."""
    if adapter.recognised or adapter.name not in registry().names("adapter"):
        return None
    entry = registry().entry("adapter", adapter.name)
    return Provenance("adapter", entry.name, entry.origin, entry.version, None)


def of_parts(node: Any) -> tuple[Provenance, ...]:
    """Where every component in ``node`` comes from, the inner ones too: sorted, each class once."""
    return tuple(sorted({of_class(part.kind, type(part)) for part in components(node)}, key=_order))


def components(node: Any) -> Iterator[Component]:
    """Every component in a stage, a component or a sequence of them, the inner ones too."""
    if isinstance(node, Component):
        yield node
    if isinstance(node, list | tuple):
        for entry in node:
            yield from components(entry)
    elif hasattr(type(node), "model_fields"):
        for name in type(node).model_fields:
            yield from components(getattr(node, name))


def distributions(parts: Iterable[Provenance]) -> dict[str, str]:
    """Name and version of every third party's distribution among ``parts``, sorted by name."""
    found = {part.origin: part.version or "unknown" for part in parts if part.is_third_party}
    return dict(sorted((name, version) for name, version in found.items() if name is not None))


def _order(part: Provenance) -> tuple[str, str]:
    return part.kind, part.name
