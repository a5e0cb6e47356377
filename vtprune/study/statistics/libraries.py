"""Importing this module first turns a missing library of the extra into an error that names the pip command."""

from __future__ import annotations

from vtprune.study.extras import require

LIBRARIES = tuple(require(library, "study") for library in ("pandas", "scipy.stats", "statsmodels.stats"))
