"""Several devices compute what one does: losses and gradients, in float32."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from cvvae_jax import paths, sharding
from cvvae_jax.config import (
    Bucket,
    ConfigError,
    ImageVAEConfig,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
    StageConfig,
    VideoVAEConfig,
)
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.pixels import to_float
from cvvae_jax.models.video_vae import VideoVAE, function_preserving
from cvvae_jax.training.optimizer import make_optimizer
from cvvae_jax.training.state import TrainState
from cvvae_jax.training.step import objective, train_step

WIDTHS = {"block_channels": (16, 32, 64), "blocks_per_level": 1, "norm_groups": 4}


def models() -> tuple[VideoVAE, ImageVAE]:
    image = ImageVAEConfig(**WIDTHS)
    config = function_preserving(VideoVAEConfig(temporal_strides=(2, 2), **WIDTHS), image)
    return VideoVAE(config, rngs=nnx.Rngs(0)), ImageVAE(image, rngs=nnx.Rngs(1))


def loss_and_gradients(model, video, seeds, frozen):
    key = jax.random.key(0)
    keys = jax.vmap(lambda seed: jax.random.fold_in(key, seed))(seeds)
    (total, metrics), grads = jax.value_and_grad(objective, has_aux=True)(
        model, to_float(video), frozen, keys, key, loss=LossConfig()
    )
    return total, metrics, grads


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (8, 5, 16, 24, 3), np.uint8)
    return {"video": video, "seed": rng.integers(0, 2**32, 8, np.uint32)}


@pytest.fixture(scope="module")
def on_one_device(batch):
    model, frozen = models()
    return jax.jit(loss_and_gradients)(model, batch["video"], batch["seed"], frozen)


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (4, 2), (1, 8)])
def test_loss_and_gradients_equal_those_of_one_device(
    data, fsdp, batch, on_one_device, monkeypatch
):
    """Sums over the batch are taken in another order: 1e-4, where float32 would allow about 1e-5.

    Gradients that are zero but for rounding (biases before a norm) are compared with 1e-6 of the
    global norm.
    """
    monkeypatch.setattr(sharding, "SMALLEST_SHARDED", 1024)
    model, frozen = models()
    mesh = sharding.make_mesh(MeshConfig(data=data, fsdp=fsdp), batches=(8,))
    model, frozen = (jax.device_put(m, sharding.shardings(m, mesh)) for m in (model, frozen))
    if fsdp > 1:
        kernel = model.encoder.mid_block.resnets[0].conv1.kernel[...]
        assert kernel.addressable_shards[0].data.size == kernel.size // fsdp
    placed = sharding.put_batch(batch, mesh)
    assert placed["video"].addressable_shards[0].data.shape[0] == 1
    layout = sharding.shardings(model, mesh)
    run = jax.jit(loss_and_gradients, out_shardings=(None, None, layout))
    total, metrics, grads = run(model, placed["video"], placed["seed"], frozen)
    expected_total, expected_metrics, expected_grads = on_one_device
    np.testing.assert_allclose(total, expected_total, rtol=1e-4)
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    assert_gradients_equal(grads, expected_grads)


def test_step_with_sharded_moments_and_averages_equals_that_of_one_device(batch, monkeypatch):
    """Norms of all gradients and of the update; 1e-4 as above. Single parameters are not compared:
    Adam's first steps turn the rounding of a zero gradient into a full step. L2, since the gradient
    of L1 jumps where rounding turns an error's sign: here at 1 of 46080 values, which moves its
    norm by 1.02e-4; that of L2 is equal to the bit."""
    monkeypatch.setattr(sharding, "SMALLEST_SHARDED", 1024)
    stage = StageConfig(10, (Bucket(5, 24, 8),), OptimizerConfig(warmup_steps=0))
    loss = LossConfig(recon="l2")

    def run(mesh):
        model, frozen = models()
        state = TrainState.create(model, make_optimizer(stage.optimizer, stage.steps))
        layout = sharding.shardings(state, mesh)
        step = functools.partial(train_step, stage=stage, loss=loss, seed=0)
        compiled = jax.jit(step, out_shardings=(layout, None), donate_argnums=0)
        frozen = jax.device_put(frozen, sharding.shardings(frozen, mesh))
        return compiled(jax.device_put(state, layout), sharding.put_batch(batch, mesh), frozen)

    one = sharding.make_mesh(MeshConfig(), batches=(8,), devices=jax.devices()[:1])
    several = sharding.make_mesh(MeshConfig(data=4, fsdp=2), batches=(8,))
    (_, expected), (state, metrics) = run(one), run(several)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    average = state.ema.encoder.mid_block.resnets[0].conv1.kernel[...]
    assert average.addressable_shards[0].data.size == average.size // 2
    assert int(state.step) == 1


def assert_gradients_equal(ours, theirs):
    ours, theirs = paths.flatten(ours), paths.flatten(theirs)
    floor = 1e-6 * np.sqrt(sum(float((g**2).sum()) for g in theirs.values()))
    for path, gradient in theirs.items():
        error = np.abs(np.asarray(ours[path]) - np.asarray(gradient)).max()
        assert error <= max(1e-4 * np.abs(gradient).max(), floor), path


def test_batch_that_the_mesh_does_not_divide_names_the_nearest():
    with pytest.raises(ConfigError, match="batch of 12 can't be split over 8 devices; 8 or 16 can"):
        sharding.make_mesh(MeshConfig(), batches=(12,))


def test_small_batch_leaves_devices_out_and_says_so():
    mesh = sharding.make_mesh(MeshConfig(), batches=(4, 8))
    assert dict(mesh.shape) == {"data": 4, "fsdp": 1}
    assert "4 more are left out" in sharding.describe(mesh)


@pytest.mark.parametrize("config", [MeshConfig(fsdp=3), MeshConfig(data=4, fsdp=4)])
def test_impossible_meshes_are_refused(config):
    with pytest.raises(ConfigError, match="devices"):
        sharding.make_mesh(config, batches=(8,))
