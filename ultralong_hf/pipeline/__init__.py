"""A recipe from documents to a checked release: its stages in order, each done once, and resumed."""

from ultralong_hf.pipeline.run import Run, open_run
from ultralong_hf.pipeline.running import run_pipeline
from ultralong_hf.pipeline.states import StageState, survey

__all__ = ["Run", "StageState", "open_run", "run_pipeline", "survey"]
