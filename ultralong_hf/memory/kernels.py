"""Liger's Triton kernels for RoPE, RMSNorm and SwiGLU, put into a loaded model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ultralong_hf.errors import KernelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def apply_liger_kernels(model: PreTrainedModel) -> None:
    """Replaces the layers' RoPE, norms and MLPs by Liger's; same mathematics, less memory for activations.

    Liger's cross-entropy is left out: it replaces the model's forward, which TRL's fused LM head needs.
    Raises KernelError, with the model untouched, where there is no GPU, no liger-kernel, or no kernel for
    the model's family.
    """
    import torch

    off = "Set model.liger_kernels to false; training then takes more memory and gives the same result."
    if not (torch.cuda.is_available() or torch.xpu.is_available()):
        raise KernelError(f"Liger's kernels need a GPU, and torch sees none here. {off}")
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except ImportError as error:  # liger-kernel itself, or the triton that it needs
        raise KernelError(
            f"Liger's kernels cannot be imported: {error}. "
            f'Install them with pip install "ultralong-hf[gpu]". {off}'
        ) from error

    family = model.config.model_type
    if family not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise KernelError(f"liger-kernel has no kernels for models of type {family!r}. {off}")
    _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
