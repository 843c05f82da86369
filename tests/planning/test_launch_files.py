"""accelerate's YAML and the batch script: as shipped, as accelerate reads them, and as bash does."""

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from launch_cases import train_as_launched

from ultralong_hf import cli, plan
from ultralong_hf.errors import PlanError
from ultralong_hf.parallel.requirements import read_launch
from ultralong_hf.planning.launch_files import accelerate_config, yaml_text
from ultralong_hf.training.command_line import parse_recipe

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "examples" / "launch"
COUNTS = {"1-gpu": 1, "8-gpus": 8, "32-gpus": 32, "256-gpus": 256}


def launched(config, *words):
    """The environment and arguments that accelerate launches processes with."""
    parser = launch_command_parser()
    script = ["examples/cpt.py", "--recipe", "ultralong-1m"]
    words = words or ["--main_process_port", "0"]  # any that is free
    args = parser.parse_args(["--config_file", str(config), *words, *script])
    args, *_ = _validate_launch_command(args)
    return prepare_multi_gpu_env(args), args


@pytest.mark.parametrize("stem", COUNTS)
def test_shipped_examples_are_what_the_command_writes(stem, tmp_path, monkeypatch, capsys):
    text = (LAUNCH / f"{stem}.yaml").read_text(encoding="utf-8")
    words = shlex.split(re.match(r"# Written by: ultralong (.*)\n", text)[1])
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 0
    for suffix in ("yaml", "sbatch"):
        written = tmp_path / "examples" / "launch" / f"{stem}.{suffix}"
        assert written.read_text(encoding="utf-8") == (LAUNCH / written.name).read_text(encoding="utf-8")
    assert capsys.readouterr().err == "", "every shipped example fits"


def test_no_example_is_left_over():
    assert sorted(path.name for path in LAUNCH.iterdir()) == sorted(
        f"{stem}.{suffix}" for stem in COUNTS for suffix in ("sbatch", "yaml")
    )


