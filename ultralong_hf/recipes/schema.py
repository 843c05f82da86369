"""What a recipe holds: one frozen dataclass a section; the sections of TRL stay dicts of TRL's own keys.

A field's type is its check (`recipes/checking.py` reads it), so types here say what a YAML value may be.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, NamedTuple


class Between(NamedTuple):
    """The bounds of a number, both included."""

    least: float
    most: float = float("inf")


class Tokens(NamedTuple):
    """Marks a length: an int, or a text such as 128K or 1M (K = 1,024)."""


@dataclass(frozen=True)
class Budget:
    """Marks a number of tokens as papers count: an int, or a text such as 500M or 1B (by thousands)."""


class OneOf(NamedTuple):
    """The names that a text may be, or may begin with before a slash: `ruler`, `ruler/vt`."""

    names: tuple[str, ...]


Length = Annotated[int, Tokens()]
Count = Annotated[int, Between(0)]
Positive = Annotated[int, Between(1)]
Percent = Annotated[float, Between(0, 100)]
Share = Annotated[float, Between(0, 1)]

LAB = "lab"
"""A model or source of this name is the laptop lab's: shipped with this package, or made from the seed."""
SAMPLE = "sample"
"""Conversations of this name ship with this package."""
SAFETY = "safety"
"""So does this mix: refusals, answers to what sounds alike, documents with hidden instructions."""

TASK_FAMILIES = (
    "needle",
    "passkey",
    "distractors",
    "ruler",
    "lveval",
    "infinitebench",
    "safety",
    "perplexity",
    "standard",
)
"""The tasks of `ultralong_hf.evaluation.tasks.FAMILIES`, which knows what is behind the names."""
TaskName = Annotated[str, OneOf(TASK_FAMILIES)]

Method = Literal["yarn", "llama3", "ntk", "linear", "none"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where conversations come from, as for `datasets.load_dataset`. A text in YAML is `path` alone."""

    path: str
    """A file, glob or folder here (JSONL, Parquet, text), a Hub dataset, or `lab`: made from the seed."""
    name: str | None = None
    """Configuration of a Hub dataset."""
    data_dir: str | None = None
    data_files: str | list[str] | None = None
    split: str = "train"
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset."""


@dataclass(frozen=True, kw_only=True)
class DocumentSource(Source):
    """Where documents come from."""

    text_column: str | None = None
    """Overrides `data.text_column` for this source."""
    format: Literal["jsonl", "parquet", "text"] | None = None
    """Of files whose suffix does not tell."""
    streaming: bool | None = None
    """False: a Hub dataset is downloaded whole before it is read."""
    label: str | None = None
    """What reports, and shares of the mixture, call this source; none: the name of its path."""
    where: dict[str, Any] | None = None
    """Only records with these values are of this source: {meta.set: books}."""
    share: Annotated[float, Between(0)] | None = None
    """Of the tokens of the store, beside those of the other sources; none: as they come."""


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    name_or_path: str
    """Model folder, Hub id, or `lab`: the small base model that ships with this package."""
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "auto"
    """Of the weights while they train; `auto`: as in the checkpoint."""
    attn_implementation: str = "sdpa"
    trust_remote_code: bool = False
    liger_kernels: bool = False
    """Liger's layer kernels (RoPE, RMSNorm, SwiGLU). Needs a GPU and the extra `gpu`."""


@dataclass(frozen=True, kw_only=True)
class RopeSection:
    """The arguments of `extend_context`, with the recipes' own default method."""

    target_length: Length | None = None
    """The window to write; none: `data.target_length`."""
    method: Method = "llama3"
    """llama3: the YaRN paper's ramp over turns, no temperature. yarn: transformers' form of YaRN."""
    scale: Annotated[float, Between(1)] | None = None
    """None: target length / original length."""
    original_length: Length | None = None
    """None: the model's length before its first extension."""
    beta_slow: Annotated[float, Between(0)] = 1.0
    """Turns within the original length below which a frequency is interpolated in full."""
    beta_fast: Annotated[float, Between(0)] = 4.0
    """Turns above which a frequency is kept."""
    attention_factor: Annotated[float, Between(0)] | None = None
    """None: what the method says (yarn: 0.1 ln scale + 1; the others: 1)."""
    exact_angles: bool = False


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """Documents of the continued pretraining, and the store of rows that they become."""

    sources: list[DocumentSource] = field(default_factory=list)
    target_length: Length
    """Tokens in a row. Every row has exactly these."""
    separator: str | dict[str, Any] | None = "<s>"
    """Between documents. See `ultralong_hf.data.separators`."""
    text_column: str = "text"
    filters: dict[str, Any] | None = None
    """Duplicates, languages, benchmarks' texts that are left out: `ultralong_hf.data.filtering.filters`."""
    mixture: str | dict[str, Any] | None = None
    """Up- and downsampling by document length. See `ultralong_hf.data.mixture`."""
    min_document_length: Count = 0
    """Tokens; shorter documents are left out."""
    token_budget: Annotated[int, Budget()] | None = None
    """Tokens of documents in the store; none: `epochs` times what there is."""
    epochs: Annotated[float, Between(0)] = 1.0
    order: Literal["source", "shuffled", "related"] = "source"
    """As documents come; at random; or similar ones next to each other."""
    keep_tail: bool = True
    """What a row's end cuts off a document begins the next row; false: it is dropped."""
    on_error: Literal["skip", "stop"] = "skip"
    """Of records that are no documents: left out and reported, or the end of the run."""
    max_bad_share: Share = 0.05
    """Of a source's records; with more bad ones the run stops."""
    engine: Literal["auto", "gigatoken", "tokenizers"] = "auto"
    """What tokenizes; auto: gigatoken where it gives the tokenizer's own ids."""
    seed: int = 0
    workers: Positive | None = None
    output_dir: str = "outputs/store"
    """The token store. Made when it is missing, read when it is there."""
    loss_on_separators: bool = True
    mask_documents: bool = False
    """True: documents of a row do not see each other (for comparison; the recipe lets them)."""
    eval_rows: Count = 0
    """Rows at the end of the store that are held out of training, for evaluation during it."""

    def prepare_options(self) -> dict[str, Any]:
        """The arguments of `prepare_dataset` that are here, all but the sources."""
        others = {"sources", "loss_on_separators", "mask_documents", "eval_rows"}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in others}


