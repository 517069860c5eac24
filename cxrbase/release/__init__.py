"""Tools for users of an encoder: exports, features, maps, probabilities, and a demo page."""
