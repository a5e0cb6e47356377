"""Reading source against running it: both must say the same, of every built-in and of what plugins may write."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vtprune.cli.parameters import facts, parameters_of
from vtprune.cli.source import scope
from vtprune.cli.source.adapter import read_adapter
from vtprune.cli.source.component import Fact, read_component
from vtprune.core import sources
from vtprune.core.documentation import documentation
from vtprune.core.plugins import registry
from vtprune.core.sources import UnreadableError, data_file

COMPONENTS = [entry for entry in registry().entries() if entry.kind not in ("adapter", "recipe")]
ADAPTERS = list(registry().entries("adapter"))
Write = Callable[[dict[str, str]], None]
HEAD = """
from __future__ import annotations
from typing import Annotated, Any, ClassVar, Dict, List, Literal, Optional, Union
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt
import annotated_types as at
import pydantic as p
from vtprune.plugin import Need, Scorer, ScorerSpec, Selector

SIZE = 3
SIZES = (1, SIZE)
Share = Annotated[float, Field(ge=0, le=1)]
Mode = Literal["a", "b"]

class Base(Scorer):
    \"\"\"Prose of the base.

    other: from the base.
    \"\"\"
    other: int = 1
    def score(self, signals):
        raise NotImplementedError
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules of one package or more under a folder on the import path."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def forget() -> None:
        importlib.invalidate_caches()
        sources.spec_of.cache_clear()
        scope.parsed.cache_clear()

    def written(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        forget()

    yield written
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("house", "wide", "zipped"):
            del sys.modules[name]
    forget()


@pytest.mark.parametrize("entry", COMPONENTS, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_built_in_components_are_read_as_they_run(entry) -> None:
    read, component = read_component(entry.kind, entry.target), registry().load(entry.kind, entry.name)
    prose, meanings = documentation(component)
    assert read.prose == prose
    assert list(read.parameters) == parameters_of(component, meanings)
    assert read.unread == ()
    assert read.kind == entry.kind
    assert read.expected_failures == component.expected_failures
    said = {label: text.removesuffix(" (with default parameters)") for label, text in facts(component).items()}
    told = {label: fact.value for label, fact in read.facts.items() if fact.value}
    assert told["revision"] == said["revision"]
    for label in told.keys() & said.keys():
        assert told[label] == said[label] or "no default" in said[label], label
    if "no default" not in said.get("needs", ""):
        assert told.keys() == said.keys(), "with every parameter known, everything can be told"


@pytest.mark.parametrize("entry", ADAPTERS, ids=lambda entry: entry.name)
def test_built_in_adapters_are_read_as_they_run(entry) -> None:
    read, adapter = read_adapter(entry.target), registry().load("adapter", entry.name)
    assert read.complete
    assert read.documentation
    for field in dataclasses.fields(adapter):
        value = getattr(adapter, field.name)
        if callable(value):
            assert read.fields[field.name].text, field.name
        else:
            assert read.get(field.name, "unread") == value, field.name


BODIES = {
    "plain": "size: int = 3",
    "required": "size: int\n    share: Share",
    "bounds": "size: int = Field(3, ge=1, lt=9)\n    step: float = Field(default=0.5, gt=0, multiple_of=0.5)",
    "alias with bounds": "share: Share = 0.5\n    tight: Annotated[Share, Field(gt=0.1)] = 0.5",
    "union of an alias": "share: Share | None = None\n    size: Optional[int] = None\n    both: Union[int, str] = 1",
    "constants": "size: int = SIZE\n    sizes: tuple[int, ...] = SIZES\n    low: int = Field(-SIZE, ge=-SIZE)",
    "containers": "a: List[int] = [1]\n    b: Dict[str, float] = {'x': 1.0}\n    c: tuple[Mode, ...] = ('a',)",
    "literals": "mode: Mode | None = None\n    other: Literal[1, 2] = 2\n    flag: Literal[True] = True",
    "quoted": "size: 'int | None' = None\n    scorer: 'ScorerSpec'",
    "components": "scorer: ScorerSpec\n    more: tuple[ScorerSpec, ...] = ()\n    base: Base | None = None",
    "pydantic": "a: PositiveInt = 1\n    b: NonNegativeInt = 0\n    c: FiniteFloat = 1.0\n    d: p.PositiveFloat = 1.0",
    "annotated types": "a: Annotated[int, at.Ge(1)] = 1\n    b: Annotated[tuple[int, ...], at.Len(1, 3)] = (1,)",
    "factories": "a: list[int] = Field(default_factory=list)\n    b: dict[str, int] = Field(default_factory=dict)",
    "default inside": "size: Annotated[int, Field(default=3, ge=1)]",
    "ellipsis": "size: int = Field(..., ge=1)\n    other: int = ...",
    "override": "other: int = 7\n    size: int = 1",
    "override without default": "other: float",
    "description": "size: int = Field(3, description='from the field')",
    "no fields": "size: ClassVar[int] = 3\n    _hidden: int = 1",
    "any": "thing: Any = None",
}


@pytest.mark.parametrize("case", BODIES)
def test_parameters_are_read_as_pydantic_sees_them(write: Write, case: str) -> None:
    text = f'{HEAD}\nclass Thing(Base):\n    """First.\n\n    size: how many.\n    """\n    {BODIES[case]}\n'
    write({"house/__init__.py": "", "house/things.py": text})
    read = read_component("scorer", "house.things:Thing")
    component = importlib.import_module("house.things").Thing
    prose, meanings = documentation(component)
    assert (list(read.parameters), read.prose) == (parameters_of(component, meanings), prose)


DECLARED = {
    "constant": ("return frozenset({Need('grid')})", Fact("grid")),
    "nothing": ("return frozenset()", Fact("nothing")),
    "a parameter": (
        "return frozenset({Need('attention', self.query)})",
        Fact("attention(query=last)", "frozenset({Need('attention', query)})"),
    ),
    "by keyword": ("return frozenset([Need(kind='attention', query='text', layer=2)])", None),
    "if": (
        "if self.size > 2:\n            return frozenset({Need('keys')})\n        return frozenset()",
        Fact("keys", "frozenset({Need('keys')}) if size > 2 else frozenset()"),
    ),
    "local names": (
        "one = Need('keys')\n        more = {one} | {Need('grid')}\n        return frozenset(more)",
        Fact("grid, keys"),
    ),
    "loop": ("return frozenset(Need('vision_attention', 'cls', layer) for layer in self.layers)", None),
    "and": ("return frozenset({Need('keys')} if self.size > 2 and self.query == 'text' else ())", None),
    "or": ("return frozenset({Need('keys')} if self.size > 2 or self.query == 'text' else ())", None),
    "a chain": ("return frozenset({Need('keys')} if 3 < self.size < 9 or not self.query else ())", None),
    "required parameter": ("return self.inner.needs()", Fact("", "inner.needs()")),
    "base": ("return super().needs() | {Need('keys')}", Fact("", "super().needs() | {Need('keys')}")),
    "unreadable": (
        "for one in ():\n            return frozenset({Need('keys')})\n        return frozenset()",
        Fact("", "frozenset({Need('keys')}), or frozenset()"),
    ),
}


@pytest.mark.parametrize("case", DECLARED)
def test_what_methods_return(write: Write, case: str) -> None:
    body, expected = DECLARED[case]
    fields = "query: str = 'last'\n    size: int = 3\n    layers: tuple[int, ...] = (-2, 4)"
    fields += "\n    inner: ScorerSpec" if "inner" in body else ""
    text = f"{HEAD}\nclass Thing(Base):\n    {fields}\n    def needs(self):\n        {body}\n"
    write({"house/__init__.py": "", "house/things.py": text})
    fact = read_component("scorer", "house.things:Thing").facts["needs"]
    if expected is not None:
        assert fact == expected
    else:
        assert fact.value
    if fact.value:
        component = importlib.import_module("house.things").Thing
        assert facts(component)["needs"] == f"{fact.value} (with default parameters)"


TRAP = "raise RuntimeError('this module must not be imported')\n"
THING = """
from vtprune.plugin import Scorer
class Thing(Scorer):
    'A thing.'
    size: int = 3
"""


@pytest.mark.parametrize(
    "others",
    [
        {"house/deep/thing.py": THING},
        {"house/deep/thing.py": "from .impl import Other as Thing", "house/deep/impl.py": THING + "Other = Thing"},
        {"house/deep/thing.py": "from ..impl import *", "house/impl.py": THING},
        {"house/deep/thing.py": "import house.impl\nThing = house.impl.Thing", "house/impl.py": THING},
        {"house/deep/thing.py": "import house.impl as impl\nThing = impl.Thing", "house/impl.py": THING},
        {"house/deep/thing.py": "from house import impl\nThing = impl.Thing", "house/impl.py": THING},
        {"house/deep/thing.py": "try:\n    from house.impl import Thing\nexcept ImportError:\n    Thing = None"}
        | {"house/impl.py": THING},
        {"house/deep/thing.py": "if TYPE_CHECKING:\n    from house.impl import Thing\nelse:\n    pass"}
        | {"house/impl.py": THING},
    ],
    ids=["class", "re-export", "star", "import", "import as", "module", "try", "type checking"],
)
def test_nothing_on_the_way_is_imported(write: Write, others: dict[str, str]) -> None:
    write({"house/__init__.py": TRAP, "house/deep/__init__.py": TRAP})
    write({name: f"{text}\n{TRAP}" for name, text in others.items()})
    read = read_component("scorer", "house.deep.thing:Thing")
    assert [one.name for one in read.parameters] == ["size"]
    assert read.prose == "A thing."
    assert not {name for name in sys.modules if name.partition(".")[0] == "house"}


def test_bases_come_in_the_order_of_python(write: Write) -> None:
    mixin = "from vtprune.plugin import Scorer\nclass {0}(Scorer):\n    @property\n    def granularity(self):\n"
    mixin += "        return '{0}'\n"
    write(
        {
            "house/__init__.py": TRAP,
            "house/left.py": mixin.format("Left"),
            "house/right.py": mixin.format("Right"),
            "house/thing.py": "from house.left import Left\nfrom house.right import Right\n"
            "class First(Left, Right): pass\nclass Second(Right, Left): pass\n"
            "from vtprune.plugin import Scorer\nclass Plain(Scorer): pass\nclass Diamond(Plain, Left): pass\n",
        }
    )
    for name, said in (("First", "Left"), ("Second", "Right"), ("Diamond", "Left")):
        assert read_component("scorer", f"house.thing:{name}").facts["granularity"] == Fact(said)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("{'one': 'a reason ' 'of two parts'}", {"one": "a reason of two parts"}),
        ("{'one': WHY, **MORE}", {"one": "because", "two": "too"}),
        ("{'one': why()}", {"stated as": "{'one': why()}"}),
    ],
)
def test_expected_failures(write: Write, value: str, read: dict[str, str]) -> None:
    text = f"{HEAD}\nWHY = 'because'\nMORE = {{'two': 'too'}}\nclass Thing(Base):\n    expected_failures = {value}\n"
    write({"house/__init__.py": TRAP, "house/thing.py": text})
    assert read_component("scorer", "house.thing:Thing").expected_failures == read


