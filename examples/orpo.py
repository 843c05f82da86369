"""ORPO, in place of examples/dpo.py: accelerate launch examples/orpo.py --recipe lab

It starts from the model that the recipe's SFT stage left, or from --model PATH. Any key of the recipe can be
changed: --beta 0.05 (the keys of trl.experimental.orpo.ORPOConfig), --preference_data.max_length 4K.
"""

import sys

from ultralong_hf.training import orpo_trainer, resume_point
from ultralong_hf.training.command_line import parse_recipe, refuse_check, run


def main() -> None:
    recipe, options = parse_recipe("orpo")
    refuse_check(options, "examples/dpo.py, which splits rows in the same way, has one")
    trainer = orpo_trainer(recipe, model=options.model)
    trainer.train(resume_from_checkpoint=resume_point(trainer.args))
    trainer.save_model()


if __name__ == "__main__":
    sys.exit(run(main))
