import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from run_folders import records_of, standard_entry, write_run

K = 1024


@pytest.fixture(scope="session")
def two_models(tmp_path_factory):
    """A base that reads 8K and an extended model that reads 32K, the same prompts; folders of each."""
    tmp_path = tmp_path_factory.mktemp("runs")
    lengths = [4 * K, 8 * K, 16 * K, 32 * K]

    def base_skill(task, length):
        return 0.95 if length <= 8 * K else 0.0

    def extended_skill(task, length):
        return 0.9

    folders = []
    for name, skill, window, seed in (("base", base_skill, 8 * K, 1), ("long", extended_skill, 32 * K, 2)):
        options = {"model": f"models/{name}", "identity": name, "window": window}
        needles = records_of("needle", lengths, skill, depths=(0, 50, 100), samples=6, model_seed=seed)
        vt = records_of("ruler/vt", lengths, skill, model_seed=seed)
        fwe = records_of("ruler/fwe", lengths, skill, model_seed=seed, partial=True)
        perplexity = [{"from": 0, "to": 8 * K, "loss": 2.0, "value": 7.4 + seed, "tokens": 100}]
        folders += [
            write_run(
                tmp_path / name / "long",
                [*needles, *vt, *fwe],
                perplexity=perplexity,
                notes=[f"ruler/vt: a note on {name}."],
                **options,
            ),
            write_run(
                tmp_path / name / "short", standard=[standard_entry("mmlu", 0.6 + 0.01 * seed)], **options
            ),
        ]
    return folders
