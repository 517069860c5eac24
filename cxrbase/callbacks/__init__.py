"""Callbacks that run during training: counting, probing, drawing, recording."""
