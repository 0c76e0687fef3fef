"""The benchmark of the training step measures what it says: PyTorch's step is ours, rows that don't
fit are reported, and the whole runs."""

import dataclasses
import functools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.train_step import table, workers
from benchmarks.train_step.__main__ import Benchmark, main, rows
from benchmarks.train_step.setting import Networks, Row, random_batch
from cvvae_jax import parameter_paths
from cvvae_jax.convert import families
from cvvae_jax.convert.names import official_name
from cvvae_jax.models.inputs import to_float
from cvvae_jax.training.objective import Batch, Draws
from cvvae_jax.training.state import LogitMeans, LogScales
from cvvae_jax.training.state import TrainedNetworks as Trained
from cvvae_jax.training.step import gradients

ROW = Row("jax", "video", "joint", "default", "none", family="sd3", tiny=True, devices=1)


def test_rows_are_all_combinations():
    ours = list(rows(Benchmark()))
    assert len(ours) == 2 * 2 * 3 * 3
    both = list(rows(Benchmark(torch=True)))
    assert [row for row in both if row.side == "jax"] == ours
    assert len(both) - len(ours) == 2 * 2 * 2
    assert len(set(both)) == len(both)


def test_table_shows_medians_and_failures():
    result = workers.Result(ROW, {"peak_flops": 2e12, "executed": 3e12, "official": 1e12})
    result.runs = [{"joint": seconds, "cpu": 2 * seconds} for seconds in (9.0, 2.0, 3.0)]
    cells = table.line(result).split()
    assert cells[5] == "3.0000"
    assert cells[8] == "6.000"  # of the processors
    assert cells[9] == "3.00"  # 9 frames in 3 seconds
    assert cells[13] == "50.0"  # executed, % of the peak
    result.failure = workers.OUT_OF_MEMORY
    assert table.line(result).endswith(workers.OUT_OF_MEMORY)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying"), workers.OUT_OF_MEMORY),
        (MemoryError(), workers.OUT_OF_MEMORY),
        (ValueError("a shape\nthat is wrong"), "failed: ValueError: a shape"),
    ],
)
def test_errors_are_told_in_a_line(error, shown):
    assert workers.describe(error) == shown


def test_killed_row_is_out_of_memory():
    worker = workers._Worker(dataclasses.replace(ROW, family="none"))
    os.kill(worker._process.pid, signal.SIGKILL)
    with pytest.raises(workers.RowFailed, match=workers.OUT_OF_MEMORY):
        worker.ask("facts")
    worker.close()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd3", "sd21"])
def test_torch_step_is_ours(family):
    """It has our losses, and the gradient of every tensor has the length of ours."""
    torch = pytest.importorskip("torch")
    from benchmarks.train_step import theirs

    row = dataclasses.replace(ROW, family=family)
    config, noise, offsets = row.config, *_draws(row)
    networks = Networks.random(row)
    video = random_batch(row.bucket)["video"]
    batch = Batch(to_float(jnp.asarray(video)), Draws(noise, noise, offsets))
    run = functools.partial(gradients, update="joint", loss=config.loss, remat="none")
    trained = Trained(networks.model, LogScales.create(0.0), networks.discriminator)
    ours, metrics = jax.jit(run)(trained, LogitMeans.create(), batch, networks.frozen)

    official = theirs.OfficialNetworks.create(networks, config, device="cpu")
    channels_first = functools.partial(np.moveaxis, source=-1, destination=1)
    tensors = (torch.from_numpy(channels_first(np.array(x)).copy()) for x in (batch.video, noise))
    clip, draw = tensors
    with theirs._not_trained(official.discriminator):
        loss, recon = theirs.generator_loss(official, clip, draw, torch.tensor(np.array(offsets)))
    loss.backward()
    judged = theirs.discriminator_loss(official, clip, recon)
    judged.backward()
    np.testing.assert_allclose(loss.item(), metrics["loss/total"], rtol=1e-4)
    np.testing.assert_allclose(judged.item(), metrics["loss/gan_d"], rtol=1e-4)
    kinds = {"sd3": families.SD3, "sd21": families.SD21}
    _assert_same_lengths(ours.model, official.vae, kinds[family])
    _assert_same_lengths(ours.discriminator, official.discriminator, families.DISCRIMINATOR)


def _draws(row: Row):
    bucket, z = row.bucket, row.config.model.latent_channels
    groups, side = (bucket.frames - 1) // 4, bucket.size // 8
    noise = jax.random.normal(jax.random.key(0), (bucket.batch, 1 + groups, side, side, z))
    return noise, jnp.arange(groups) % 4


def _assert_same_lengths(ours, theirs, family) -> None:
    """To 1e-3, or 1e-6 of the longest where the true gradient is zero."""
    rows = family.layer_names(ours.config)
    lengths = {
        official_name(rows, path)[0]: float(np.linalg.norm(leaf))
        for path, leaf in parameter_paths.flatten(ours).items()
    }
    longest = max(lengths.values())
    for name, length in lengths.items():
        gradient = theirs[name].grad
        their_length = 0.0 if gradient is None else gradient.norm().item()
        assert abs(their_length - length) <= 1e-3 * length + 1e-6 * longest, name


@pytest.mark.slow
def test_runs_end_to_end(capsys, tmp_path):
    pytest.importorskip("torch")
    options = Benchmark(
        batches=("images",),
        updates=("joint",),
        precisions=("default",),
        remats=("none",),
        torch=True,
        tiny=True,
        warm_up=0,
        repeats=1,
        profile=tmp_path,
    )
    main(options)
    lines = capsys.readouterr().out.splitlines()
    seconds = {line.split()[0]: float(line.split()[5]) for line in lines if " joint " in line}
    assert set(seconds) == {"jax", "torch"}
    assert all(value > 0 for value in seconds.values())
    assert list(tmp_path.rglob("*.xplane.pb"))
