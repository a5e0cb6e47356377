"""Frames with the same columns and types whatever is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

Row = dict[str, Any]


def frame(rows: Sequence[Row], columns: Mapping[str, type]) -> pd.DataFrame:
    """Rows as a frame; columns: name to type, and ``object`` for what may be None.

    A number that is not known is NaN; text, mappings and budgets are kept as they are, None included.
    """
    data = {
        name: pd.Series([row.get(name) for row in rows], dtype="float64" if kind is float else kind)
        for name, kind in columns.items()
    }
    return pd.DataFrame(data, columns=list(columns))


VARIANT: Mapping[str, type] = {
    "model": object,
    "task": object,
    "name": object,
    "label": object,
    "role": object,
    "of": object,
    "axes": object,
    "budget": object,
    "status": object,
    "note": object,
}