@pytest.mark.parametrize(("stem", "count"), COUNTS.items())
def test_accelerate_reads_the_yaml(stem, count):
    config = load_config_from_file(str(LAUNCH / f"{stem}.yaml"))
    assert config.num_processes == count
    assert config.num_machines == max(1, count // 8)
    assert config.mixed_precision == "bf16"
    assert (config.distributed_type.value, bool(config.fsdp_config)) == (
        ("NO", False) if count == 1 else ("FSDP", True)
    )
    assert not config.parallelism_config, "the recipe says how devices share rows"


def test_processes_are_launched_with_fsdp_2_and_sizes_left_to_the_recipe(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_PARALLELISM_CONFIG", raising=False)
    environment, args = launched(LAUNCH / "8-gpus.yaml")
    assert (args.nproc_per_node, args.num_machines) == ("8", 1)
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert environment["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    found = read_launch(environment, launcher=[])
    assert (found.fsdp_version, found.cp_size, found.parallelism_in_force) == (2, 1, False)


def test_every_node_gets_its_rank_and_the_rendezvous_from_the_batch_script():
    words = ["--machine_rank", "3", "--main_process_ip", "node-0", "--main_process_port", "23456"]
    _, args = launched(LAUNCH / "256-gpus.yaml", *words)
    assert (args.nnodes, args.nproc_per_node, args.node_rank) == ("32", "8", 3)
    assert (args.rdzv_backend, args.rdzv_endpoint) == ("static", "node-0:23456")


@pytest.mark.parametrize("stem", COUNTS)
def test_the_batch_script_is_bash_and_names_a_recipe_that_loads(stem, tmp_path):
    path = LAUNCH / f"{stem}.sbatch"
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text(encoding="utf-8")
    assert f"examples/launch/{stem}.yaml" in text
    arguments = re.search(r'examples/cpt.py (.*) "\$@"', text)[1]
    recipe, _ = parse_recipe("cpt", shlex.split(arguments))
    assert recipe.model.name_or_path == "meta-llama/Llama-3.1-8B-Instruct"


def test_accelerate_and_the_plugin_agree_on_the_mesh_that_the_yaml_launches(workers, tmp_path):
    """The YAML of two GPUs, on gloo: FSDP2 over both, which share rows, with the numbers of one process."""
    found = plan("lab", gpus=2, overrides={"parallel.size": 2})
    config = tmp_path / "2-gpus.yaml"
    config.write_text(yaml_text(found, recipe="lab", command="", file=str(config)), encoding="utf-8")
    environment, _ = launched(config)
    alone = workers.run(1, train_as_launched, str(tmp_path), {}, 1)[0]
    assert (alone["fsdp2"], alone["mesh"]) == (False, None)
    for rank in workers.run(2, train_as_launched, str(tmp_path), environment, 2):
        assert (rank["fsdp2"], rank["mesh"], rank["sharded over"]) == (True, (2, 1, 1), 2)
        assert "FULL_STATE_DICT" in rank["whole state"]
        assert rank["losses"] == pytest.approx(alone["losses"], rel=1e-5)


FAKE_TOOLS = {
    "srun": 'shift; exec "$@"',
    "scontrol": 'case "$1" in show) printf "node-a\\nnode-b\\n";; *) echo "$@" >> "$SEEN";; esac',
    "accelerate": 'echo "$@" >> "$SEEN"; [ -z "${SLEEP:-}" ] || sleep "$SLEEP"',
}


@pytest.fixture
def job(tmp_path, monkeypatch):
    """The environment of a job, with tools that write down how they were called."""
    for name, body in FAKE_TOOLS.items():
        tool = tmp_path / name
        tool.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    for name, value in {"JOB_ID": "123456", "JOB_NODELIST": "node-[a-b]", "NODEID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return tmp_path / "seen"


def test_the_batch_script_launches_with_what_slurm_says(job):
    subprocess.run(["bash", str(LAUNCH / "256-gpus.sbatch"), "--max_steps", "3"], check=True)
    words = shlex.split(job.read_text(encoding="utf-8"))
    assert words[:10] == [
        "launch",
        "--machine_rank",
        "1",
        "--main_process_ip",
        "node-a",
        "--main_process_port",
        "23456",
        "--config_file",
        "examples/launch/256-gpus.yaml",
        "examples/cpt.py",
    ]
    assert words[-2:] == ["--max_steps", "3"]


def test_a_job_whose_time_is_nearly_up_is_queued_again(job, monkeypatch):
    monkeypatch.setenv("SLEEP", "30")
    process = subprocess.Popen(["bash", str(LAUNCH / "8-gpus.sbatch")], start_new_session=True)
    try:
        while not job.exists():
            assert process.poll() is None
        process.send_signal(signal.SIGUSR1)
        process.wait(timeout=20)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert job.read_text(encoding="utf-8").splitlines()[-1] == "requeue 123456"


def test_deepspeed_and_offloaded_parameters_are_in_the_yaml():
    keys = {"parallel.backend": "deepspeed", "parallel.size": 8}
    config = accelerate_config(plan("ultralong-1m", gpus=8, overrides=keys))
    assert (config["distributed_type"], config["deepspeed_config"]["zero_stage"]) == ("DEEPSPEED", 3)
    offloaded = plan("ultralong-1m", gpus=8, overrides={"memory.offload_parameters": True})
    assert accelerate_config(offloaded)["fsdp_config"]["fsdp_offload_params"] is True


def test_gpus_that_do_not_fill_nodes_are_refused():
    with pytest.raises(PlanError, match=r"12 GPUs do not fill nodes of 8, .*Use 8 or 16"):
        accelerate_config(plan("ultralong-1m", gpus=12, overrides={"parallel.global_batch.cpt": 3}))


def test_bad_input_ends_with_status_2_and_writes_nothing(tmp_path, capsys):
    output = str(tmp_path / "out")
    assert cli.main(["launch-config", "some/model", "--gpus", "8", "--output", output]) == 2
    assert "some/model is no recipe" in capsys.readouterr().err
    assert not Path(output).exists()


def test_a_plan_that_does_not_fit_is_told_and_written(tmp_path, capsys):
    assert cli.main(["launch-config", "ultralong-4m", "--gpus", "8", "--output", str(tmp_path)]) == 0
    assert "warning: as planned it does not fit. next: " in capsys.readouterr().err
    assert "does not fit in" in (tmp_path / "8-gpus.yaml").read_text(encoding="utf-8")
