"""The good package passes the conformance suite: what the other tests take for granted."""

from __future__ import annotations

import json

from tests.plugins.site import Site

CODE = """
import json
from vtprune.core.plugins import registry
from vtprune.testing import check_component

found = {}
for entry in registry().entries():
    if entry.origin == "acme-good" and entry.kind != "recipe":
        outcomes = check_component(registry().load(entry.kind, entry.name))
        found[entry.kind] = [outcome.status for outcome in outcomes]
print(json.dumps(found))
"""


def test_every_component_is_conformant(site: Site) -> None:
    done = site.python(CODE, packages=["good"])
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert set(found) == {"scorer", "allocator", "selector", "reducer", "task"}
    assert all(statuses.count("passed") > 10 for statuses in found.values())
    assert found["selector"].count("expected failure") == 3
    assert not {status for statuses in found.values() for status in statuses} & {"failed", "unexpected pass"}
