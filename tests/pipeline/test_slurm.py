"""The chain of jobs, run by stand-ins of SLURM, accelerate and ultralong that tell their words."""

import json
import os
import shlex
import subprocess

import pytest
import yaml

from ultralong_hf import cli

STAND_INS = {
    # runs the job at once, as the next number, with what SLURM gives it
    "sbatch": """
n=$(($(cat count 2>/dev/null || echo 40) + 1)); echo $n > count
echo "sbatch ${@:1:$#-1}" >> told
SLURM_JOB_ID=$n SLURM_JOB_NODELIST=host-[1-4] bash "${@: -1}" || exit 1
echo "$n;cluster"
""",
    "scontrol": 'printf "host-1\\nhost-2\\n"',
    "srun": 'echo "srun $1" >> told; shift; SLURM_NODEID=1 "$@"',
    "accelerate": 'echo "accelerate $*" >> told',
    "ultralong": """
echo "ultralong $1 $2 $3 $4" >> told
if [ "${5:-}" = --launch ]; then exec $6 -m ultralong_hf.training "$4"; fi
""",
}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    for name, text in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/bash\n{text}")
        path.chmod(0o755)
    return tmp_path


def write(*words):
    assert cli.main(["run", *words, "--slurm", "jobs"]) == 0


def submit(cluster):
    path = f"{cluster / 'bin'}:{os.environ['PATH']}"
    subprocess.run(["bash", "jobs/submit.sh"], check=True, env={**os.environ, "PATH": path})
    return (cluster / "told").read_text().splitlines()


def test_every_script_is_bash(cluster, capsys):
    write("ultralong-1m", "--gpus", "32", "--json")
    files = json.loads(capsys.readouterr().out)["files"]
    scripts = [name for name in files if not name.endswith(".yaml")]
    assert len(scripts) == 12
    for name in scripts:
        subprocess.run(["bash", "-n", name], check=True)


def test_jobs_run_each_stage_after_the_one_before(cluster):
    write("lab")
    told = submit(cluster)
    stages = ["prepare", "blend", "extend", "evaluate-base", "cpt", "evaluate-cpt", "sft", "evaluate-final"]
    stages.append("publish")
    assert [line for line in told if line.startswith("ultralong")] == [
        f"ultralong run outputs/lab --only {stage}" for stage in stages
    ]
    submitted = [line for line in told if line.startswith("sbatch")]
    assert submitted[:3] == [
        "sbatch --parsable",
        "sbatch --parsable --dependency=afterok:41 --kill-on-invalid-dep=yes",
        "sbatch --parsable --dependency=afterok:42 --kill-on-invalid-dep=yes",
    ]
    assert "gpus-per-node" not in (cluster / "jobs" / "5-cpt.sbatch").read_text()


def test_training_starts_a_launcher_on_every_node_with_the_planned_sizes(cluster):
    write("ultralong-1m", "--gpus", "32", "--partition", "h100", "--time", "12:00:00")
    told = submit(cluster)
    (launched,) = [line for line in told if "5-cpt.yaml" in line]
    assert shlex.split(launched) == [
        *("accelerate", "launch", "--machine_rank", "1", "--main_process_ip", "host-1"),
        *("--main_process_port", "20045", "--config_file", "jobs/5-cpt.yaml"),
        *("-m", "ultralong_hf.training", "cpt"),
    ]
    config = yaml.safe_load((cluster / "jobs" / "5-cpt.yaml").read_text())
    assert (config["num_processes"], config["num_machines"]) == (32, 4)
    head = (cluster / "jobs" / "5-cpt.sbatch").read_text().splitlines()
    for line in ("nodes=4", "gpus-per-node=8", "partition=h100", "time=12:00:00", "requeue"):
        assert f"#SBATCH --{line}" in head
    measured = (cluster / "jobs" / "4-evaluate-base.sbatch").read_text()
    assert "#SBATCH --nodes=1\n" in measured
    assert "#SBATCH --gpus-per-node=8\n" in measured
    assert "gpus-per-node" not in (cluster / "jobs" / "1-prepare.sbatch").read_text()


def test_the_folder_is_bound_to_the_run_that_the_jobs_open(cluster):
    write("lab", "--cpt.max_steps", "7", "--skip", "evaluate-base")
    content = json.loads((cluster / "outputs" / "lab" / "run.json").read_text())
    assert content["overrides"] == {"cpt.max_steps": 7}
    assert content["skip"] == ["evaluate-base"]
    assert yaml.safe_load((cluster / "outputs" / "lab" / "recipe.yaml").read_text())["cpt"]["max_steps"] == 7


def test_a_failed_job_ends_the_submission(cluster):
    write("lab")
    (cluster / "bin" / "ultralong").write_text("#!/bin/bash\n[ $4 != extend ]")
    with pytest.raises(subprocess.CalledProcessError):
        submit(cluster)
