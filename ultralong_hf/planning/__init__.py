"""What a recipe or a model needs before it is trained: memory, work, time, and the options to choose."""

from ultralong_hf.planning.plan import Plan
from ultralong_hf.planning.planner import plan

__all__ = ["Plan", "plan"]
