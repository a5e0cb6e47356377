"""Ablation studies: a grid of recipes, budgets, seeds, models and tasks, resumable, with statistics and a report.

file         the study file (YAML)               attribution  main effects and interactions of a factorial
grid         its grid of variants                statistics   intervals, paired tests, corrections
cell         one unit of work and its identity   figures      the pictures
plan         all cells, and what they cost       report       HTML, Markdown and LaTeX
worker       answering one cell's samples        store        append-only results, then Parquet
executors    inline, processes, Ray              progress     bars, a live table and a log
"""
