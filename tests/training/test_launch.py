"""The scripts of launch/: they start the processes, pass signals on, and start again what died."""

import dataclasses
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from many_processes import ROOT, environment, free_port, write_recipe
from tiny_training import logged_lines, short_run

from cvvae_jax.config import TrainConfig

LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh"))

# Stands in for Python: notes its arguments, waits for SIGTERM if it is told to, and ends with a
# code of codes.txt, the next one at every start.
FAKE_PYTHON = """
echo "$@" >> $NOTES/python
code=$(sed -n "$(wc -l < $NOTES/python)p" $NOTES/codes.txt)
if [[ $code == wait ]]; then
  trap 'echo saved >> $NOTES/python; exit 0' TERM
  touch $NOTES/waiting
  while true; do sleep 0.05; done
fi
exit $code
"""


@pytest.fixture
def notes(tmp_path, monkeypatch) -> Path:
    """Where stand-ins, first in PATH, note how they were called."""
    monkeypatch.setenv("NOTES", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    stand_in(tmp_path, "python", FAKE_PYTHON)
    return tmp_path


def stand_in(folder: Path, name: str, script: str) -> None:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{script}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def run(script: str, *arguments: str, **variables: str) -> int:
    command = ["bash", str(LAUNCH / script), *arguments]
    return subprocess.run(command, env=os.environ | variables, timeout=300).returncode


def trained_steps(config: TrainConfig) -> list[int]:
    return [line["step"] for line in logged_lines(config) if "loss/total" in line]


def test_there_are_scripts():
    assert {"process.sh", "single_host.sh", "slurm.sh", "tpu_vm.sh", "gke_xpk.sh"} == set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_bash(script):
    subprocess.run(["bash", "-n", str(LAUNCH / script)], check=True)


@pytest.mark.parametrize("code", [0, 2, 75])
def test_process_ends_with_its_code(notes, code):
    (notes / "codes.txt").write_text(f"{code}\n")
    assert run("process.sh", "recipe.py", "--workdir", "a b") == code
    assert (notes / "python").read_text() == "train.py recipe.py --workdir a b --distributed\n"


def test_preempted_process_saves_and_asks_to_be_started_again(notes):
    (notes / "codes.txt").write_text("wait\n")
    process = subprocess.Popen(["bash", str(LAUNCH / "process.sh"), "recipe.py"])
    wait_for(notes / "waiting")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 143
    assert (notes / "python").read_text().endswith("saved\n")


def wait_for(path: Path, text: str = "", *, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text(errors="replace")):
        assert time.monotonic() < end, path
        time.sleep(0.05)


GCLOUD = """
echo "$@" >> $NOTES/gcloud
case "$*" in
  *describe*) cat $NOTES/state; exit ;;
  *delete*) rm $NOTES/state; exit ;;
  *create*) echo READY > $NOTES/state; exit ;;
esac
for argument in "$@"; do
  case $argument in --command=*) cd $NOTES/vm && bash -c "${argument#--command=}"; exit ;; esac
done
"""


def test_tpu_pod_is_asked_for_again_and_runs_the_same_command_on_all(notes, monkeypatch):
    """The pod has been preempted; the first start on the new one dies, the second one is done."""
    stand_in(notes, "gcloud", GCLOUD)
    for name, script in {"pip": "exit 0", "git": "exit 0", "pkill": "exit 1"}.items():
        stand_in(notes, name, f'echo "$@" >> $NOTES/{name}; {script}')
    (notes / "vm").mkdir()
    (notes / "vm" / "cvvae_jax").symlink_to(ROOT)
    (notes / "state").write_text("PREEMPTED\n")
    (notes / "codes.txt").write_text("75\n0\n")
    variables = {
        "TPU": "pod",
        "ZONE": "zone",
        "PROJECT": "project",
        "TYPE": "v5litepod-32",
        "REPOSITORY": "https://somewhere/cvvae_jax",
        "WAIT": "0",
    }
    assert run("tpu_vm.sh", "recipe.py", "--workdir", "a b", **variables) == 0
    calls = (notes / "gcloud").read_text()
    where = "pod --zone=zone --project=project"
    verbs = re.findall(rf"compute tpus tpu-vm (\w+) {where}", calls)
    assert verbs == [
        *("describe", "delete", "describe", "create", "describe"),
        *("ssh", "ssh", "describe", "ssh", "ssh"),
    ]
    assert "--accelerator-type=v5litepod-32 --version=v2-alpha-tpuv5-lite --spot" in calls
    assert calls.count("--worker=all --command=") == 4
    trained = "train.py recipe.py --workdir a b --distributed\n"
    assert (notes / "python").read_text() == 2 * trained
    assert "-r requirements.txt jax[tpu]" in (notes / "pip").read_text()


def test_xpk_is_given_the_command_and_the_codes_to_restart_after(notes):
    stand_in(notes, "xpk", 'printf "%s\\n" "$@" > $NOTES/xpk')
    variables = {"CLUSTER": "c", "ZONE": "z", "PROJECT": "p", "IMAGE": "i"}
    assert run("gke_xpk.sh", "recipe.py", "--workdir", "/a b", **variables) == 0
    given = (notes / "xpk").read_text().splitlines()
    assert given[:2] == ["workload", "create"]
    options = dict(argument.removeprefix("--").split("=", 1) for argument in given[2:])
    assert options["restart-on-exit-codes"] == "1,75"
    command = shlex.split(options["command"])
    assert command == ["bash", "/cvvae_jax/launch/process.sh", "recipe.py", "--workdir", "/a b"]
    assert {"workload", "cluster", "zone", "project", "tpu-type", "num-slices"} < set(options)


def test_manifest_runs_a_script_of_ours_and_starts_again_but_for_mistakes():
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] and spec["backoffLimit"] == 0
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert (ROOT / container["command"][1]).exists() and (ROOT / container["args"][0]).exists()
    chips = int(container["resources"]["limits"]["google.com/tpu"])
    x, y = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert chips * spec["parallelism"] == int(x) * int(y)
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": "train", "operator": "In", "values": [2]}
    assert rule["action"] == "FailJob" and pod["restartPolicy"] == "Never"
    (rule,) = manifest["spec"]["failurePolicy"]["rules"]
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"] and rule["action"] == "FailJobSet"


