"""Questions whose answers are known: facts hidden in real documents among facts that look alike."""
