"""TRL's SFTTrainer, with the loss by position in its evaluations and model folders that every reader loads.

Letters: `B` rows, `K` buckets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput

from ultralong_hf.evaluation.buckets import bucket_edges, sum_by_bucket
from ultralong_hf.memory.adapters import save_merged
from ultralong_hf.parallel.evaluation import let_training_wrap
from ultralong_hf.rope import finish_model_folder
from ultralong_hf.rope.folder import edit_json
from ultralong_hf.training.checkpoints import is_checkpoint
from ultralong_hf.training.shortage import ExplainsShortage


class LongContextTrainer(ExplainsShortage, SFTTrainer):
    """SFTTrainer that logs `eval_loss_256_512`, the mean loss of tokens at positions 256 to 511, and so on.

    `eval_loss` is the mean over all tokens that count, however rows are batched and devices share them;
    TRL's is a mean of batches' means. `bucket_length`: tokens of the longest sample, which the last bucket
    ends with. The losses come from the per-token log-probabilities of TRL's fused LM head, so no logits over
    the vocabulary are built for them. A model folder that it saves holds both generations of the RoPE keys;
    a checkpoint holds those of transformers 5 alone.
    """

    def __init__(self, *args: Any, bucket_length: int, merges_adapters: bool = False, **kwargs: Any) -> None:
        model = kwargs["model"]
        self._merges_adapters = merges_adapters
        self._use_cache = bool(getattr(model.config, "use_cache", True))
        super().__init__(*args, **kwargs)
        self._edges = bucket_edges(bucket_length)
        self._bucket_sums = torch.zeros(len(self._edges) - 1, 2, dtype=torch.float64)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        self._bucket_sums.zero_()
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        let_training_wrap(self)
        assert output.metrics is not None
        total, count = self._bucket_sums.sum(dim=0).tolist()
        if count:
            output.metrics[f"{metric_key_prefix}_loss"] = total / count
        for start, end, (total, count) in zip(
            self._edges, self._edges[1:], self._bucket_sums.tolist(), strict=False
        ):
            if count:
                output.metrics[f"{metric_key_prefix}_loss_{start}_{end}"] = total / count
        return output

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(self.model, torch.nn.Module)
        # of rows that hold several samples, each of which begins at 0
        positions = inputs.get("position_ids") if "cu_seq_lens_q" in inputs else None
        with _catch_outputs(self.model) as outputs:
            result = super().prediction_step(model, inputs, *args, **kwargs)
        for output in outputs:
            sums = _bucket_sums(output, self._edges, positions).to(self.accelerator.device)
            # per row, so that the rows by which accelerate fills up a last batch are left out again
            self._bucket_sums += self.accelerator.gather_for_metrics(sums).sum(dim=0).cpu()
        return result

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = output_dir or str(self.args.output_dir)
            if self._merges_adapters:
                merge_in_folder(self.model, folder, state_dict)
            finish_trained_folder(folder, use_cache=self._use_cache)


def merge_in_folder(model: Any, folder: str | Path, state_dict: dict | None) -> None:
    """The merged model in `folder`, and the adapter that was saved there in its `adapter`. Checkpoints stay.

    With an adapter beside it, transformers would read the base's folder in place of this one.
    """
    if is_checkpoint(folder):
        return
    own = Path(folder) / "adapter"
    own.mkdir(exist_ok=True)
    for path in [*Path(folder).glob("adapter_*"), Path(folder) / "README.md"]:  # PEFT's card of the adapter
        if path.is_file():
            path.replace(own / path.name)
    save_merged(model, str(folder), state_dict)


def finish_trained_folder(folder: str | Path, *, use_cache: bool) -> None:
    """Both generations of the RoPE keys, the KV cache as the model had it, no pickle. Checkpoints stay."""
    # transformers 5.23 cannot resume from a config.json with the older keys: its Trainer reads it as the
    # base class, which lacks max_position_embeddings (AttributeError in standardize_rope_params).
    if is_checkpoint(folder):
        return
    config = Path(folder) / "config.json"
    if config.is_file():  # an adapter has none
        # the Trainer turns the KV cache off while it trains; whoever loads the folder wants it as it was
        edit_json(config, lambda keys: {**keys, "use_cache": use_cache})
        finish_model_folder(folder)
    # a pickle, which nobody should have to load or trust; checkpoints keep theirs
    (Path(folder) / "training_args.bin").unlink(missing_ok=True)


@contextmanager
def _catch_outputs(model: torch.nn.Module) -> Iterator[list[FusedCausalLMOutput]]:
    """The outputs of the fused LM head during the block; DDP and FSDP call the model itself too."""
    outputs: list[FusedCausalLMOutput] = []

    def keep(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, FusedCausalLMOutput):
            outputs.append(output)

    handle = model.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()


def _bucket_sums(
    output: FusedCausalLMOutput, edges: list[int], position_ids: torch.Tensor | None = None
) -> torch.Tensor:
    """[B, K, 2]: summed losses, and tokens, of each row and bucket. A token's position is its own.

    `position_ids`: [B, S], where they do not count on through the row.
    """
    assert output.log_probs is not None
    assert output.label_mask is not None
    losses, counted = -output.log_probs.float().cpu().numpy(), output.label_mask.cpu().numpy()
    positions = np.broadcast_to(np.arange(1, losses.shape[1] + 1), losses.shape)
    if position_ids is not None:  # the loss at a place is that of the token after it
        following = torch.roll(position_ids, -1, dims=1).cpu().numpy()
        positions = following[:, : losses.shape[1]]
    rows = [
        sum_by_bucket(row[mask], place[mask], edges)
        for row, mask, place in zip(losses, counted, positions, strict=True)
    ]
    return torch.tensor(np.array(rows, dtype=np.float32)).transpose(1, 2)
