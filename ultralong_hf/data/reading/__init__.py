"""Documents out of files and datasets, one at a time."""
