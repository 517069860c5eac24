"""Scores frozen features: what an encoder knows, with intervals, without any of the code that trained it."""
