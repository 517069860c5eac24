"""Pretrains a grid of objectives at equal compute, scores every encoder alike, and says which differences are real."""
