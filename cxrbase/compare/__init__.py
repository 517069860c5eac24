"""Pretrains a grid of objectives at equal compute, scores all encoders alike, and says which differences are real."""
