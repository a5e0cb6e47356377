"""Hypothesis strategies for everything that a component may be handed."""
