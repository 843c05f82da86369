"""A trained model -> a folder that others can load, with its card and licence; and from there to the hub."""

from ultralong_hf.publishing.release import Release, publish

__all__ = ["Release", "publish"]
