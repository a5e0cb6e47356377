from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from vtprune.core.site import Site


@pytest.mark.parametrize(
    ("text", "kind", "layers"),
    [
        ("vision.output", "vision", (0,)),
        ("projector.output", "projector", (0,)),
        ("llm.layers[2]", "llm", (2,)),
        ("llm.layers[-1]", "llm", (7,)),
        ("llm.layers[2:]", "llm", (2, 3, 4, 5, 6, 7)),
        ("llm.layers[:2]", "llm", (0, 1)),
        ("llm.layers[:]", "llm", tuple(range(8))),
        ("llm.layers[-2:]", "llm", (6, 7)),
        ("llm.layers[1:8:3]", "llm", (1, 4, 7)),
        ("llm.layers[::4]", "llm", (0, 4)),
        ("llm.layers[5,1,-3]", "llm", (1, 5)),
        ("llm.layers[0:].kv", "kv", tuple(range(8))),
        (" llm.layers[ 1, 2 ].kv ", "kv", (1, 2)),
        ("vision.layers[2]", "tower", (2,)),
        ("vision.layers[-2:]", "tower", (6, 7)),
        (" vision.layers[ 4, -6 ] ", "tower", (2, 4)),
    ],
)
def test_forms(text, kind, layers):
    site = Site.parse(text)
    assert site.kind == kind
    assert site.layers(8) == layers
    assert site.is_input == (kind in ("tower", "vision", "projector"))
    assert site.is_tower == (kind == "tower")
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected vision.output"),
        ("llm.layer[2]", "expected vision.output"),
        ("llm.layers[2].keys", "expected vision.output"),
        ("vision.layers[2].kv", "expected vision.output"),
        ("vision.layers[two]", "bad layer index 'two'"),
        ("llm.layers[2]extra", "expected vision.output"),
        ("llm.layers[]", "bad layer index ''"),
        ("llm.layers[a]", "bad layer index 'a'"),
        ("llm.layers[1.5]", "bad layer index"),
        ("llm.layers[1,]", "bad layer index"),
        ("llm.layers[1:2,4]", "bad layer index"),
        ("llm.layers[::-1]", "bad layer index"),
        ("llm.layers[1:5:0]", "step"),
        ("llm.layers[::00]", "step"),
        ("llm.layers[٣]", "bad layer index"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        Site.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("llm.layers[8]", "layer 8 is out of range; the model has layers 0 to 7"),
        ("llm.layers[-9].kv", "layer -9 is out of range"),
        ("llm.layers[1,2,30]", "layer 30 is out of range"),
        ("llm.layers[9:]", "9 is out of range"),
        ("llm.layers[:20]", "20 is out of range"),
        ("llm.layers[8:]", "names no layer"),
        ("llm.layers[5:2]", "names no layer"),
        ("vision.layers[8]", "the vision tower has layers 0 to 7"),
    ],
)
def test_layers_the_model_lacks(text, message):
    with pytest.raises(ValueError, match=message):
        Site.parse(text).layers(8)


bounds = st.none() | st.integers(-6, 6)


@given(start=bounds, stop=bounds, step=st.none() | st.integers(1, 4))
def test_slices_are_pythons(start, stop, step):
    text = ":".join("" if part is None else str(part) for part in (start, stop))
    site = Site.parse(f"llm.layers[{text}{'' if step is None else f':{step}'}]")
    expected = tuple(range(6)[start:stop:step])
    if expected:
        assert site.layers(6) == expected
    else:
        with pytest.raises(ValueError, match="names no layer"):
            site.layers(6)


class Holder(BaseModel):
    site: Site


def test_as_a_field():
    holder = Holder.model_validate({"site": "llm.layers[ 2: ].kv"})
    assert holder.site == Site("kv", "2:")
    assert holder.model_dump(mode="json") == {"site": "llm.layers[2:].kv"}
    assert Holder(site=holder.site) == holder
    with pytest.raises(ValidationError, match="a site is a string, got 2"):
        Holder.model_validate({"site": 2})
