"""The conformance suite of adapters: what a family's declaration has to keep, tried on a tiny model of the family.

`run.check_adapter` runs it; `subject` says what a tiny model has to bring; `trial.Trial` is an adapter at work on one,
and shares between checks what is costly. The checks are in `declaration` (paths, names), `boundary` (images and
tokens), `order`, `rows` (from tokens back to patches), `geometry`, `signals`, `keeping` and `removal` (everything, and
half of it), `lengths` (caches, positions), `sharing` and `context` (what is left behind).
"""