def test_single_host_starts_all_again_when_one_dies(notes):
    stand_in(notes, "sleep", "exit 0")
    # Twice two processes, in any order.
    (notes / "codes.txt").write_text("75\n75\n0\n0\n")
    assert run("single_host.sh", "recipe.py", PROCESSES="2") == 0
    lines = (notes / "python").read_text().splitlines()
    assert lines == 4 * ["train.py recipe.py --distributed"]


def test_single_host_does_not_repeat_a_mistake(notes):
    (notes / "codes.txt").write_text("2\n2\n")
    assert run("single_host.sh", "recipe.py", PROCESSES="2") == 2
    assert run("single_host.sh", "recipe.py", PROCESSES="3", GPUS="8") == 2


# Stands in for Slurm's `srun`: starts two processes on this machine, with the variables that jax
# reads.
SRUN = """
shift  # --kill-on-bad-exit=0
export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=1
for i in 0 1; do
  SLURM_PROCID=$i SLURM_LOCALID=$i "$@" > $NOTES/said_$i.txt 2>&1 &
  pids+=($!)
done
trap 'kill -TERM ${pids[@]}' TERM
wait ${pids[0]}; wait ${pids[0]}; first=$?
wait ${pids[1]}; wait ${pids[1]}; second=$?
exit $((first > second ? first : second))
"""


@pytest.mark.slow
def test_slurm_job_saves_queues_again_and_goes_on(image_vae, notes):
    config = short_run(notes / "run", image_vae, gan="none")
    recipe = str(write_recipe(notes / "recipe", config))
    stand_in(notes, "srun", SRUN)
    stand_in(notes, "scontrol", 'echo "$@" >> $NOTES/scontrol')
    variables = environment(devices=4) | {
        "PATH": os.environ["PATH"],
        "NOTES": str(notes),
        "PYTHON": sys.executable,
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_SUBMIT_DIR": str(ROOT),
    }
    command = ["bash", str(LAUNCH / "slurm.sh"), recipe]
    job = subprocess.Popen(command, env=variables)
    wait_for(notes / "said_0.txt", "step 0 of 9, on 8 x cpu")
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=300) == 0
    assert "stopped by SIGTERM after step 2" in (notes / "said_0.txt").read_text()
    assert (notes / "scontrol").read_text() == f"requeue {variables['SLURM_JOB_ID']}\n"
    again = variables | {"SLURM_RESTART_COUNT": "1"}
    assert subprocess.run(command, env=again, timeout=300).returncode == 0
    assert [line["step"] for line in logged_lines(config) if "loss/total" in line] == [
        *range(1, 10)
    ]
    assert (notes / "scontrol").read_text().count("requeue") == 1


@pytest.mark.slow
@pytest.mark.parametrize("same_port", [False, True])
def test_second_run_on_the_machine_leaves_the_first_alone(image_vae, notes, same_port):
    """With ports of their own both go on; with one that is named, the second is refused. The first
    has met already, and trains for as long as that takes."""
    command = ["bash", str(LAUNCH / "single_host.sh")]
    variables = environment(devices=1) | {"PYTHON": sys.executable}
    if same_port:
        variables["PORT"] = str(free_port())
    configs = [short_run(notes / f"run_{i}", image_vae, gan="none") for i in range(2)]
    stage = dataclasses.replace(configs[0].train, steps=2000, checkpoint_every=1000)
    configs[0] = dataclasses.replace(configs[0], train=stage)
    recipes = [str(write_recipe(notes / f"recipe_{i}", c)) for i, c in enumerate(configs)]
    said = notes / "said"
    with said.open("w") as file:
        first = subprocess.Popen([*command, recipes[0]], env=variables, stdout=file, stderr=file)
        try:
            wait_for(said, "step 0 of 2000")
            second = subprocess.run(
                [*command, recipes[1]], env=variables, capture_output=True, text=True, timeout=300
            )
            assert first.poll() is None, said.read_text()
            first.send_signal(signal.SIGTERM)
            assert first.wait(timeout=300) == 0, said.read_text()
        finally:
            first.kill()
    assert "starting all of them again" not in said.read_text()
    if same_port:
        assert second.returncode == 2 and "can't listen at 127.0.0.1:" in second.stderr
        assert "is no process 0 that waits for this one" in second.stderr
    else:
        assert second.returncode == 0
        assert trained_steps(configs[1]) == list(range(1, 10))


@pytest.mark.slow
def test_single_host_trains_in_two_processes(image_vae, notes):
    config = short_run(notes / "run", image_vae, gan="none")
    recipe = str(write_recipe(notes / "recipe", config))
    variables = environment(devices=4) | {"PORT": str(free_port()), "PYTHON": sys.executable}
    command = ["bash", str(LAUNCH / "single_host.sh"), recipe]
    assert subprocess.run(command, env=variables, timeout=600).returncode == 0
    assert [line["step"] for line in logged_lines(config) if "loss/total" in line] == [
        *range(1, 10)
    ]
    assert len(list((notes / "run" / "logs").iterdir())) == 2
