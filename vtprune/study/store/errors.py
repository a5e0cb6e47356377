"""What can go wrong with a study folder."""

from __future__ import annotations

from vtprune.core.errors import VtpruneError


class StoreError(VtpruneError):
    """The folder cannot be used or written (a full disk, another study's folder): the run has to stop."""


class DamagedError(VtpruneError):
    """A cell's file was changed by something other than the store: this cell cannot go on, others can."""


class RowError(VtpruneError, ValueError):
    """A worker handed over rows that are no results: a missing column, a wrong index, a score that is not a number."""