@dataclass(frozen=True, kw_only=True)
class GlobalBatchSection:
    """Rows of an optimizer step over all devices, whatever their number; gradient accumulation follows.

    Null: as many as the devices and the stage's `gradient_accumulation_steps` come to.
    """

    cpt: Positive | None = None
    sft: Positive | None = None
    """Conversations; with `sft.packing`, rows of several."""
    preference: Positive | None = None
    """Pairs."""
    orpo: Positive | None = None
    """Pairs."""


@dataclass(frozen=True, kw_only=True)
class ParallelSection:
    """How devices share one row (the arguments of `SequenceParallelPlugin`), and a step's rows."""

    size: Positive | Literal["auto"] = "auto"
    """Devices that share one row; auto: the least that fit the memory."""
    backend: Literal["auto", "ulysses", "ring", "hybrid", "deepspeed"] = "auto"
    """ulysses trades heads for tokens, ring passes keys and values, hybrid does both, deepspeed is ALST."""
    ulysses_size: Positive | None = None
    """Of a hybrid, devices that trade heads for tokens; null: as many as divide the heads within a node."""
    ring_size: Positive | None = None
    """Of a hybrid, groups of such devices."""
    dp_replicate: Positive = 1
    """Copies of the sharded model; 1: its weights are sharded over all devices."""
    gpus_per_node: Positive | None = None
    """Null: as many as the launcher started on a node."""
    attention: str = "auto"
    """Within a shared row. auto: on Hopper the fastest at hand, elsewhere `model.attn_implementation`."""
    rotation: Literal["allgather", "alltoall"] = "allgather"
    """How a ring passes keys and values; alltoall needs less memory."""
    global_batch: GlobalBatchSection = field(default_factory=GlobalBatchSection)

    def plugin_arguments(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "global_batch"}


