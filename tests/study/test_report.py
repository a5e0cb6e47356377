"""The report: what it holds, that it holds it safely, and that it comes out of whatever a study has so far."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vtprune.core.errors import VtpruneError
from vtprune.core.plugins import registry
from vtprune.core.registry import Registration
from vtprune.core.task import Sample, Task
from vtprune.study.cell import Cell, ModelRef, Role, Variant
from vtprune.study.figures import style
from vtprune.study.report import write_report
from vtprune.study.store import Store

TOKENS, LAYERS, SAMPLES = 64, 4, 24
HOSTILE = '<script>alert("x")</script>'


def cell(
    label: str,
    role: Role = "recipe",
    *,
    budget: float | None = 0.25,
    model: str = "testbed/nano",
    task: str = "grey",
    of: str | None = None,
    **axes: Any,
) -> Cell:
    axes = {**axes, **({} if budget is None else {"budget": budget})}
    variant = Variant(
        label, role, None if role == "full" else {"name": label, "schema_version": 1, "stages": []}, axes=axes, of=of
    )
    identity = {
        "label": label,
        "axes": axes,
        "model": {"id": model, "dtype": "auto"},
        "task": task,
        "versions": {"torch": "2.13.0"},
    }
    return Cell(ModelRef(model), {"name": task, "length": SAMPLES}, variant, SAMPLES, SAMPLES, identity, keep_indices=2)


def rows(of: Cell, skill: float, count: int = SAMPLES) -> list[Any]:
    rng = np.random.default_rng(int(of.id[:8], 16))
    budget = of.variant.axes.get("budget", 1.0)
    kept = int(TOKENS * budget)
    found = []
    for index in range(count):
        right = float(rng.random() < skill)
        by_layer = [TOKENS] + [kept] * (LAYERS - 1)
        found.append(
            {
                "cell": of.id,
                "index": index,
                "sample": f"s{index}",
                "type": ("count", "colour")[index % 2],
                "group": f"image-{index // 2}",
                "answer": "grey" if right else HOSTILE,
                "references": ["grey"],
                "score": right,
                "prompt_tokens": TOKENS + 9,
                "vision_tokens": TOKENS,
                "input_tokens": TOKENS,
                "mean_tokens": sum(by_layer) / LAYERS,
                "mean_kv_tokens": kept * 0.75,
                "kv_bytes": kept * 8,
                "kv_bytes_full": TOKENS * 8,
                "flops": 100 + kept,
                "flops_full": 100 + TOKENS,
                "new_tokens": 2,
                "tokens_by_layer": by_layer if budget < 1 else None,
                "kv_by_head": [[tokens, tokens // 2] for tokens in by_layer] if budget < 1 else None,
                "kept": sorted(rng.choice(TOKENS, kept, replace=False).tolist()) if index < 2 and budget < 1 else None,
                "kept_share": None,
                "grids": [[1, 4, TOKENS // 4]] if index < 2 else None,
                "crops": [[0.0, 0.0, 1.0, 1.0]] if index < 2 else None,
            }
        )
    return found


def fill(store: Store, of: Cell, skill: float = 0.6, count: int = SAMPLES) -> None:
    claim = store.claim(of)
    assert claim is not None
    with claim:
        time = {
            "cell": of.id,
            "chunk": 0,
            "samples": count,
            "prepare": 0.1,
            "generate": 0.5,
            "stages": [0.1],
            "device": "cpu",
            "dtype": "float32",
        }
        claim.append(rows(of, skill, count), time)  # type: ignore[arg-type]
        if count == SAMPLES:
            claim.finish()


def fail(store: Store, of: Cell, error: Exception) -> None:
    claim = store.claim(of)
    assert claim is not None
    with claim:
        claim.fail(error)


def make(folder: Path, cells: Sequence[Cell], **study: Any) -> Store:
    store = Store(folder)
    groups = {"grey": {"local": ["colour"], "global": ["count"]}}
    store.write_plan({"name": "demo", "seeds": [0], "limit": SAMPLES, "compare_to": "random", **study}, cells, groups)
    return store


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn, but their files hold next to nothing; writing them is what takes the time."""

    def save(figure: Figure, folder: Path, name: str) -> tuple[Path, ...]:
        paths = tuple(folder / f"{name}.{suffix}" for suffix in style.FORMATS)
        for path in paths:
            path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
        return paths

    monkeypatch.setattr(style, "save", save)


def demo_cells(**where: Any) -> list[Cell]:
    found = [cell("full", "full", budget=None, **where)]
    for budget in (0.125, 0.25, 0.5):
        found += [cell("random", "baseline", budget=budget, **where), cell("fastv", budget=budget, **where)]
        found.append(cell("fastv (inverted)", "control", budget=budget, of="fastv", **where))
    return found


