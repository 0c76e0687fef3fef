"""`--profile N` leaves a trace of N steps where TensorBoard looks for it."""

import contextlib
import dataclasses
from pathlib import Path

import jax
import pytest
from tiny_training import short_run

from cvvae_jax.training import loop
from cvvae_jax.training.profile import Profile


def traced(folder: Path, steps: int) -> Profile:
    return Profile(folder, steps, pause=contextlib.nullcontext)


def steps_of(folder: Path) -> list[int]:
    """The numbers of the training steps that a trace shows."""
    (trace,) = folder.glob("plugins/profile/*/*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(trace)).planes
    events = (event for plane in planes for line in plane.lines for event in line.events)
    return sorted(dict(event.stats)["step_num"] for event in events if event.name == "train")


@pytest.mark.usefixtures("no_evaluations", "trifling_steps")
def test_steps_are_traced_once_their_program_is_compiled(tmp_path, image_vae, capsys):
    """The two networks are trained in turns: the first two steps have to be compiled."""
    config = dataclasses.replace(short_run(tmp_path / "run", image_vae), profile=3)
    loop.train(config)
    board = tmp_path / "run" / "tensorboard"
    assert steps_of(board) == [3, 4, 5]
    assert f"a trace of 3 steps is in {board}" in capsys.readouterr().out


def test_a_run_that_ends_early_has_the_steps_until_then(tmp_path, capsys):
    profile = traced(tmp_path, 5)
    for number, is_new in enumerate([True, True, False, True, False]):
        profile.before_step(is_new=is_new, wait=lambda: None)
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            jax.numpy.ones(3).block_until_ready()
        profile.after_step(wait=lambda: None)
    profile.stop()
    assert steps_of(tmp_path / "tensorboard") == [2, 3, 4]
    assert "a trace of 3 steps" in capsys.readouterr().out


def test_a_trace_that_cannot_be_written_is_said_and_training_goes_on(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("no folder")
    profile = traced(tmp_path, 1)
    profile.before_step(is_new=False, wait=lambda: None)
    profile.after_step(wait=lambda: None)
    assert "warning: no trace is written" in capsys.readouterr().out
    with jax.profiler.trace(tmp_path / "other"):  # the profiler is free for others
        pass


def test_a_trace_that_fails_at_its_end_is_said_and_training_goes_on(tmp_path, capsys, monkeypatch):
    def full_disk():
        raise OSError("No space left on device")

    profile = traced(tmp_path, 1)
    profile.before_step(is_new=False, wait=lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(jax.profiler, "stop_trace", full_disk)
        profile.after_step(wait=lambda: None)
    jax.profiler.stop_trace()
    assert "warning: no trace is written (No space left on device)" in capsys.readouterr().out


def test_a_trace_that_cannot_be_started_is_said_and_training_goes_on(tmp_path, capsys):
    profile = traced(tmp_path, 1)
    with jax.profiler.trace(tmp_path / "other"):
        profile.before_step(is_new=False, wait=lambda: None)
        profile.after_step(wait=lambda: None)
    assert "warning: no trace is written" in capsys.readouterr().out
    profile.before_step(is_new=False, wait=lambda: None)
    assert not [path for path in (tmp_path / "tensorboard").rglob("*") if path.is_file()]


def test_what_follows_the_last_step_is_not_in_its_trace(tmp_path):
    """An evaluation, say; and the devices have done the steps before the trace ends."""
    profile, waits = traced(tmp_path, 1), []
    profile.before_step(is_new=False, wait=lambda: waits.append("start"))
    with jax.profiler.StepTraceAnnotation("train", step_num=7):
        pass
    profile.after_step(wait=lambda: waits.append("end"))
    assert waits == ["start", "end"]
    assert steps_of(tmp_path / "tensorboard") == [7]


def test_without_profile_nothing_is_written(tmp_path):
    profile = traced(tmp_path, 0)
    for _ in range(3):
        profile.before_step(is_new=False, wait=lambda: None)
        profile.after_step(wait=lambda: None)
    profile.stop()
    assert not list(tmp_path.iterdir())
