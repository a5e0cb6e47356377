"""Deterministic inputs of the conformance checks: layouts, signals, candidates, requests."""
