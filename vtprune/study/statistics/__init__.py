"""Statistics of a study: intervals, paired tests, corrections.

summary      `summarise`: results -> frames       bootstrap    resampling of clusters
panel        results as arrays                    intervals    Wilson, bootstrap, constant
accuracy     per variant, type and group          paired       McNemar, sign flip, power
costs        shares of the unpruned model's       comparisons  pairs, Holm
"""

from __future__ import annotations

from vtprune.study.statistics.libraries import LIBRARIES
from vtprune.study.statistics.panel import ScoreError
from vtprune.study.statistics.summary import Summary, summarise

__all__ = ["LIBRARIES", "ScoreError", "Summary", "summarise"]
