"""Scores frozen features, with intervals and without any of the code that trained the encoder."""
