"""A study's report: one page that needs nothing beside it, and its tables and figures as files.

parts       one model on one task       page       what the page says, as plain data
pictures    its figures and captions    report.html.j2    how it is laid out
"""

from __future__ import annotations

from pathlib import Path

from vtprune.study.extras import require


def write_report(folder: str | Path) -> Path:
    """Write ``report/`` in the folder of a study, finished or not, and return the page, ``report/index.html``.

    Beside it: ``table.md``, ``table.tex`` and ``figures/``. An earlier report is replaced. Equal results give
    equal files, whatever else the machine does; but a plugin that is missing here, or is another version, is noted.
    Raises StoreError if the folder holds no study, VtpruneError if its plan has no cells, and MissingExtraError without
    the libraries of ``vtprune[study]``.
    """
    for module in ("pandas", "scipy", "statsmodels", "matplotlib", "jinja2"):
        require(module, "study")
    from vtprune.study.report.write import write

    return write(Path(folder))
