"""The standard side: short benchmarks by lm-eval, so that what a longer window costs is seen."""

from __future__ import annotations

from ultralong_hf.evaluation.standard.measure import SELECTORS, StandardMeasure, standard_measures
from ultralong_hf.evaluation.standard.retention import Retention, retention

__all__ = ["SELECTORS", "Retention", "StandardMeasure", "retention", "standard_measures"]
