"""The model card: metadata for the hub, and a text that says what was done, measured and not measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ultralong_hf.evaluation.pages import Table
from ultralong_hf.evaluation.reporting.markdown import markdown_table
from ultralong_hf.publishing.checks import Weights
from ultralong_hf.publishing.licences import Licence
from ultralong_hf.publishing.provenance import Cost, Provenance

if TYPE_CHECKING:
    from ultralong_hf.evaluation.reporting.models import ModelResults

PAPER = "arXiv 2504.06214"
_TAGS = ("long-context", "ultralong", "rope")


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """Everything that a card tells."""

    name: str
    repo_id: str | None
    base: str | None
    """Hub id, or a name in words where the base is no model of the hub."""
    base_is_on_hub: bool
    window: int
    rope: dict[str, str]
    weights: Weights
    licence: str | None
    licence_name: str | None
    licence_link: str | None
    rules: tuple[Licence, ...]
    licence_found: str
    """Where the licence was read, or why it is not known; a sentence."""
    languages: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)
    has_recipe: bool = False
    merged: str | None = None
    """How the weights came about, where they were merged; a sentence."""
    hardware: str | None = None
    has_chat_template: bool = True
    serving: str = ""
    """Commands, as Markdown."""
    limits: tuple[str, ...] = ()


def card_metadata(facts: CardFacts, model: ModelResults | None) -> Any:
    """huggingface_hub's ModelCardData. Keys that nothing is known for are left out."""
    from huggingface_hub import ModelCardData

    from ultralong_hf.evaluation.reporting.model_index import eval_results

    results = eval_results(model) if model is not None else []
    measured: dict[str, Any] = {"model_name": facts.name, "eval_results": results} if results else {}
    optional: dict[str, Any] = {
        "language": list(facts.languages) or None,
        "license": facts.licence,
        "license_name": facts.licence_name if facts.licence == "other" else None,
        "license_link": facts.licence_link if facts.licence == "other" else None,
        "base_model": facts.base if facts.base_is_on_hub else None,
        "base_model_relation": "finetune" if facts.base_is_on_hub else None,
        "datasets": facts.provenance.datasets or None,
    }
    return ModelCardData(
        **{key: value for key, value in optional.items() if value is not None},
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=list(_TAGS),
        **measured,
    )


