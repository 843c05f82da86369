"""Accelerate's own sequence parallelism, DeepSpeed's ALST: its settings, and when it must not be used."""

from __future__ import annotations

from accelerate import Accelerator
from accelerate.utils import DeepSpeedSequenceParallelConfig, DistributedType, ParallelismConfig

from ultralong_hf.errors import ParallelError

REASON = (
    "at ZeRO stages 0 to 2 its gradients come out as many times too large as devices share a row "
    "(DeepSpeed 0.19.8, its issue 5248); Adam hides that, clipping and SGD do not"
)


def deepspeed_config(size: int, attention: str) -> ParallelismConfig:
    """accelerate's settings for `size` devices that share a row, for `TrainingArguments`."""
    handler = DeepSpeedSequenceParallelConfig(
        sp_seq_length_is_variable=True, sp_attn_implementation="sdpa" if attention == "auto" else attention
    )
    return ParallelismConfig(sp_size=size, sp_backend="deepspeed", sp_handler=handler)


def check_deepspeed(accelerator: Accelerator, size: int) -> None:
    """Raises ParallelError unless the accelerator runs ALST over `size` devices at ZeRO stage 3."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        raise ParallelError(
            "backend deepspeed needs a launch with DeepSpeed (accelerate launch --use_deepspeed "
            "--zero_stage 3). Launch so, or use backend ulysses, which needs no DeepSpeed."
        )
    stage = accelerator.state.deepspeed_plugin.zero_stage
    if stage != 3:
        raise ParallelError(f"backend deepspeed needs ZeRO stage 3, not {stage}: {REASON}.")
    config = accelerator.parallelism_config
    if config is None or config.sp_size != size:
        told = 1 if config is None else config.sp_size
        raise ParallelError(
            f"accelerate was told sp_size {told}, and the plan says {size}. Give the trainer's arguments "
            "parallelism_config=plugin.parallelism_config()."
        )
