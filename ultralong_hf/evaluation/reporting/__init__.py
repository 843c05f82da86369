"""`ultralong eval report`: run folders in, one page, Markdown, JSON and model-card metadata out."""

from ultralong_hf.evaluation.reporting.writing import write_comparison

__all__ = ["write_comparison"]
