"""Readers: manifests, images, canvases and the training stream."""
