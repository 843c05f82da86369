"""Documents -> ids, by the fastest engine that is right, into a cache on disk."""