def demo(folder: Path) -> Path:
    cells = demo_cells()
    store = make(folder, cells, description="Does attention find what matters?")
    skills = {"full": 0.9, "random": 0.4, "fastv": 0.8, "fastv (inverted)": 0.2}
    for one in cells:
        fill(store, one, skills[one.variant.label])
    return folder


class Grey(Task):
    """Grey squares."""

    length: int

    def samples(self) -> Iterator[Sample]:
        for index in range(self.length):
            yield Sample(f"s{index}", (Image.new("RGB", (64, 64), "grey"), "What is this?"), ("grey",))


class Outside(HTMLParser):
    """Collects what a page would load, and what it would run."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "data", "srcset", "poster", "action") and not (value or "").startswith(
                ("data:image/", "#")
            ):
                self.loads.append(f"{tag} {name}={value}")
            assert not name.startswith("on"), f"{tag} {name}"


def parsed(page: Path) -> Outside:
    found = Outside()
    found.feed(page.read_text(encoding="utf-8"))
    found.close()
    return found


def registered(patch: pytest.MonkeyPatch) -> None:
    """``grey`` is a registered task until the patch is undone."""
    everything = registry()
    patch.setattr(everything, "_entries", dict(everything._entries))
    patch.setattr(everything, "_loaded", dict(everything._loaded))
    everything.add(Registration("task", "grey", f"{__name__}:Grey", "grey squares", None, "vtprune", "0.0"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        registered(patch)
        return write_report(demo(tmp_path_factory.mktemp("study")))


# -- a finished study


def test_what_ran_is_said_and_not_what_was_asked_for(page: Path, cheap: None, tmp_path: Path) -> None:
    assert "dtype float32 (asked for: auto)" in page.read_text(encoding="utf-8")
    store = make(tmp_path, [cell("full", "full", budget=None)])
    assert "dtype auto (what that was is not recorded)" in write_report(store.folder).read_text(encoding="utf-8")


def test_tables_of_the_page_have_costs_and_honest_intervals(cheap: None, tmp_path: Path) -> None:
    cells = [cell("full", "full", budget=None), cell("fastv")]
    store = make(tmp_path, cells)
    for one, skill in zip(cells, (1.0, 0.0), strict=True):
        fill(store, one, skill)
    text = write_report(store.folder).read_text(encoding="utf-8")
    assert "<td>100.0 (75-100) </td>" in text
    assert "<th>tokens (%)</th><th>cache (%)</th>" in text
    assert "<td>44</td><td>19</td>" in text
    assert "A group is the mean of its types" in text


def test_the_page_loads_nothing_and_runs_nothing(page: Path) -> None:
    found = parsed(page)
    assert found.loads == []
    assert not {"script", "link", "iframe", "object", "base"} & set(found.tags)
    assert found.tags.count("img") >= 7
    assert "@import" not in page.read_text(encoding="utf-8")
    assert "url(" not in page.read_text(encoding="utf-8")


def test_every_picture_is_whole_and_beside_the_page(page: Path) -> None:
    uris = re.findall(r'src="data:image/([a-z+]+);base64,([^"]+)"', page.read_text(encoding="utf-8"))
    on_disk = {path.read_bytes() for path in (page.parent / "figures").iterdir()}
    assert len(uris) == len(list((page.parent / "figures").glob("*.pdf")))
    for kind, text in uris:
        content = base64.b64decode(text)
        assert content in on_disk
        if kind == "svg+xml":
            ElementTree.fromstring(content)
        else:
            assert content.startswith(b"\x89PNG")


def test_the_page_says_what_was_found(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for words in (
        "Study demo", "Does attention find what matters?", "10: 10 done", "torch 2.13.0", "not a predictor",
        "Pareto front", "by question type", "Vision tokens by layer", "Cached vision tokens by KV head",
        "What was kept of s0", "fastv (inverted)",
        "no difference found", "worse", "80 % power", "No cell failed", "vtprune study run", "name: demo",
    ):  # fmt: skip
        assert words in text, words
    assert "Partial." not in text
    assert "nan" not in re.sub(r'src="[^"]*"', "", text).lower().replace("nano", "")


def test_a_recipe_stands_against_its_own_controls_with_the_tokens_of_both(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    summaries = re.findall(r"<details[^>]*><summary>(.*?)</summary>(.*?)</details>", text, re.DOTALL)
    tables = {name: re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL) for name, body in summaries}
    own = next(rows for name, rows in tables.items() if "against their own controls" in name)
    others = next(rows for name, rows in tables.items() if name.startswith("Comparisons"))
    assert len(own) == 1 + 3
    assert all("fastv (inverted) budget=" in row for row in own[1:])
    assert all("better" in row for row in own[1:])
    assert "its tokens" in own[0]
    assert "its FLOPs" in others[0]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", next(row for row in others if "random budget=0.5</td>" in row))
    heads = re.findall(r"<th[^>]*>(.*?)</th>", others[0])
    found = dict(zip(heads, cells, strict=True))
    assert found["tokens"] == f"{100 * (TOKENS + 3 * TOKENS // 2) / LAYERS / TOKENS:.1f} %"
    assert found["its FLOPs"] == "100.0 %"
    assert not any('(inverted)</td><td class="text">fastv' in row for row in others)


def test_the_tables_are_beside_it(page: Path) -> None:
    assert "fastv" in (page.parent / "table.md").read_text(encoding="utf-8")
    assert r"\toprule" in (page.parent / "table.tex").read_text(encoding="utf-8")


def test_a_second_report_is_the_same_and_leaves_other_files_alone(
    tmp_path: Path, cheap: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(monkeypatch)
    page = write_report(demo(tmp_path / "study"))
    figures = page.parent / "figures"
    before = {path.name: path.read_bytes() for path in [page, *figures.iterdir()]}
    (figures / "1-stale-curve.png").write_bytes(b"of an earlier plan")
    (figures / "mine.png").write_bytes(b"drawn by hand")
    assert write_report(tmp_path / "study") == page
    after = {path.name: path.read_bytes() for path in [page, *figures.iterdir()]}
    assert after.pop("mine.png") == b"drawn by hand"
    assert after == before


# -- what a study may look like before, or instead of, being finished


def test_markup_in_names_errors_and_answers_is_text(tmp_path: Path, cheap: None) -> None:
    cells = [cell("full", "full", budget=None), cell(HOSTILE), cell("broken")]
    store = make(
        tmp_path / "study", cells, description=HOSTILE, compare_to="full",
        refused=[{"what": HOSTILE, "reason": HOSTILE, "model": HOSTILE, "expected": False}],
    )  # fmt: skip
    fill(store, cells[0], 0.9)
    fill(store, cells[1], 0.5)
    fail(store, cells[2], RuntimeError(HOSTILE))
    text = (page := write_report(tmp_path / "study")).read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(") >= 8
    assert "script" not in parsed(page).tags


def test_an_unfinished_study_says_so_loudly(tmp_path: Path, cheap: None) -> None:
    cells = [cell("full", "full", budget=None), cell("random", "baseline"), cell("fastv"), cell("late"), cell("broken")]
    store = make(tmp_path / "study", cells)
    fill(store, cells[0], 0.9)
    fill(store, cells[1], 0.5)
    fill(store, cells[2], 0.7, count=10)
    fail(store, cells[4], ValueError("no such layer: 99"))
    text = write_report(tmp_path / "study").read_text(encoding="utf-8")
    banner = re.search(r'role="alert">(.*?)</p>', text)
    assert banner is not None
    for words in ("of 5 cells 2 are done", "1 failed", "1 have some of their samples only", "1 have not started"):
        assert words in banner[1]
    assert "ValueError: no such layer: 99" in text
    assert "the task&#39;s images cannot be had" in text  # the task is not registered here
    assert "Accuracy against" in text


def test_failed_cells_only(tmp_path: Path, cheap: None) -> None:
    cells = [cell("full", "full", budget=None), cell("fastv")]
    store = make(tmp_path / "study", cells)
    for one in cells:
        fail(store, one, OSError("no weights"))
    text = write_report(tmp_path / "study").read_text(encoding="utf-8")
    assert "No answers yet" in text
    assert text.count("OSError: no weights") >= 2
    assert "<img" not in text


def test_a_single_variant(tmp_path: Path, cheap: None) -> None:
    cells = [cell("fastv", model="llava-hf/llava-1.5-7b-hf")]
    fill(make(tmp_path / "study", cells), cells[0])
    text = write_report(tmp_path / "study").read_text(encoding="utf-8")
    assert "Accuracy against" in text
    assert "not a predictor" not in text


def test_each_model_and_task_has_a_section_and_a_factorial_its_effects(tmp_path: Path, cheap: None) -> None:
    cells = [cell("full", "full", budget=None, model="a/b"), cell("full", "full", budget=None, task="other")]
    for scorer in ("attention", "key_norm"):
        cells += [cell("factorial", scorer=scorer, selector=selector, model="a/b") for selector in ("top_k", "dpp")]
    store = make(tmp_path / "study", cells)
    for place, one in enumerate(cells):
        fill(store, one, 0.2 + 0.1 * place)
    text = write_report(tmp_path / "study").read_text(encoding="utf-8")
    assert re.findall(r'<h2 id="part-\d">(.*?)</h2>', text) == ["a/b / grey", "testbed/nano / other"]
    for words in (
        "<b>Main effects.",
        "<b>Interaction of scorer and selector.",
        ">scorer x selector<",
        "Share of the variance",
    ):
        assert text.count(words) == 1, words


def test_a_folder_that_holds_no_study(tmp_path: Path) -> None:
    with pytest.raises(VtpruneError, match="no study"):
        write_report(tmp_path)
    make(tmp_path / "study", [])
    with pytest.raises(VtpruneError, match="no cells"):
        write_report(tmp_path / "study")
