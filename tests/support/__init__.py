"""Shared test material: tiny models and the masked reference. Nothing here imports vtprune."""
