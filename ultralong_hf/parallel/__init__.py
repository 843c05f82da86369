"""One sequence over many devices, in any TRL or transformers trainer."""
