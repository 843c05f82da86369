"""What the paper published (arXiv 2504.06214), for tables beside ours; nothing here was measured by us.

Percent throughout. RULER and LV-Eval columns are means over all lengths up to the bound (text; that the
columns are to be read so is derived). The settings of the standard side, and the ablations, are second-hand.
"""

from __future__ import annotations

from dataclasses import dataclass

from ultralong_hf.lengths import format_length

SOURCE = "arXiv 2504.06214"


@dataclass(frozen=True)
class Column:
    """One column of the paper's tables: a benchmark, and for two of them the longest length in the mean."""

    benchmark: str
    up_to: int | None = None
    settings: str = ""

    @property
    def title(self) -> str:
        return f"{self.benchmark} ≤ {format_length(self.up_to)}" if self.up_to else self.benchmark


K = 1024
COLUMNS = (
    Column("RULER", 128 * K),
    Column("RULER", 512 * K),
    Column("RULER", 1024 * K),
    Column("LV-Eval", 128 * K),
    Column("LV-Eval", 256 * K),
    Column("InfiniteBench"),
    Column("MMLU", settings="5-shot"),
    Column("MMLU-Pro", settings="5-shot"),
    Column("MATH", settings="0-shot"),
    Column("GSM8K", settings="8-shot"),
    Column("HumanEval", settings="0-shot, pass@1"),
)
# Model -> figures in the order of COLUMNS.
RESULTS: dict[str, tuple[float, ...]] = {
    "Llama-3.1-8B-Instruct": (88.3, 68.2, 61.3, 26.55, 23.32, 24.66, 64.83, 44.33, 47.22, 81.34, 69.51),
    "Gradient-1048k": (82.4, 79.8, 77.8, 14.14, 13.48, 28.60, 48.33, 34.15, 15.12, 53.22, 35.97),
    "ProLong-512k": (88.9, 79.6, 71.2, 25.59, 24.65, 23.54, 65.21, 40.23, 17.16, 71.11, 10.36),
    "UltraLong-1M": (86.6, 81.6, 79.1, 28.07, 27.02, 32.14, 66.99, 42.44, 55.10, 79.53, 68.29),
    "UltraLong-2M": (85.0, 80.2, 78.2, 30.03, 28.90, 32.49, 67.31, 40.55, 51.36, 79.00, 67.07),
    "UltraLong-4M": (84.2, 80.0, 78.0, 29.09, 28.13, 30.38, 65.14, 43.28, 50.92, 77.71, 67.68),
}
BASE_MODEL = "Llama-3.1-8B-Instruct"


@dataclass(frozen=True)
class PublishedArm:
    """An arm of the paper's ablations at 1M, probably before SFT (second-hand)."""

    ruler: float
    infinitebench: float | None
    remark: str = ""


# Our name of the arm -> RULER up to 1M, InfiniteBench.
ABLATIONS: dict[str, PublishedArm] = {
    "base": PublishedArm(80.17, 26.25),
    "no-separator": PublishedArm(79.15, 22.75),
    "ntk": PublishedArm(76.62, 20.18, "better up to 128K: 86.91 against 85.63"),
    "two-steps": PublishedArm(77.52, None),
}


def published_value(model: str, benchmark: str, up_to: int | None = None) -> float | None:
    """The paper's figure, percent; None where it has none.

    >>> published_value("UltraLong-1M", "RULER", 1024 * 1024)
    79.1
    """
    figures = RESULTS.get(model, ())
    for column, value in zip(COLUMNS, figures, strict=False):
        if (column.benchmark, column.up_to) == (benchmark, up_to):
            return value
    return None
