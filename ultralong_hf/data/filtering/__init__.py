"""Which documents are left out for what they say."""
