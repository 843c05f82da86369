"""Chat with documents as long as a model's window. Nothing is imported here: readers need no torch."""
