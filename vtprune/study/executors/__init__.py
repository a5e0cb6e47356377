"""Running the cells of a study: in this process, in several, or on Ray.

Which executor ran a cell does not show in its rows: every worker sets the same number of torch threads, and a batch
never holds samples of two cells.

base       `execute`, `Outcome`                          processes  multiprocessing
work       what every executor does with a cell          ray        actors, `vtprune[ray]`
inline     in this process
"""

from vtprune.study.executors.base import WORKER, ExecutorError, Listener, Outcome, execute

__all__ = ["WORKER", "ExecutorError", "Listener", "Outcome", "execute"]