@dataclass(frozen=True, kw_only=True)
class LoraSection:
    """Low-rank adapters in place of full training; the folder that a stage leaves holds the merged model."""

    rank: Positive = 16
    alpha: Positive = 32
    """The adapters' output is scaled by alpha / rank."""
    dropout: Share = 0.0
    target_modules: list[str] | Literal["all-linear"] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    trainable_embeddings_and_norms: bool = True
    """Train these in full beside the adapters, without which LoRA does not reach long contexts (LongLoRA)."""


@dataclass(frozen=True, kw_only=True)
class MemorySection:
    """A longer sequence on each device. No key changes the result beyond rounding; each has its price."""

    tiled_mlp: bool | Literal["auto"] = "auto"
    """MLPs and norms run in tiles of a row, and keep one tile's activations. auto: for rows of over 4 tiles.
    Price: none where layers are checkpointed, else the MLP's forward once more."""
    mlp_tile: Length | None = None
    """Tokens of a tile; null: as many as the hidden size, at least 1,024. Price of small ones: launches."""
    lm_head: Literal["fused", "whole"] = "fused"
    """whole: in CPT and SFT the logits of all tokens exist at once; TRL's fused head makes tiles of them, and
    once more in the backward. Price: 12 bytes a token and entry of the vocabulary; for short rows."""
    lm_head_tile: Length | None = None
    """Tokens whose logits exist at a time; null: TRL's 4,096 on GPUs, 512 on CPUs."""
    checkpoint_every: Positive = 1
    """Recompute every n-th layer in the backward; the others keep all activations. Price of 1: a forward."""
    checkpoint_storage: Literal["device", "host", "disk"] = "device"
    """Where what a recomputed layer keeps lies meanwhile. host: pinned memory; nothing changes on a CPU.
    disk: files that are gone with the process. Price: bandwidth, overlapped with computing."""
    checkpoint_folder: str | None = None
    """For `disk`, on a fast local disk (NVMe); null: the system's folder for temporary files."""
    recompute: Literal["all", "all_but_attention"] = "all"
    """all_but_attention keeps attention's output and log-sum-exp. Price: twice the checkpoints' bytes."""
    offload_optimizer: bool = False
    """The optimizer's state is on the device for its step alone, else on the host. Price: 2 copies a step."""
    offload_parameters: bool = False
    """Weights, gradients and optimizer live on the host, by FSDP2. Price: copies, and a step on the CPU."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "torchao_8bit"] | None = None
    """8bit: 2 bytes of state a weight, not 8. paged: spills to the host. null: the stage's `optim`. Price:
    the state is rounded. The first four but adamw need bitsandbytes, the last torchao."""
    master_weights: Literal["float32"] | None = "float32"
    """Of what trains, under bf16; null: as loaded, which loses small updates. 2 more bytes a weight."""
    lora: LoraSection | None = None


@dataclass(frozen=True, kw_only=True)
class ConversationColumns:
    """Which columns of a source hold what; null: those that its format has."""

    messages: str | None = None
    prompt: str | None = None
    input: str | None = None
    """Stands under the prompt, as in Alpaca."""
    completion: str | None = None
    system: str | None = None


ConversationFormat = Literal["messages", "sharegpt", "alpaca", "prompt_completion"]


@dataclass(frozen=True, kw_only=True)
class ConversationSource(Source):
    """Where conversations come from: files, a Hub dataset, or a name that ships with this package.

    The names: `lab`, made from the seed; `sample`, some dozens of short conversations of ours; `safety`, a
    mix of ours with refusals; `ultralong`, the sources of the paper's blend.
    """

    label: str | None = None
    """What reports call this source; null: the name of its path."""
    domain: str | None = None
    """Such as general, math or code; `domains` shares the samples out among them."""
    format: ConversationFormat | None = None
    """Null: told by the columns of each record, and reported."""
    columns: ConversationColumns | None = None
    where: dict[str, Any] | None = None
    """Only records with these values are of this source: {lang: python}."""
    share: Annotated[float, Between(0)] | None = None
    """Of the samples of its domain, beside the other sources'; null: by how many there are."""
    licence: str | None = None
    """As its card states it; kept in the report."""


