"""Preference training, after examples/sft.py: accelerate launch examples/dpo.py --recipe lab

It starts from the model that the recipe's SFT stage left, or from --model PATH. Any key of the recipe can be
changed: --beta 0.05 (the keys of trl.DPOConfig), --preference_data.max_length 4K.
With --check-parallel it trains nothing: it compares one short step of this launch with one process.
"""

import sys

from ultralong_hf.training import preference_trainer, resume_point
from ultralong_hf.training.command_line import check_set_up, parse_recipe, run


def main() -> None:
    recipe, options = parse_recipe("preference")
    if options.check_parallel:
        return check_set_up(preference_trainer, recipe, options)
    trainer = preference_trainer(recipe, model=options.model)
    trainer.train(resume_from_checkpoint=resume_point(trainer.args))
    trainer.save_model()


if __name__ == "__main__":
    sys.exit(run(main))
