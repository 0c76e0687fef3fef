"""What tests of whole runs share."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from tiny_training import SMALLEST_IMAGE, frozen_networks, short_run

from cvvae_jax.checkpoint import save_model
from cvvae_jax.config import TrainConfig
from cvvae_jax.training import loop, programs
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


def trifling_step(state, batch, frozen, **_):
    """In place of a training step, whose program takes longer to make than all the rest: everything
    depends on the batch, but nothing is learned."""
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