@dataclass(frozen=True, kw_only=True)
class RewriteSection:
    """Answers written anew by a stronger model behind an OpenAI-compatible endpoint."""

    base_url: str
    """With its version: https://api.openai.com/v1, http://127.0.0.1:8000/v1."""
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable with the key. A key never stands in a recipe."""
    turns: Literal["all", "last"] = "all"
    """all: each answer, in order, after those that are new already. last: the last one alone."""
    system: str | None = None
    """A system message for the model that writes; it is no part of the sample."""
    max_tokens: Positive = 4096
    """Of an answer. One that is cut there is dropped."""
    temperature: Annotated[float, Between(0)] | None = None
    """Null: the server's."""
    token_limit_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the limit; OpenAI's newer models take the second alone."""
    concurrency: Positive = 16
    timeout: Annotated[float, Between(0)] = 600.0
    """Seconds of a request."""
    retries: Count = 5
    usd_per_million_prompt_tokens: Annotated[float, Between(0)] | None = None
    usd_per_million_completion_tokens: Annotated[float, Between(0)] | None = None
    max_failed_share: Share = 0.05
    """Of the answers asked for; with more failures the run stops."""
    ledger: str | None = None
    """The file of answers received; null: in `instruct.output_dir`. Any blend may go on with it."""


@dataclass(frozen=True, kw_only=True)
class InstructSection:
    """The blend of conversations for the SFT stage."""

    sources: list[ConversationSource] = field(default_factory=list)
    data_dir: str | None = None
    """A folder with copies of Hub datasets (owner/name, owner--name or name), looked into before the Hub."""
    samples: Positive | None = None
    """Of the whole blend; null: all that the shares allow."""
    domains: dict[str, Any] | None = None
    """Share of each domain of the samples: {general: 0.4, math: 0.3, code: 0.3}; null: as they come."""
    max_length: Length = 8192
    """Tokens; a longer sample is dropped and counted, never cut."""
    messages_column: str = "messages"
    prompt_column: str = "prompt"
    completion_column: str = "completion"
    chat_template: str | None = None
    """A file with a Jinja template in place of the tokenizer's own."""
    filters: dict[str, Any] | None = None
    """As `data.filters`: benchmarks' texts, duplicates, languages that are left out."""
    rewrite: RewriteSection | None = None
    on_error: Literal["skip", "stop"] = "skip"
    """Of records that are no conversations: left out and reported, or the end of the run."""
    max_bad_share: Share = 0.05
    """Of a source's records; with more bad ones the run stops."""
    packed_length: Length | None = None
    """Tokens of a row with `sft.packing`; null: `max_length`."""
    seed: int = 0
    output_dir: str | None = None
    """The blend: made when it is missing, read when it is there. Null: `blend` beside the stage's folder."""
    eval_samples: Count = 0
    """Samples at the end of the blend that are held out of training."""


@dataclass(frozen=True, kw_only=True)
class GroundedPairsSection:
    """Pairs made from documents: a fact is hidden in one, and asked for. See `data/grounding/pairs`."""

    documents: list[DocumentSource] = field(default_factory=list)
    """Where the text comes from; none: documents that the lab trains on."""
    pairs: Positive = 1000
    lengths: list[Length] = field(default_factory=list)
    """Tokens of prompt and answer, by turns, short and long mixed; none: `preference_data.max_length`."""
    distractors: Count = 6
    """Facts in the text that differ from the one asked for in one word."""
    hallucinated_share: Share = 0.5
    """Of the pairs: the rejected value is nowhere in the text; in the others it is a distractor's."""
    unanswerable_share: Share = 0.0
    """Of the pairs: the fact is not in the text, and the chosen answer says so."""
    output_dir: str = "outputs/pairs"
    """Made when it is missing, read when it is there."""


@dataclass(frozen=True, kw_only=True)
class PreferenceDataSection:
    """Pairs of answers to one prompt, the better and the worse, for the preference stage."""

    sources: list[Source] = field(default_factory=list)
    grounded: GroundedPairsSection | None = None
    """Pairs that are made beside those of the sources."""
    max_length: Length | None = None
    """Tokens of prompt and answer; a longer pair is dropped and counted, never cut. None: those of a row."""
    prompt_column: str = "prompt"
    """A text or messages; it may be missing where both answers are whole conversations."""
    chosen_column: str = "chosen"
    rejected_column: str = "rejected"
    seed: int = 0
    eval_pairs: Count = 0
    """Pairs at the end that are held out of training."""