def card_text(facts: CardFacts, *, results: str, safety: str | None) -> str:
    """The Markdown under the metadata. `results` and `safety`: Markdown; empty: not measured."""
    parts = [
        f"# {facts.name}",
        *(f"**{rule.display}**" for rule in facts.rules if rule.display),
        _lead(facts),
    ]
    parts += ["## Use", _use(facts), facts.serving]
    parts += ["## Recipe", _recipe(facts)]
    parts += ["## Data", _data(facts)]
    parts += ["## Results", results or "No evaluation was given to this release: nothing is claimed."]
    parts += ["## Safety", safety or "Not measured. Long contexts can weaken what a base model refuses."]
    parts += ["## Training cost", _cost(facts)]
    parts += ["## Limits", _bullets(_limits(facts))]
    parts += ["## Licence", _licence(facts)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _lead(facts: CardFacts) -> str:
    weights = facts.weights
    base = facts.base or "a base model that this release does not name"
    if facts.base_is_on_hub:
        base = f"[{base}](https://huggingface.co/{base})"
    dtypes = ", ".join(sorted(weights.dtypes))
    return (
        f"A language model that reads {facts.window:,} tokens, made from {base} by stretching its RoPE and "
        f"training on, as in UltraLong ({PAPER}); it is not one of that paper's released models. "
        f"{weights.parameters:,} parameters in {dtypes}, {_size(weights.bytes)} of safetensors."
        + (f" {facts.merged}" if facts.merged else "")
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def _use(facts: CardFacts) -> str:
    name = facts.repo_id or f"path/to/{facts.name}"
    prompt = (
        'prompt = tokenizer.apply_chat_template(\n    [{"role": "user", "content": document + question}],\n'
        '    add_generation_prompt=True, return_tensors="pt", return_dict=True,\n)'
        if facts.has_chat_template
        else 'prompt = tokenizer(document + question, return_tensors="pt")'
    )
    return (
        "It loads in plain transformers; no code of this release is run.\n\n```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n'
        f'model = AutoModelForCausalLM.from_pretrained("{name}", device_map="auto")\n'
        'document, question = open("book.txt").read(), "\\n\\nWho is named first?"\n'
        f"{prompt}\n"
        "answer = model.generate(**prompt.to(model.device), max_new_tokens=64, prefill_chunk_size=16384)\n"
        "print(tokenizer.decode(answer[0, prompt.input_ids.shape[1] :]))\n```"
    )


def _recipe(facts: CardFacts) -> str:
    parts = [markdown_table(Table(("RoPE", ""), list(facts.rope.items())))]
    parts += [
        markdown_table(Table((stage.title, ""), list(stage.settings.items())))
        for stage in facts.provenance.stages
        if stage.settings
    ]
    if facts.has_recipe:
        parts.append("The whole recipe is in `recipe.yaml`; what it does not set is as in TRL.")
    else:
        parts.append("The recipe was not given to this release.")
    versions = facts.provenance.versions
    if versions:
        parts.append(
            "Made with " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
        )
    return "\n\n".join(parts)


def _data(facts: CardFacts) -> str:
    parts = [markdown_table(table) for table in facts.provenance.tables]
    missing = facts.provenance.missing
    if not facts.has_recipe:
        parts.append("Not told: the recipe was not given to this release.")
    elif missing:
        parts.append("Not told: " + "; ".join(missing) + ".")
    return "\n\n".join(parts)


def _cost(facts: CardFacts) -> str:
    costs = [(stage.title, stage.cost) for stage in facts.provenance.stages if stage.cost]
    if not costs:
        return "Not known: no logs of the training were found."
    columns = ("stage", "steps", "tokens", "hours of steps", "tokens a second", "MFU", "peak memory, GiB")
    rows = [(title, *_cost_cells(cost)) for title, cost in costs]
    device = f"On {facts.hardware}." if facts.hardware else "On what devices is not recorded."
    return (
        f"{device} Measured while training; memory is that of the first device, and evaluations and the "
        "saving of checkpoints are not in the hours.\n\n" + markdown_table(Table(columns, rows))
    )


def _cost_cells(cost: Cost) -> Sequence[str]:
    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    hours = None if cost.seconds is None else cost.seconds / 3600
    return (
        f"{cost.steps:,}",
        cell(cost.tokens, ","),
        cell(hours, ".3g"),
        cell(cost.tokens_per_second, ",.0f"),
        cell(cost.mfu, ".0%"),
        cell(cost.peak_memory_gib, ".3g"),
    )


def _limits(facts: CardFacts) -> list[str]:
    limits = list(facts.limits)
    if not facts.has_chat_template:
        limits.append("It has no chat template: it goes on with a text, and does not follow a conversation.")
    limits.append(
        "What it finds falls with length, depth and the number of facts that look alike; lengths and tasks "
        "that stand in no table above were not measured."
    )
    limits.append("It can state what is nowhere in the text that it was given. Check what matters.")
    return limits


def _licence(facts: CardFacts) -> str:
    parts = [facts.licence_found]
    for rule in facts.rules:
        parts.append(
            f"[{rule.title}]({rule.link})." + ("" if not rule.terms else "\n\n" + _bullets(rule.terms))
        )
    if facts.licence and not facts.rules:
        parts.append("Its terms were not looked at for this release: read them before you use it.")
    if facts.provenance.datasets:
        parts.append("The data it was trained on have licences of their own: see the tables above.")
    return "\n\n".join(parts)


def _bullets(points: Sequence[str]) -> str:
    return "\n".join(f"- {point}" for point in points)
