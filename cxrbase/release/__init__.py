"""What users of an encoder need: files other programs open, features, maps, probabilities, a page to try it."""
