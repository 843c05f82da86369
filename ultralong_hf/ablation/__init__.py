"""Ablations: the recipe with one part changed at a time, over several seeds; the lab's, or one of yours."""

from ultralong_hf.ablation.running import plan_ablation, run_ablation

__all__ = ["plan_ablation", "run_ablation"]
