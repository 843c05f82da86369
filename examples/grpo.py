"""GRPO on long prompts with verifiable answers, after examples/sft.py or examples/dpo.py:

    accelerate launch examples/grpo.py --recipe lab

It starts from the model that the recipe's SFT stage left, or from --model PATH. Any key of the recipe can be
changed: --num_generations 8 --use_vllm true (the keys of trl.GRPOConfig), --grpo_data.lengths "[8K, 64K]".
"""

import sys

from ultralong_hf.training import grpo_trainer, resume_point
from ultralong_hf.training.command_line import parse_recipe, refuse_check, run


def main() -> None:
    recipe, options = parse_recipe("grpo")
    refuse_check(options, "GRPO splits no rows")
    trainer = grpo_trainer(recipe, model=options.model)
    trainer.train(resume_from_checkpoint=resume_point(trainer.args))
    trainer.save_model()


if __name__ == "__main__":
    sys.exit(run(main))
