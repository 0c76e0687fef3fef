"""Runs that meet losses that are no numbers: skipped, rolled back once, then given up."""

import dataclasses
import gc
import itertools
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import logged_lines, short_run

from cvvae_jax import sharding
from cvvae_jax.config import TrainConfig
from cvvae_jax.data.pipeline import batches
from cvvae_jax.errors import UserError
from cvvae_jax.processes.stop import Stopped
from cvvae_jax.training import loop
from cvvae_jax.training import step as step_module
from cvvae_jax.training.state import TrainedNetworks


def mean_of_video(state, video, draws, frozen, *, update, stage, loss):
    """Stands in for a batch's gradients, of which a guard sees only whether they are numbers; they
    are NaN where a whole batch is white."""
    number = jnp.where((video == 255).all(), jnp.nan, video.astype("float32").mean())
    model, log_scales = jax.tree.map(lambda x: 0 * x + number, (state.model, state.log_scales))
    return TrainedNetworks(model, log_scales, None), {"loss/total": number}


@pytest.fixture
def config(image_vae, no_evaluations, tmp_path, monkeypatch) -> TrainConfig:
    """A run whose loss and gradients of white batches are no numbers."""
    monkeypatch.setattr(step_module, "accumulated_gradients", mean_of_video)
    config = short_run(tmp_path / "run", image_vae, gan="none")
    stage = dataclasses.replace(config.train, max_skipped=2)
    return dataclasses.replace(config, train=stage)


class Feed:
    """Stands in for `put_batch`: notes which batches of the data a run is given, and makes those at
    some positions of the data white."""

    def __init__(self, config: TrainConfig, monkeypatch, *, bad: set[int]):
        stream = batches(config.train, config.data, seed=config.seed, start_step=0)
        seeds = [batch["seed"].tolist() for batch in itertools.islice(stream, 24)]
        stream.close()
        self.positions: list[int] = []
        self._put, self._seeds, self._bad = sharding.put_batch, seeds, bad
        monkeypatch.setattr(loop.sharding, "put_batch", self)

    def __call__(self, batch, mesh):
        position = self._seeds.index(batch["seed"].tolist())
        self.positions.append(position)
        if position in self._bad:
            batch = batch | {"video": np.full_like(batch["video"], 255)}
        return self._put(batch, mesh)


def saved_guard(config: TrainConfig, step: int) -> dict[str, int]:
    names = ("skipped", "vae_in_a_row", "rollbacks", "data_offset")
    (line,) = (line for line in logged_lines(config) if line["step"] == step)
    return {name: line[f"guard/{name}"] for name in names}


def test_run_goes_on_after_fewer_bad_batches_than_are_too_many(config, monkeypatch):
    feed = Feed(config, monkeypatch, bad={3, 5, 8})
    loop.train(config)
    assert feed.positions == list(range(9))
    assert saved_guard(config, 9)["skipped"] == 3
    assert [line["guard/vae_in_a_row"] for line in logged_lines(config)] == [
        0,
        0,
        0,
        1,
        0,
        1,
        0,
        0,
        1,
    ]
    losses = [line["loss/total"] for line in logged_lines(config)]
    assert [loss is None for loss in losses] == [n in (3, 5, 8) for n in range(9)]


def test_run_goes_back_to_its_checkpoint_and_on_behind_the_bad_batches(config, monkeypatch):
    """Steps 5 and 6 are bad. From the checkpoint of step 3 it goes on 3 batches further, and one
    more to keep pairs of steps together."""
    feed = Feed(config, monkeypatch, bad={4, 5})
    loop.train(config)
    assert feed.positions == [*range(6), *range(7, 13)]
    expected = {"skipped": 2, "vae_in_a_row": 0, "rollbacks": 1, "data_offset": 4}
    assert saved_guard(config, 9) == expected
    assert [line["step"] for line in logged_lines(config)] == list(range(1, 10))
    assert "going back to step 3" in (Path(config.workdir) / "log.txt").read_text()


@pytest.mark.slow
def test_checkpoint_that_is_still_being_written_is_waited_for(config, monkeypatch):
    """Step 3 is saved in the background while the next two turn out bad."""
    feed = Feed(config, monkeypatch, bad={3, 4})
    loop.train(config)
    assert feed.positions[-6:] == list(range(5, 11))
    assert saved_guard(config, 9)["data_offset"] == 2


def test_second_divergence_ends_the_run_with_advice(config, monkeypatch):
    Feed(config, monkeypatch, bad={1, 2, 9, 10})
    with pytest.raises(UserError, match="video VAE diverged again at step 7: 2 updates in a row"):
        loop.train(config)
    assert (Path(config.workdir) / "checkpoints/3/weights").exists()


def test_resumed_run_goes_on_where_its_data_were(config, monkeypatch):
    """Killed at step 8, after a rollback that left out two batches; the checkpoint is of 6."""
    feed = Feed(config, monkeypatch, bad={3, 4})
    put_batch = feed._put

    def interrupted(batch, mesh):
        if len(feed.positions) == 5 + 1 + 5:
            raise KeyboardInterrupt
        return put_batch(batch, mesh)

    feed._put = interrupted
    with pytest.raises(KeyboardInterrupt):
        loop.train(config)
    feed._put = put_batch
    feed.positions.clear()
    loop.train(config)
    assert feed.positions == [8, 9, 10]
    assert saved_guard(config, 9) == {
        "skipped": 2,
        "vae_in_a_row": 0,
        "rollbacks": 1,
        "data_offset": 2,
    }


@pytest.mark.slow
def test_no_checkpoint_is_made_while_updates_are_skipped(config, monkeypatch):
    """What it would hold may be the cause. The last step has one whatever happens."""
    Feed(config, monkeypatch, bad={5, 8})
    loop.train(config)
    folder = Path(config.workdir) / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"3", "9"}


@pytest.mark.slow
def test_signal_is_heard_though_the_run_goes_back(config, monkeypatch):
    """It comes with the batch whose step is one too many to be skipped: the run ends where it has
    gone back to."""
    feed = Feed(config, monkeypatch, bad={4, 5})
    put_batch = feed._put

    def signaled(batch, mesh):
        if feed.positions[-1] == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return put_batch(batch, mesh)

    feed._put = signaled
    with pytest.raises(Stopped, match="SIGTERM after step 3"):
        loop.train(config)
    names = {path.name for path in (Path(config.workdir) / "checkpoints").iterdir()}
    assert names == {"3"}


@pytest.mark.slow
def test_without_a_checkpoint_it_goes_back_to_the_beginning_and_needs_room_for_one_state(
    config, monkeypatch
):
    """The state that diverged is let go before another one is made; measured without a checkpoint,
    since arrays stay while they are being saved."""
    feed = Feed(config, monkeypatch, bad={0, 1})
    stage = dataclasses.replace(config.train, checkpoint_every=100)
    config = dataclasses.replace(config, train=stage)
    live, first_state = [], loop._first_state

    def measured(run):
        gc.collect()
        live.append(bytes_of(jax.live_arrays()))
        state = first_state(run)
        live.append(bytes_of(jax.tree.leaves(state)))
        return state

    monkeypatch.setattr(loop, "_first_state", measured)
    loop.train(config)
    assert feed.positions[-9:] == list(range(2, 11))
    assert saved_guard(config, 9)["data_offset"] == 2
    before_training, of_a_state, before_rollback, _ = live
    assert before_rollback < before_training + 0.5 * of_a_state


def bytes_of(arrays: list) -> int:
    return sum(array.nbytes for array in arrays)
