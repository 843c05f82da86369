"""One reader a format: `read(data: bytes, limits) -> Reading`. They run in a process of their own."""
