"""Public data sets: one file each, from the folder a user downloaded to a manifest."""
