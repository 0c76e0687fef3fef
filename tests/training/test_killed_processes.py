"""Two processes killed at any moment: the others end soon and say why, and the run goes on."""

import dataclasses
import random
import re
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from many_processes import Workers, workers, write_recipe
from tiny_training import logged_lines, short_run

from cvvae_jax import parameter_paths
from cvvae_jax.config import TrainConfig
from cvvae_jax.loading import load
from cvvae_jax.processes import group

pytestmark = pytest.mark.slow

GOES_ON = "the same command goes on from the newest checkpoint"


def often_saved(folder: Path, image_vae: str, *, steps: int) -> TrainConfig:
    """So that a kill often comes while a checkpoint is being written."""
    config = short_run(folder, image_vae, gan="none")
    stage = dataclasses.replace(config.train, steps=steps, checkpoint_every=2)
    return dataclasses.replace(config, train=stage)


def steps_logged(config: TrainConfig) -> list[int]:
    path = Path(config.workdir) / "metrics.jsonl"
    return [line["step"] for line in logged_lines(config)] if path.exists() else []


def wait_for_more_steps(both: Workers, config: TrainConfig, count: int) -> None:
    """Until so many steps of this start are logged, or the run ends."""
    both.wait_for(0, " frames of 8 x 8 in ")  # the first step is compiled: the log is cut already
    goal = len(steps_logged(config)) + count
    while both.processes[0].poll() is None and len(steps_logged(config)) < goal:
        time.sleep(0.01)


def assert_equal_to_the_bit(ours: TrainConfig, theirs: TrainConfig) -> None:
    for raw in (False, True):
        found, expected = (
            parameter_paths.flatten(load(c.workdir, raw=raw)) for c in (ours, theirs)
        )
        for path, leaf in found.items():
            np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


