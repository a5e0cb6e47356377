"""Verification: what was shown to be right, for which model family, where and in which mode, and what was refused.

subjects   the sites and named methods that are verified
modes      the ways of calling a model; prompts, plays and special, how each is done
compare    when two runs agree; masks, what a report says was removed, as masks of the reference
cells      which combinations there are, and how one is checked
run        many cells, in several processes
ledger     the results, one JSON file for each version of transformers
folders    where ledgers lie: vtprune's, those of other packages, the user's own
index      what the library looks up in them when a recipe is bound
document   the tables of docs/verified.md

Importing this package imports neither torch nor transformers, and neither do `ledger`, `index` and `document`.
"""
