"""Stretching RoPE to a longer window: the frequencies, the families, the config writer and what it says."""
