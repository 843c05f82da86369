"""The stages of a recipe for `accelerate launch`, wherever the package is installed.

accelerate launch -m ultralong_hf.training cpt --recipe lab [--learning_rate 1e-5] [--data.target_length 8K]

The first word is the stage: cpt, sft, preference, orpo or grpo. The options are those of the example scripts.
"""

import sys

from ultralong_hf.errors import RecipeError
from ultralong_hf.training.command_line import check_set_up, parse_recipe, refuse_check, run
from ultralong_hf.training.running import run_stage, trainer_maker


def main() -> None:
    """Trains the stage that the first word names."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise RecipeError("name the stage first: -m ultralong_hf.training cpt --recipe NAME_OR_FILE.")
    stage, words = sys.argv[1], sys.argv[2:]
    maker = trainer_maker(stage)
    recipe, options = parse_recipe(stage, words)
    if stage == "grpo":
        refuse_check(options, "its loss is that of completions which it generates itself")
    if options.check_parallel:
        return check_set_up(maker, recipe, options)
    run_stage(recipe, stage, model=options.model)


if __name__ == "__main__":
    sys.exit(run(main))
