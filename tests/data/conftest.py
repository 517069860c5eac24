"""Numerics here are small, so they take one thread."""

import pytest

import threads

one_thread = pytest.fixture(autouse=True)(threads.one_thread)
