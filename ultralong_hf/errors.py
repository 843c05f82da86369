"""The errors of this package.

UltraLongError
├── InputError (also a ValueError): the input is at fault; the command line ends with status 2
│   ├── RecipeError            a recipe file or a command-line override of it
│   ├── RopeError              a model that cannot be extended so; a length, scale or ramp without sense
│   │   └── LengthError        a text that is no length, such as "1Q"
│   ├── ModelError             a model folder or hub id that cannot be read or written
│   ├── DocumentError          a source of documents, or a document in it
│   │   └── UploadError        a file given to the chat that is refused, or cannot be read
│   ├── StoreError             a token store that is damaged, foreign or made with other settings
│   ├── BatchError             rows that the collator cannot make a batch of
│   ├── ParallelError          a set-up of sequence parallelism that would train wrongly, or not at all
│   │   └── ParallelSizeError  sizes that do not divide
│   ├── PlanError              sizes, a GPU or a length that no plan can be made for
│   ├── ConversationError      chat data that the SFT stage cannot read
│   ├── ChatError              a question, a cache or a session that the chat cannot serve
│   │   └── DoesNotFit         documents and question are longer than the window
│   ├── EvaluationError        an unknown task, a length or a haystack that does not fit
│   ├── AblationError          a study, an arm or a folder of results that cannot be compared
│   ├── ReleaseError           a model that cannot be released, merged or served as asked
│   └── RunError               a run of the pipeline that cannot begin or go on as asked
└── MachineError               the machine or its libraries lack something; status 1
    ├── OutOfMemory            a device's memory, or the host's, does not suffice
    ├── KernelError            kernels that cannot run here
    ├── StageFailed            a stage of the pipeline that ended without its output
    ├── EndpointError          a server of models that refuses, or cannot be reached
    └── EngineMismatch         a tokenization engine that gives other ids than the model's tokenizer
"""

from __future__ import annotations


class UltraLongError(Exception):
    """Base of every error that this package raises on purpose.

    `faults` holds the message, an entry a fault, so that a user is told all of them at once.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults: tuple[str, ...] = faults


class InputError(UltraLongError, ValueError):
    """The input is at fault: the message says what was wrong, where, and what to do."""


class RecipeError(InputError):
    """A recipe, or an override of it, that cannot be read or holds an unknown key or a bad value."""


class RopeError(InputError):
    """A model that cannot be extended as asked."""


class LengthError(RopeError):
    """A text that is no length."""


class ModelError(InputError):
    """A model folder or hub id that cannot be read, or an output folder that cannot be written."""


class DocumentError(InputError):
    """A source of documents, or a document in it, that cannot be read."""


class UploadError(DocumentError):
    """A file given to the chat that is refused, or cannot be read; the message holds no path."""


class StoreError(InputError):
    """A token store that is damaged, foreign, or made with other settings."""


class BatchError(InputError):
    """Rows that the collator cannot make a batch of."""


class ParallelError(InputError):
    """A set-up of sequence parallelism that would train wrongly, or not at all."""


class ParallelSizeError(ParallelError):
    """Sizes that do not divide each other."""


class PlanError(InputError):
    """Sizes, a GPU or a length that no plan can be made for."""


class ConversationError(InputError):
    """Chat data that the SFT stage cannot read."""


class ChatError(InputError):
    """A question, a cache or a session that the chat cannot serve."""


class DoesNotFit(ChatError):  # noqa: N818 -- a finding, on which the user drops or cuts documents
    """Documents and question are longer than the window: the message has the numbers."""


class EvaluationError(InputError):
    """A task, a length or a haystack that cannot be evaluated."""


class AblationError(InputError):
    """A study, an arm or a folder of results that cannot be compared."""


class ReleaseError(InputError):
    """A model that cannot be released, merged or served as asked."""


class RunError(InputError):
    """A run of the pipeline that cannot begin or go on as asked; a stage of it whose input is at fault."""


class MachineError(UltraLongError, RuntimeError):
    """The machine or its libraries lack something that was asked for."""


class OutOfMemory(MachineError):  # noqa: N818 -- the field's word for it
    """A device's memory, or the host's, does not suffice: the plan, and the next option with its price."""


class StageFailed(MachineError):  # noqa: N818 -- what happened to the stage
    """A stage of the pipeline that ended without its output: which, why, and where its log is."""


class KernelError(MachineError):
    """Kernels that cannot run on this machine."""


class EndpointError(MachineError):
    """An OpenAI-compatible server that refuses a request, or cannot be reached."""


class EngineMismatch(MachineError):  # noqa: N818 -- a finding about an engine, on which the caller changes it
    """A tokenization engine gave other ids than the model's own tokenizer."""