@pytest.fixture(scope="module")
def undisturbed(image_vae, tmp_path_factory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("undisturbed")
    config = often_saved(folder / "run", image_vae, steps=60)
    recipe = str(write_recipe(folder, config))
    with workers(folder, [recipe], [recipe]) as both:
        assert both.wait(600) == [0, 0], both.said(0) + both.said(1)
    return config


def test_run_killed_at_twenty_random_moments_equals_an_undisturbed_one(undisturbed, tmp_path):
    """Both runs have the same programs and numbers, and are equal to the bit. SIGKILL ends one
    process or both, the latter also while they start."""
    config = dataclasses.replace(undisturbed, workdir=str(tmp_path / "run"))
    recipe = str(write_recipe(tmp_path, config))
    rng, while_saving, seconds = random.Random(0), 0, []
    for kill in range(20):
        victims = rng.choice([[0], [1], [0, 1]])
        with workers(tmp_path / f"start_{kill}", [recipe], [recipe]) as both:
            if len(victims) == 2 and rng.random() < 0.3:
                time.sleep(rng.uniform(0, 15))
            else:
                wait_for_more_steps(both, config, rng.randrange(1, 5))
                time.sleep(rng.uniform(0, 0.5))
            assert both.processes[0].poll() is None, "the run has ended before its kills"
            for victim in victims:
                both.kill(victim)
            killed = time.monotonic()
            codes = both.wait()
            seconds.append(round(time.monotonic() - killed, 1))
            for index in {0, 1} - set(victims):
                assert codes[index] == group.DIED, both.said(index)
                assert GOES_ON in both.said(index)
        folder = Path(config.workdir) / "checkpoints"
        while_saving += any(not path.name.isdecimal() for path in folder.glob("*"))
    print(f"seconds until both had ended: {seconds}; {while_saving} kills left half a checkpoint")
    assert while_saving, "no kill came while a checkpoint was being written"
    with workers(tmp_path / "last", [recipe], [recipe]) as both:
        assert both.wait(600) == [0, 0], both.said(0) + both.said(1)
    assert steps_logged(config) == list(range(1, 61))
    assert_equal_to_the_bit(config, undisturbed)
    assert max(seconds) < 60


def test_run_stopped_at_random_moments_loses_no_step(undisturbed, tmp_path):
    config = dataclasses.replace(undisturbed, workdir=str(tmp_path / "run"))
    recipe = str(write_recipe(tmp_path, config))
    rng, done = random.Random(1), 0
    for stop in range(6):
        with workers(tmp_path / f"start_{stop}", [recipe], [recipe]) as both:
            wait_for_more_steps(both, config, rng.randrange(1, 5))
            time.sleep(rng.uniform(0, 0.5))
            both.kill(rng.randrange(2), signal.SIGTERM)
            assert both.wait() == [0, 0], both.said(0) + both.said(1)
        assert f"step {done} of 60" in both.said(0)
        sentence = r"stopped by SIGTERM after step (\d+); the same command goes on from step (\d+)"
        done, kept = map(int, re.search(sentence, both.said(0)).groups())
        assert kept == done and steps_logged(config) == list(range(1, done + 1))
    with workers(tmp_path / "last", [recipe], [recipe]) as both:
        assert both.wait(600) == [0, 0], both.said(0) + both.said(1)
    assert steps_logged(config) == list(range(1, 61))
    assert_equal_to_the_bit(config, undisturbed)


@pytest.mark.parametrize("step", [1, 2])
def test_process_that_is_silent_for_40_seconds_is_left_alone(image_vae, tmp_path, step):
    """A process that compiles on a machine with too much to do is silent for as long. Before the
    first step the other process has compiled already, and waits for it."""
    config = often_saved(tmp_path / "run", image_vae, steps=4)
    recipe = str(write_recipe(tmp_path, config))
    with workers(tmp_path / "said", [recipe], [recipe], fault=f"hold {step}") as both:
        assert both.wait(300) == [0, 0], both.said(0) + both.said(1)
    assert steps_logged(config) == [1, 2, 3, 4]


@pytest.mark.parametrize("victim", [0, 1])
def test_dead_process_ends_the_other_within_a_minute_and_is_named(image_vae, tmp_path, victim):
    config = often_saved(tmp_path / "run", image_vae, steps=10_000)
    recipe = str(write_recipe(tmp_path, config))
    with workers(tmp_path / "said", [recipe], [recipe]) as both:
        wait_for_more_steps(both, config, 3)
        both.kill(victim)
        killed = time.monotonic()
        code = both.processes[1 - victim].wait(timeout=60)
        print(f"process {victim} killed: {time.monotonic() - killed:.1f} s")
    assert code == group.DIED
    named = rf"process {1 - victim} of 2 on .*: error: process {victim} .*has died.*{GOES_ON}"
    assert re.search(named, both.said(1 - victim)), both.said(1 - victim)


@pytest.mark.parametrize(
    ("fault", "codes", "reason"),
    [
        ("raise 3", [1, 1], "process 1 of 2 on .* has ended: error: a fault of one process"),
        ("leave 3", [1, group.DIED], "process 1 of 2 on .* has ended: it reached its end"),
    ],
    ids=["error", "early_end"],
)
def test_one_process_ending_alone_ends_the_other_with_the_reason(
    image_vae, tmp_path, fault, codes, reason
):
    config = often_saved(tmp_path / "run", image_vae, steps=10_000)
    recipe = str(write_recipe(tmp_path, config))
    with workers(tmp_path / "said", [recipe], [recipe], fault=fault) as both:
        wait_for_more_steps(both, config, 1)
        start = time.monotonic()
        assert both.wait() == codes, both.said(0) + both.said(1)
        print(f"{fault}: {time.monotonic() - start:.1f} s")
    assert re.search(rf"process 0 of 2 on .*: error: {reason}", both.said(0)), both.said(0)


def test_other_settings_in_one_process_are_refused_by_all(image_vae, tmp_path):
    config = often_saved(tmp_path / "run", image_vae, steps=10_000)
    recipe = str(write_recipe(tmp_path, config))
    with workers(tmp_path / "said", [recipe], [recipe, "--seed", "1"]) as both:
        assert both.wait() == [2, 2], both.said(0) + both.said(1)
    assert 'same settings; process 0 has "seed": 0, and this one' in both.said(1)
    assert "process 1 of 2" in both.said(0) and "same settings" in both.said(0)


def test_run_goes_on_over_other_devices_and_processes(image_vae, tmp_path):
    """(8, 1) -> (4, 2) -> one device -> two processes, against one mesh throughout: 1e-5, since
    sums over devices are taken in another order. The records' seeds are the same at every step."""
    config = often_saved(tmp_path / "run", image_vae, steps=12)
    config = dataclasses.replace(config, matmul_precision="highest")
    assert jax.device_count() == 8
    expected = dataclasses.replace(config, workdir=str(tmp_path / "expected"))
    recipe = str(write_recipe(tmp_path, config))
    theirs = str(write_recipe(tmp_path / "theirs", expected))
    plan = [
        ([theirs], 1, 8),
        ([recipe, "--mesh.data", "8"], 1, 8),
        ([recipe, "--mesh.data", "4", "--mesh.fsdp", "2"], 1, 8),
        ([recipe, "--mesh.data", "1"], 1, 8),
        ([recipe], 2, 4),
    ]
    for number, (arguments, count, devices) in enumerate(plan):
        folder = tmp_path / f"start_{number}"
        last = number in (0, len(plan) - 1)
        fault = None if last else "stop 1"  # after that step; two processes some steps later
        with workers(folder, *[arguments] * count, devices=devices, fault=fault) as some:
            assert some.wait(300) == [0] * count, some.said(0)
    ours, theirs = logged_lines(config), logged_lines(expected)
    assert [line["step"] for line in ours] == list(range(1, 13))
    for line, other in zip(ours, theirs, strict=True):
        for name, value in other.items():
            if name.startswith("loss/"):
                np.testing.assert_allclose(line[name], value, rtol=1e-5, err_msg=name)
    seeds = [(Path(c.workdir) / "seeds.txt").read_text() for c in (config, expected)]
    assert seeds[0] == seeds[1]
