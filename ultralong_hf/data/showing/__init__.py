"""What is in a store, or would be."""
