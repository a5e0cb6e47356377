from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict

import pytest

from vtprune.core.component import COMPONENT_KINDS
from vtprune.core.errors import PluginError, UnknownNameError
from vtprune.core.plugins import registry
from vtprune.core.recipe import Stage
from vtprune.core.registry import KINDS, STAGE_KINDS, Registration, Registry


def entry(kind: str = "scorer", name: str = "a", target: str = "json:dumps", origin: str = "acme") -> Registration:
    return Registration(kind, name, target, "a summary", None, origin, "1.2")


def test_listing():
    book = Registry()
    for kind, name in (("reducer", "z"), ("scorer", "b"), ("scorer", "a"), ("recipe", "a")):
        book.add(entry(kind, name))
    assert book.names("scorer") == ["a", "b"]
    assert book.names("adapter") == []
    assert [(e.kind, e.name) for e in book.entries()] == [
        ("scorer", "a"),
        ("scorer", "b"),
        ("reducer", "z"),
        ("recipe", "a"),
    ]
    assert [e.name for e in book.entries("scorer")] == ["a", "b"]


def test_loading_is_lazy_and_cached():
    book = Registry()
    book.add(entry(target="no_such_module:thing"))
    book.add(entry(name="b", target="json:dumps"))
    assert book.load("scorer", "b") is json.dumps
    assert book.load("scorer", "b") is json.dumps


def test_an_unknown_name_comes_with_the_nearest():
    book = Registry()
    book.add(entry(name="attention"))
    book.add(entry("selector", "attentive"))
    with pytest.raises(UnknownNameError) as caught:
        book.load("scorer", "atention")
    assert str(caught.value) == "unknown scorer 'atention'. Did you mean 'attention'? Known: attention."


@pytest.mark.parametrize(
    ("target", "cause"), [("no_such_module:thing", "ModuleNotFoundError"), ("json:no_such_thing", "AttributeError")]
)
def test_a_bad_target_names_its_owner(target, cause):
    book = Registry()
    book.add(entry(target=target))
    with pytest.raises(PluginError, match=f"scorer 'a' of acme 1.2 cannot be loaded from {target}: {cause}"):
        book.load("scorer", "a")


def test_a_clash_names_both_sides_and_the_first_stays():
    book = Registry()
    book.add(entry(target="json:dumps"))
    with pytest.raises(PluginError) as caught:
        book.add(entry(target="json:loads", origin="rival"))
    assert str(caught.value) == (
        "scorer 'a' is registered twice: by acme 1.2 (json:dumps) and by rival 1.2 (json:loads); rename one of them"
    )
    assert book.load("scorer", "a") is json.dumps


def test_one_name_may_serve_several_kinds():
    book = Registry()
    book.add(entry("scorer", target="json:dumps"))
    book.add(entry("selector", target="json:loads"))
    assert book.load("selector", "a") is json.loads


def test_merging_is_all_or_nothing():
    book, good, bad = Registry(), Registry(), Registry()
    book.add(entry(name="taken"))
    good.add(entry(name="fresh"))
    bad.add(entry(name="another"))
    bad.add(entry(name="taken"))
    book.merge(good)
    with pytest.raises(PluginError, match="registered twice"):
        book.merge(bad)
    assert book.names("scorer") == ["fresh", "taken"]


def test_name_of_a_class():
    book = Registry()
    book.add(entry(target="collections:OrderedDict"))
    assert book.name_of("scorer", OrderedDict) == "a"
    with pytest.raises(UnknownNameError, match="builtins:dict is not a registered scorer"):
        book.name_of("scorer", dict)


def test_name_of_a_class_registered_under_another_path():
    book = Registry()
    book.add(entry(target="json:JSONDecoder"))  # defined in json.decoder
    assert book.name_of("scorer", book.load("scorer", "a")) == "a"


BUILTINS = [(e.kind, e.name) for e in registry().entries() if e.origin == "vtprune" and e.kind in COMPONENT_KINDS]


@pytest.mark.parametrize(("kind", "name"), BUILTINS)
def test_every_built_in_component_is_what_it_says(kind, name):
    found = registry().load(kind, name)
    assert issubclass(found, COMPONENT_KINDS[kind])
    assert registry().name_of(kind, found) == name
    assert found.__doc__


def test_every_built_in_has_a_summary():
    for each in registry().entries():
        assert each.kind in KINDS
        assert each.summary


def test_listing_imports_neither_torch_nor_transformers():
    script = (
        "import sys; from vtprune.core.plugins import registry; names = registry().names('scorer'); "
        "print(len(names) > 5, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.split() == ["True", "False", "False"]


def test_the_kinds_of_a_stage_are_its_fields_and_the_classes_of_components() -> None:
    assert STAGE_KINDS == tuple(COMPONENT_KINDS) == tuple(name for name in Stage.model_fields if name in KINDS)
