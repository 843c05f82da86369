"""Model folders that every reader loads, from any trainer of a stage."""

from __future__ import annotations

from typing import Any

from ultralong_hf.training.trainer import finish_trained_folder, merge_in_folder


class FinishesFolders:
    """Mixin of trainers: what `save_model` leaves is a whole model, merged where it has an adapter.

    `merges_adapters`: the adapter was made for this stage, and the next one starts from the merged model.
    """

    def __init__(self, *args: Any, merges_adapters: bool = False, **kwargs: Any) -> None:
        self._merges_adapters = merges_adapters
        self._use_cache = bool(getattr(kwargs["model"].config, "use_cache", True))
        super().__init__(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)  # type: ignore[misc]
        trainer: Any = self
        if trainer.args.should_save:
            folder = output_dir or str(trainer.args.output_dir)
            if self._merges_adapters:
                merge_in_folder(trainer.model, folder, state_dict)
            finish_trained_folder(folder, use_cache=self._use_cache)
