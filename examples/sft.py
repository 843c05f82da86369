"""Fine-tuning on short conversations, after examples/cpt.py: accelerate launch examples/sft.py --recipe lab

It starts from the model that the recipe's CPT stage left, or from --model PATH. Any key of the recipe can be
changed: --learning_rate 1e-6 (the keys of trl.SFTConfig), --instruct.max_length 4K.
With --check-parallel it trains nothing: it compares one short step of this launch with one process.
"""

import sys

from ultralong_hf.training import resume_point, sft_trainer
from ultralong_hf.training.command_line import check_set_up, parse_recipe, run


def main() -> None:
    recipe, options = parse_recipe("sft")
    if options.check_parallel:
        return check_set_up(sft_trainer, recipe, options)
    trainer = sft_trainer(recipe, model=options.model)
    trainer.train(resume_from_checkpoint=resume_point(trainer.args))
    trainer.save_model()


if __name__ == "__main__":
    sys.exit(run(main))
