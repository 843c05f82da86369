"""The laptop lab: tokenizer, corpus and base model, all made from a seed, without a network."""

from ultralong_hf.lab.base import base_model_path, train_base

__all__ = ["base_model_path", "train_base"]
