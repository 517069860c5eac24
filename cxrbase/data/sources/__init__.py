"""Public data sets, one module each: from the downloaded folder to a manifest."""