def test_a_base_that_cannot_be_read_is_named(write: Write) -> None:
    write({"house/__init__.py": "", "house/thing.py": f"{HEAD}\nclass Thing(make(Base), Base, gone.Away): pass"})
    read = read_component("scorer", "house.thing:Thing")
    assert read.unread == ("make(Base)", "gone.Away")
    assert [one.name for one in read.parameters] == ["other"]


UNREADABLE = {
    "no module": ("house.nowhere:Thing", "there is no module 'house.nowhere'"),
    "no package": ("nowhere_at_all.thing:Thing", "there is no module 'nowhere_at_all.thing'"),
    "no name": ("house.thing:Nobody", "house.thing does not define 'Nobody'"),
    "made by a call": ("house.thing:Made", "Made is no class statement in house.thing, but make_scorer(3)"),
    "a function": ("house.thing:make_scorer", "made by FunctionDef"),
    "a syntax error": ("house.wrong:Thing", "syntax error in line 2"),
    "a circle": ("house.circle:Thing", "imported in a circle"),
    "no source": ("_bisect:bisect", "no source"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_is_said(write: Write, case: str) -> None:
    write(
        {
            "house/__init__.py": TRAP,
            "house/thing.py": "def make_scorer(size): ...\nMade = make_scorer(3)\n",
            "house/wrong.py": "x = 1\nclass Thing(:\n",
            "house/circle.py": "from house.circle2 import Thing",
            "house/circle2.py": "from house.circle import Thing",
        }
    )
    target, message = UNREADABLE[case]
    with pytest.raises(UnreadableError) as caught:
        read_component("scorer", target)
    assert message in str(caught.value)


def test_namespace_packages_inside_one_another(write: Write) -> None:
    write({"wide/deep/down/thing.py": THING, "wide/deep/down/mine.yaml": "name: mine\n"})
    assert [one.name for one in read_component("scorer", "wide.deep.down.thing:Thing").parameters] == ["size"]
    assert data_file("wide.deep.down", "mine.yaml") == "name: mine\n"


def test_source_in_a_zip_file(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", TRAP)
        archive.writestr("zipped/thing.py", THING)
    monkeypatch.syspath_prepend(tmp_path / "all.zip")
    write({})
    assert [one.name for one in read_component("scorer", "zipped.thing:Thing").parameters] == ["size"]


def test_a_file_that_is_not_there(write: Write) -> None:
    write({"house/__init__.py": TRAP, "house/plain.py": ""})
    with pytest.raises(UnreadableError, match=r"package house has no file 'mine\.yaml' in"):
        data_file("house", "mine.yaml")
    with pytest.raises(UnreadableError, match=r"house\.plain is a module"):
        data_file("house.plain", "mine.yaml")


HELPER = """
from functools import partial
from dataclasses import replace
from vtprune.plugin import Adapter
SHARED = {"projector": "shared"}

def family(name, tower="tower", *, classes, **fields):
    "What a family shares."
    both = {"vision_tower": tower, "language_model": "lm"}
    return Adapter(name=name, architectures=classes, **{**both, **fields})

def loop(name):
    for _ in range(3):
        pass
    return make(name)

bound = partial(Adapter, language_model="lm", vision_tower="bound", placeholders={})
"""
CALLS = {
    "family('x', classes=('C',), placeholders={})": {"vision_tower": "tower", "language_model": "lm", "name": "x"},
    "family('x', 'other', classes=('C',))": {"vision_tower": "other", "architectures": ("C",)},
    "family(name='x', classes=('C',), vision_tower='own')": {"vision_tower": "own"},
    "bound(name='x')": {"vision_tower": "bound", "name": "x", "placeholders": {}, "projector": None},
    "replace(bound(name='x'), name='y')": {"name": "y"},
    "replace(FIRST, name='y', vision_tower='mine')": {"vision_tower": "mine", "name": "y", "language_model": "lm"},
    "FIRST": {"vision_tower": "bound", "name": "first"},
    "loop('x')": {},
    "family('x', classes=CLASSES)": {"architectures": ("A", "B")},
}
COMPLETE = {"loop('x')": False, "replace(bound(name='x'), name='y')": False}


@pytest.mark.parametrize("call", CALLS)
def test_adapters_made_by_helpers(write: Write, call: str) -> None:
    here = "from house.helper import *\nCLASSES = ('A', 'B')\nFIRST = bound(name='first')\n"
    write({"house/__init__.py": TRAP, "house/helper.py": HELPER, "house/mine.py": f"{here}ADAPTER = {call}\n"})
    read = read_adapter("house.mine:ADAPTER")
    assert read.complete is COMPLETE.get(call, True)
    for name, value in CALLS[call].items():
        assert read.get(name, "unread") == value, name


def test_an_adapter_that_is_no_call(write: Write) -> None:
    write({"house/__init__.py": "", "house/mine.py": "ADAPTER = MAKERS['x']\n"})
    with pytest.raises(UnreadableError, match=r"no call of Adapter or of a helper, but MAKERS\['x'\]"):
        read_adapter("house.mine:ADAPTER")
