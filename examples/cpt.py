"""Continued pretraining by a recipe: accelerate launch examples/cpt.py --recipe lab

Any key of the recipe can be changed: --learning_rate 1e-5 (the keys of trl.SFTConfig),
--data.target_length 8K.
Run the same command again after an interruption: it goes on from the last whole checkpoint.
With --check-parallel it trains nothing: it compares one short step of this launch with one process.
"""

import sys

from ultralong_hf.training import cpt_trainer, resume_point
from ultralong_hf.training.command_line import check_set_up, parse_recipe, run


def main() -> None:
    recipe, options = parse_recipe("cpt")
    if options.check_parallel:
        return check_set_up(cpt_trainer, recipe, options)
    trainer = cpt_trainer(recipe, model=options.model)
    trainer.train(resume_from_checkpoint=resume_point(trainer.args))
    trainer.save_model()


if __name__ == "__main__":
    sys.exit(run(main))
