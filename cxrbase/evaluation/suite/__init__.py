"""Scores encoder files on tasks: features, protocols, result rows, comparisons and figures."""