@dataclass(frozen=True, kw_only=True)
class GrpoDataSection:
    """Prompts of the GRPO stage: an evaluation task's own, whose score is the reward."""

    tasks: list[str] = field(default_factory=lambda: ["needle", "ruler/niah_multikey_1", "ruler/vt"])
    """Names as of `evaluate`; those whose prompts are made to a length."""
    lengths: list[Length] = field(default_factory=list)
    """Tokens of prompt and answer, short and long mixed; none: `data.target_length`."""
    samples: Positive = 16
    """Prompts of a task at each length (of needles at each depth too)."""
    depths: list[Percent] = field(default_factory=lambda: [0.0, 25.0, 50.0, 75.0, 100.0])
    """Percent of the text before a needle."""
    haystack: str | None = None
    """A text file or a folder of them; none: documents that the lab trains on."""
    data_dir: str | None = None
    """Where the official files of benchmarks lie."""
    seed: int = 1
    """Another than `evaluation.seed`, whose prompts are the test's."""
    eval_prompts: Count = 0
    """Prompts that are held out of training."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSection:
    """The arguments of `evaluate` after training."""

    tasks: list[TaskName] = field(default_factory=lambda: ["needle"])
    """Families, or single tasks of one, such as `ruler/vt`."""
    lengths: list[Length] = field(default_factory=list)
    depths: list[Percent] = field(default_factory=lambda: [0.0, 25.0, 50.0, 75.0, 100.0])
    """Percent of the haystack before the needle."""
    samples: Positive | None = 20
    """Prompts a cell; null: as many as each task has by itself."""
    seed: int = 0
    prompt: Literal["auto", "chat", "plain"] = "auto"
    """chat: through the tokenizer's template; auto: chat where there is one."""
    haystack: str | None = None
    """A text file or a folder of them for the needles; null: documents of the lab."""
    data_dir: str | None = None
    """Where benchmarks' official files lie; null: from the Hub."""
    clamp_short: bool = False
    """Lengths that are too short for a prompt are measured with the shortest one."""
    beyond_window: bool = True
    """Measure lengths beyond the model's window too; the report marks them."""

    def options(self) -> dict[str, Any]:
        """The arguments of `evaluate`, all but the model and the tasks."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "tasks"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One recipe, checked. `cpt` and `sft` hold keys of trl.SFTConfig, `preference` of trl.DPOConfig, `orpo`
    of trl.experimental.orpo.ORPOConfig and `grpo` of trl.GRPOConfig."""

    origin: str
    """The file or preset that it was read from."""
    model: ModelSection
    rope: RopeSection
    data: DataSection
    parallel: ParallelSection
    memory: MemorySection
    cpt: dict[str, Any]
    instruct: InstructSection
    sft: dict[str, Any]
    preference_data: PreferenceDataSection
    preference: dict[str, Any]
    orpo: dict[str, Any]
    grpo_data: GrpoDataSection
    grpo: dict[str, Any]
    evaluation: EvaluationSection

    def rows_of_step(self, stage: str) -> int | None:
        """`parallel.global_batch` of the stage."""
        rows: int | None = getattr(self.parallel.global_batch, stage, None)
        return rows

    @property
    def window(self) -> int:
        """Tokens that the extended model reads: `rope.target_length`, or the length of a row."""
        return self.rope.target_length or self.data.target_length


SECTIONS: dict[str, type] = {
    "model": ModelSection,
    "rope": RopeSection,
    "data": DataSection,
    "parallel": ParallelSection,
    "memory": MemorySection,
    "instruct": InstructSection,
    "preference_data": PreferenceDataSection,
    "grpo_data": GrpoDataSection,
    "evaluation": EvaluationSection,
}
TRL_SECTIONS = {
    "cpt": "SFTConfig",
    "sft": "SFTConfig",
    "preference": "DPOConfig",
    "orpo": "experimental.orpo.ORPOConfig",
    "grpo": "GRPOConfig",
}
"""Section -> the class in trl whose keys it holds."""


def section_names() -> list[str]:
    """All sections, in the order of a recipe file."""
    return [f.name for f in fields(Recipe) if f.name != "origin"]
