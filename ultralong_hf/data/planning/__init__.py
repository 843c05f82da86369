"""Which documents make which rows, from numbers alone."""
