"""Putting the report together."""

from __future__ import annotations

from pathlib import Path

import jinja2

from vtprune.core.errors import VtpruneError
from vtprune.study.attribution import attribute
from vtprune.study.figures.style import FORMATS
from vtprune.study.footnotes import COST_CAPTION, COSTS
from vtprune.study.plan import Merged
from vtprune.study.report import page
from vtprune.study.report.parts import Part, parts
from vtprune.study.report.pictures import (
    Picture,
    accuracy_drafts,
    effect_drafts,
    overlay_drafts,
    retention_drafts,
    save_pictures,
)
from vtprune.study.results import Results
from vtprune.study.statistics import summarise
from vtprune.study.store import Store
from vtprune.study.tables import Sheet, escape_markdown, make_sheets, to_latex, to_markdown

PAGE = "index.html"


def write(folder: Path) -> Path:
    """See `vtprune.study.report.write_report`."""
    results = Results.load(folder)
    if results.cells.empty:
        raise VtpruneError(f"the plan of {folder} has no cells, so there is nothing to report; plan the study again")
    cells = {cell.id: cell for cell in Store(folder).cells()}
    where = folder / "report"
    (where / "figures").mkdir(parents=True, exist_ok=True)
    for old in (where / "figures").glob("[0-9]*-*"):  # an earlier report's; a file named otherwise is somebody's own
        if old.suffix.removeprefix(".") in FORMATS:
            old.unlink()

    summary = summarise(results, compare_to=compare_to(results))
    attribution = attribute(results)
    notes = [
        *results.missing,
        *results.study.get("notes", ()),
        *(str(Merged(**one)) for one in results.study.get("merged", ())),
    ]
    if results.study.get("factorial") or not attribution.effects.empty:
        notes += attribution.notes
    sheets = {columns: make_sheets(summary, columns) for columns in ("budget", "group")}
    sections = []
    for place, part in enumerate(parts(results, summary, attribution)):
        pictures: dict[str, list[Picture]] = {}
        for heading, drafts in (
            ("Accuracy", accuracy_drafts(part, notes)),
            ("Where tokens and time go", retention_drafts(part)),
            ("Attribution", effect_drafts(part)),
            ("What was kept", overlay_drafts(part, cells, notes)),
        ):
            pictures[heading] = save_pictures(drafts, where / "figures", f"{place + 1}-{part.model}-{part.task}")
        sections.append(page.Section(part, _sheets(sheets, part, place), pictures))

    text = render(results, sections, notes)
    (where / "table.md").write_text(to_markdown(summary) + made_with(results), encoding="utf-8")
    (where / "table.tex").write_text(to_latex(summary), encoding="utf-8")
    (where / PAGE).write_text(text, encoding="utf-8")
    return where / PAGE


def compare_to(results: Results) -> str | None:
    """The study's named reference, or None if no cell is labelled so (every one was refused, or merged)."""
    label = results.study.get("compare_to")
    return label if label in set(results.cells["label"]) else None


def made_with(results: Results) -> str:
    """A paragraph of Markdown on the plugins behind the results, or nothing."""
    lines = [f"Made with {maker}." for maker in page.plugins(results)]
    lines += [f"Note: {sentence}." for sentence in results.missing]
    return "".join(f"\n{escape_markdown(line)}\n" for line in lines)


def _sheets(sheets: dict[str, list[Sheet]], part: Part, place: int) -> tuple[Sheet, ...]:
    by_budget, by_group = sheets["budget"][place], sheets["group"][place]
    assert by_budget.title == by_group.title == part.title
    return (by_budget, by_group) if len(by_group.columns) > 2 else (by_budget,)


def render(results: Results, sections: list[page.Section], notes: list[str]) -> str:
    """The page; every value is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vtprune.study.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = page.data_uri
    study = results.study
    failures = results.cells[results.cells["status"] == "failed"]
    models = dict.fromkeys(results.cells["model"])
    return environment.get_template("report.html.j2").render(
        title=f"Study {study.get('name', '')}",
        description=study.get("description", ""),
        unfinished=page.unfinished(results.cells),
        testbed=page.TESTBED_NOTE if any(str(model).startswith(page.TESTBED) for model in models) else "",
        facts=page.facts(results),
        sections=sections,
        cost_columns=tuple(COSTS),
        cost_caption=COST_CAPTION,
        notes=list(dict.fromkeys(notes)),
        refused=study.get("refused", []),
        failures=failures.reset_index().to_dict("records"),
        study=page.study_text(study),
    )
