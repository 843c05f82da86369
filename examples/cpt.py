"""Continued pretraining by a recipe: accelerate launch examples/cpt.py --recipe lab

Any key of the recipe can be changed: --learning_rate 1e-5 (the keys of trl.SFTConfig),
--data.target_length 8K.
Run the same command again after an interruption: it goes on from the last whole checkpoint.
"""

import sys

from ultralong_hf.training import cpt_trainer, resume_point
from ultralong_hf.training.command_line import parse_recipe, run


def main() -> None:
    recipe, options = parse_recipe("cpt")
    trainer = cpt_trainer(recipe, model=options.model)
    trainer.train(resume_from_checkpoint=resume_point(trainer.args))
    trainer.save_model()


if __name__ == "__main__":
    sys.exit(run(main))
