"""What tests of whole runs share."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from tiny_training import SMALLEST_IMAGE, frozen_networks, short_run

from cvvae_jax.checkpoint import save_model
from cvvae_jax.config import TrainConfig
from cvvae_jax.models.conv_forms import uses_reference_convolutions
from cvvae_jax.training import loop, programs, step
from cvvae_jax.training.state import Guard


@pytest.fixture(scope="session")
def image_vae(tmp_path_factory) -> str:
    """The folder of a random one."""
    folder = tmp_path_factory.mktemp("image_vae") / "model"
    save_model(folder, frozen_networks(SMALLEST_IMAGE).image_vae)
    return str(folder)


@pytest.fixture
def no_evaluations(monkeypatch) -> None:
    """Where they are not the point: their programs take longer than the rest of a short run."""
    monkeypatch.setattr(loop.Progress, "evaluation", lambda *_: None)
    monkeypatch.setattr(loop, "report", lambda *_: {})


@pytest.fixture(scope="module", autouse=True)
def programs_traced_once():
    """Runs that train by the same program share it: each would trace it again, which takes longer
    than all its steps."""
    kept: dict[tuple, programs.TrainProgram] = {}
    compiled = programs.TrainPrograms.compile

    def compile(these: programs.TrainPrograms, update, video_shape) -> programs.TrainProgram:
        job = these._job
        settings = (
            update,
            video_shape,
            job.stage,
            job.loss,
            job.mesh,
            these._seed,
            uses_reference_convolutions(),
        )
        arrays, structure = jax.tree.flatten((these._state, these._frozen))
        functions = (programs.train_step, step.accumulated_gradients)
        key = (*settings, *arrays, structure, *functions)
        if key not in kept:
            kept[key] = compiled(these, update, video_shape)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs.TrainPrograms, "compile", compile)
        yield


def trifling_step(state, batch, frozen, **_):
    """Stands in for a training step, whose program takes longer to make than all the rest:
    everything depends on the batch, but nothing is learned."""
    number = batch["video"].astype("float32").mean()
    changed = jax.tree.map(lambda x: x + number.astype(x.dtype), state)
    names = [field.name for field in dataclasses.fields(Guard)]
    guard = Guard(**{name: jnp.zeros((), jnp.int32) for name in names})
    metrics = {"loss/total": jnp.zeros(()), **{f"guard/{name}": jnp.zeros(()) for name in names}}
    return dataclasses.replace(changed, step=state.step + 1, guard=guard), metrics


@pytest.fixture
def trifling_steps(monkeypatch) -> None:
    """Steps that take no time."""
    monkeypatch.setattr(programs, "train_step", trifling_step)


@pytest.fixture
def trifling_run(image_vae, no_evaluations, trifling_steps, tmp_path) -> TrainConfig:
    """A run of steps that take no time."""
    config = short_run(tmp_path / "run", image_vae, gan="none")
    return dataclasses.replace(config, init="random")
