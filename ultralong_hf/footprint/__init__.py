"""What a training step takes, from plain numbers: a model's shape, bytes by part, floating-point operations.

No torch, no files, no processes: the sizes of `parallel` and the plans of `planning` both build on it.
"""

from ultralong_hf.footprint.peak import Footprint, footprint
from ultralong_hf.footprint.setup import Setup
from ultralong_hf.footprint.shape import ModelShape, model_shape
from ultralong_hf.footprint.work import Work, step_work

__all__ = ["Footprint", "ModelShape", "Setup", "Work", "footprint", "model_shape", "step_work"]
