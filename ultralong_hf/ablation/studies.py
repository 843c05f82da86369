"""The studies: which arms each has, as changes to a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ultralong_hf.ablation.arms import Arm, Overrides, Setting, Study
from ultralong_hf.errors import AblationError
from ultralong_hf.lengths import format_length

PAPER = ("separator", "rope", "steps")
"""The studies of the paper (arXiv 2504.06214)."""
REACH_FACTORS = (16, 32, 64, 128)


def separator_study(setting: Setting) -> Study:
    """What stands between documents, and whether they see each other."""
    return Study(
        "separator",
        "Does what stands between documents matter, and whether they see each other?",
        setting.base,
        (
            Arm("no-separator", "no separator", ({"data.separator": {"kind": "none"}},)),
            Arm("bos", "BOS between documents", ({"data.separator": {"kind": "bos"}},)),
            Arm("eos", "EOS between documents", ({"data.separator": {"kind": "eos"}},)),
            Arm("masked", "documents hidden from each other", ({"data.mask_documents": True},)),
        ),
    )


def rope_study(setting: Setting) -> Study:
    """The functions that stretch RoPE, at one scale."""
    return Study(
        "rope",
        "Which function stretches RoPE best, at the same scale?",
        setting.base,
        tuple(
            Arm(key, title, ({"rope.method": key},))
            for key, title in (
                ("ntk", "NTK-aware"),
                ("linear", "linear (position interpolation)"),
                ("none", "RoPE as it was"),
            )
        ),
    )


def forms_study(setting: Setting) -> Study:
    """The two functions called YaRN, the temperature apart, each with and without training."""
    no_temperature = {"rope.method": "yarn", "rope.attention_factor": 1.0}
    return Study(
        "forms",
        "Which of the two functions called YaRN, with and without training?",
        setting.base,
        (
            Arm("yarn", "yarn: ramp over the index, temperature", ({"rope.method": "yarn"},)),
            Arm("yarn-no-temperature", "yarn without its temperature", (no_temperature,)),
            Arm("base-untrained", "llama3, untrained", ({},), trained=False),
            Arm("yarn-untrained", "yarn, untrained", ({"rope.method": "yarn"},), trained=False),
        ),
    )


def scale_study(setting: Setting) -> Study:
    """The scale factor, in multiples of what the length asks for."""
    ratio = setting.recipe.window / setting.original_length
    scales = [ratio * multiple for multiple in (0.5, 1, 2, 4, 8)]
    return Study(
        "scale",
        f"How large a scale, where the length alone asks for {ratio:g}?",
        setting.base,
        tuple(
            Arm(f"scale-{scale:g}", f"scale {scale:g}", ({"rope.scale": scale},))
            for scale in scales
            if scale >= 1 and scale != (setting.recipe.rope.scale or ratio)
        ),
    )


def steps_study(setting: Setting) -> Study:
    """One stage straight to the target against several, with the same tokens and updates in all."""
    present, target = setting.present_window, setting.recipe.window
    arms = []
    if setting.steps < 3:
        raise AblationError(f"{setting.steps} CPT steps cannot be split over several stages: use 3 or more.")
    for number, key in ((2, "two-steps"), (3, "three-steps")):
        lengths = _lengths_between(present, target, number)
        if len(lengths) == number:
            title = "{} steps: {}".format(key.split("-")[0], ", ".join(map(format_length, lengths)))
            arms.append(Arm(key, title, _split_stages(setting, lengths)))
    if not arms:
        raise AblationError(
            f"from {present:,} to {target:,} tokens there is no power of two between for a step to stop at."
        )
    return Study(
        "steps", "One step to the target, or several with as many tokens?", setting.base, tuple(arms)
    )


def mixture_study(setting: Setting) -> Study:
    """Up- and downsampling of documents by length, at half of and at the original length as in the paper."""
    original = setting.original_length
    by_length = {"kind": "per_source", "short_below": original // 2, "long_above": original}
    pool: dict[str, Any] = {"data.order": "shuffled", "data.keep_tail": True}

    def arm(key: str, title: str, mixture: Any) -> Arm:
        return Arm(key, title, ({**pool, "data.mixture": mixture},), documents="pool")

    base = arm(
        "mixture-by-length",
        f"short ones (below {original // 2}) downsampled, long ones (above {original}) upsampled",
        {**by_length, "short_keep": 0.1, "long_repeat": 2.0},
    )
    return Study(
        "mixture",
        "Does it matter how often short and long documents are taken?",
        base,
        (
            arm("mixture-none", "documents as they come", None),
            arm(
                "mixture-fu",
                "as Fu et al. coded it: short ones kept at 0.1",
                {"kind": "fu", "short_below": original // 2},
            ),
            arm("mixture-cut", f"cut into pieces of {original}", {"kind": "cut", "length": original}),
        ),
    )


def reach_study(setting: Setting) -> Study:
    """How far one step goes: each factor with the headroom in scale that the recipe has."""
    recipe, original = setting.recipe, setting.original_length
    headroom = (recipe.rope.scale or recipe.window / original) * original / recipe.window

    def arm(factor: int, key: str = "", title: str = "", documents: str = "rows", **changes: Any) -> Arm:
        stage = {"data.target_length": original * factor, "rope.scale": factor * headroom}
        stage |= {name.replace("__", "."): value for name, value in changes.items()}
        name = f"{factor} x: {format_length(original * factor)}" + (f", {title}" if title else "")
        return Arm(f"reach-{factor}{key}", name, (stage,), documents=documents)

    arms = [arm(factor) for factor in REACH_FACTORS]
    rate = recipe.cpt.get("learning_rate")
    arms += [
        arm(32, f"-steps-{times}x", f"{times} x the steps", cpt__max_steps=times * setting.steps)
        for times in (2, 4)
    ]
    if rate is not None:
        half = {"cpt__learning_rate": rate / 2}
        arms.append(arm(32, "-half-rate", "half the rate", **half))
        if setting.is_lab:
            arms.append(arm(32, "-sparse", "few labels", "sparse"))
            arms.append(arm(128, "-careless", "half the rate, few labels", "sparse", **half))
    return Study(
        "reach", "How far does one step go, and what does that hang on?", arms[0], tuple(arms), paired=False
    )


STUDIES: dict[str, Callable[[Setting], Study]] = {
    "separator": separator_study,
    "rope": rope_study,
    "steps": steps_study,
    "forms": forms_study,
    "scale": scale_study,
    "mixture": mixture_study,
    "reach": reach_study,
}


def _lengths_between(present: int, target: int, number: int) -> list[int]:
    """`number` lengths up to `target`, evenly spaced in their logarithm, powers of two but for the last.

    >>> _lengths_between(256, 4096, 2), _lengths_between(256, 4096, 3)
    ([1024, 4096], [512, 2048, 4096])
    """
    span = math.log2(target / present)
    inner = [2 ** round(math.log2(present) + span * step / number) for step in range(1, number)]
    return [*sorted({length for length in inner if present < length < target}), target]


def _split_stages(setting: Setting, lengths: list[int]) -> tuple[Overrides, ...]:
    """Stages of equally many steps (the last takes the rest), each step with the tokens of the recipe's."""
    recipe, target = setting.recipe, setting.recipe.window
    rows = recipe.cpt.get("per_device_train_batch_size", 8)
    each = setting.steps // len(lengths)
    stages = []
    for number, length in enumerate(lengths):
        last = number == len(lengths) - 1
        stage: dict[str, Any] = {"cpt.max_steps": setting.steps - each * (len(lengths) - 1) if last else each}
        if length != target:
            stage |= {
                "data.target_length": length,
                "rope.target_length": None,
                "cpt.per_device_train_batch_size": rows * target // length,
            }
            if recipe.rope.scale is not None:
                stage["rope.scale"] = max(1.0, recipe.rope.scale * length / target)
        stages.append(stage)
    return tuple(stages)


def build_studies(names: tuple[str, ...], setting: Setting) -> list[Study]:
    """The studies named; "paper" stands for the paper's three, "all" for all but reach.

    An arm that is the recipe as it is already is left out. Raises AblationError for unknown names.
    """
    chosen: list[str] = []
    for name in names:
        if name not in (*STUDIES, "paper", "all"):
            raise AblationError(f"{name!r} is no study. There are {', '.join([*STUDIES, 'paper', 'all'])}.")
        chosen += {"paper": PAPER, "all": [n for n in STUDIES if n != "reach"]}.get(name, [name])
    return [STUDIES[name](setting) for name in dict.fromkeys(chosen)]
