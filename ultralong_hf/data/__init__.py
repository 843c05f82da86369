"""Documents -> tokens -> rows of the target length -> batches, and conversations -> samples."""
