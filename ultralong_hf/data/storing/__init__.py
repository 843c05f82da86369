"""Rows and manifest on disk, whole or absent."""
