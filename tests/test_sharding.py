"""Several devices compute what one does: losses and gradients of all networks, in float32."""

import dataclasses
import functools
import itertools
import re

import jax
import numpy as np
import optax
import pytest
from tiny_training import (
    SMALLEST_IMAGE,
    SMALLEST_VIDEO,
    SMOOTH,
    STAGE,
    assert_gradients_equal,
    assert_metrics_equal,
    compiled_gradients,
    first_state,
    frozen_networks,
    random_batch,
)

from cvvae_jax import sharding
from cvvae_jax.config import MeshConfig
from cvvae_jax.errors import UserError
from cvvae_jax.training.state import TrainedNetworks
from cvvae_jax.training.step import train_step

# Sizes of (data, fsdp, space).
MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (4, 2, 1), (4, 1, 2), (1, 2, 4), (2, 2, 2)]
LOSSES = {
    "decoder": SMOOTH,
    "latents": dataclasses.replace(
        SMOOTH, compat_mode="latent:3,features:0.5", latent_distance="l2"
    ),
    "both_with_lpips": dataclasses.replace(
        SMOOTH, compat_mode="both", lpips_weight=0.5, compat_lpips_weight=0.5
    ),
}
CASES = list(itertools.product(MESHES, LOSSES))


@pytest.fixture(autouse=True)
def small_kernels_are_sharded(monkeypatch):
    monkeypatch.setattr(sharding, "SMALLEST_SHARDED", 1024)


def place(tree, mesh):
    return jax.device_put(tree, sharding.shardings(tree, mesh))


def batch_of(name: str, space: int) -> dict:
    """LPIPS needs 16 rows on every device."""
    return random_batch(8, height=16 * space if LOSSES[name].needs_lpips else 16)


@functools.cache
def on_one_device(name: str, space: int):
    frozen = frozen_networks(lpips=LOSSES[name].needs_lpips)
    return compiled_gradients(loss=LOSSES[name])(first_state(), batch_of(name, space), frozen)


# Whole steps on a mesh of every kind are quick, below.
@pytest.mark.slow
@pytest.mark.parametrize(("shape", "name"), CASES)
def test_losses_and_gradients_equal_those_of_one_device(shape, name):
    """Sums over the batch are taken in another order: 1e-4, where float32 would allow 1e-5."""
    data, fsdp, space = shape
    mesh = sharding.make_mesh(MeshConfig(data, fsdp, space), batches=(8,))
    state = place(first_state(), mesh)
    frozen = place(frozen_networks(lpips=LOSSES[name].needs_lpips), mesh)
    for network in (state.model.encoder.mid_block.resnets[0], state.discriminator.blocks[0]):
        kernel = network.conv1.kernel[...]
        assert kernel.addressable_shards[0].data.size == kernel.size // fsdp
    whole = batch_of(name, space)
    batch = sharding.put_batch(whole, mesh)
    assert batch["video"].addressable_shards[0].data.size == whole["video"].size // 8
    networks = TrainedNetworks(state.model, state.log_scales, state.discriminator)
    run = sharding.split_rows(compiled_gradients(loss=LOSSES[name]), mesh)
    run = jax.jit(run, out_shardings=(sharding.shardings(networks, mesh), None))
    with jax.set_mesh(mesh):
        program = run.lower(state, batch, frozen).compile()
    if fsdp == space == 1:  # devices only tell each other their gradients
        assert not re.search("all-gather|all-to-all|collective-permute", program.as_text())
    grads, metrics = program(state, batch, frozen)
    expected, expected_metrics = on_one_device(name, space)
    assert_metrics_equal(metrics, expected_metrics, tolerance=1e-4)
    for part in ("model", "log_scales", "discriminator"):
        assert_gradients_equal(getattr(grads, part), getattr(expected, part), tolerance=1e-4)


def step_on(mesh):
    """The state after a step of both networks, and what is logged of it."""
    state, frozen = first_state(SMALLEST_VIDEO), frozen_networks(SMALLEST_IMAGE)
    layout = sharding.shardings(state, mesh)
    loss = dataclasses.replace(SMOOTH, gan_penalty="lecam")
    step = functools.partial(train_step, update="joint", stage=STAGE, loss=loss, seed=0)
    step = sharding.split_rows(step, mesh)
    compiled = jax.jit(step, out_shardings=(layout, None), donate_argnums=0)
    batch = sharding.put_batch(random_batch(8), mesh)
    with jax.set_mesh(mesh):
        return compiled(jax.device_put(state, layout), batch, place(frozen, mesh))


@pytest.fixture(scope="module")
def step_on_one_device(with_reference_convolutions):
    return step_on(sharding.make_mesh(MeshConfig(), batches=(8,), devices=jax.devices()[:1]))


@pytest.mark.parametrize(
    "shape", [(8, 1, 1), (1, 8, 1), (1, 1, 8), pytest.param((2, 2, 2), marks=pytest.mark.slow)]
)
def test_step_with_sharded_moments_and_averages_equals_that_of_one_device(
    step_on_one_device, shape
):
    """Every logged number, norms of gradients and updates too, and the gradients, as the first
    moments hold them; 1e-4 as above. Single parameters are not compared: Adam's first steps turn
    the rounding of a zero gradient into a full step."""
    mesh = sharding.make_mesh(MeshConfig(*shape), batches=(8,))
    (one, expected), (state, metrics) = step_on_one_device, step_on(mesh)
    assert_metrics_equal(metrics, expected, tolerance=1e-4)
    for name in ("opt_state", "gan_opt_state"):
        moments, those_of_one = (optax.tree.get(getattr(x, name), "mu") for x in (state, one))
        assert_gradients_equal(moments, those_of_one, tolerance=1e-4)
    (_, adam, _), (_, gan_adam, _) = state.opt_state, state.gan_opt_state
    for kernel in (
        state.ema.encoder.mid_block.resnets[0].conv1.kernel,
        adam.nu[0].encoder.mid_block.resnets[0].conv1.kernel,
        gan_adam.mu.blocks[0].conv1.kernel,
    ):
        assert kernel[...].addressable_shards[0].data.size == kernel[...].size // mesh.shape["fsdp"]
    assert int(state.step) == 1
    assert np.isfinite(metrics["norm/discriminator"]) and metrics["norm/discriminator"] > 0


def test_batch_that_the_mesh_does_not_divide_names_the_nearest():
    with pytest.raises(UserError, match="batch of 12 can't be split over 8 devices; 8 or 16 can"):
        sharding.make_mesh(MeshConfig(), batches=(12,))


def test_small_batch_leaves_devices_out_and_says_so():
    mesh = sharding.make_mesh(MeshConfig(), batches=(4, 8))
    assert dict(mesh.shape) == {"data": 4, "fsdp": 1, "space": 1}
    assert "4 more are left out" in sharding.describe(mesh)


@pytest.mark.parametrize(
    "config", [MeshConfig(fsdp=3), MeshConfig(data=4, fsdp=4), MeshConfig(fsdp=4, space=4)]
)
def test_impossible_meshes_are_refused(config):
    with pytest.raises(UserError, match="devices"):
        sharding.make_mesh(config, batches=(8,))


def test_small_batch_leaves_devices_out_of_a_mesh_that_splits_frames():
    mesh = sharding.make_mesh(MeshConfig(space=4), batches=(1, 8))
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "space": 4}
    mesh = sharding.make_mesh(MeshConfig(space=4), batches=(8,))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "space": 4}


def test_frames_are_split_among_the_devices_of_one_process():
    """Others would have to read the same clip."""

    @dataclasses.dataclass(frozen=True)
    class Device:
        id: int
        process_index: int

    devices = [Device(i, i // 4) for i in range(8)]
    with pytest.raises(UserError, match="must divide the number of devices of every process"):
        sharding.make_mesh(MeshConfig(space=8), batches=(8,), devices=devices)
    mesh = sharding.make_mesh(MeshConfig(space=4), batches=(8,), devices=devices)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "space": 4}


@pytest.mark.parametrize(
    ("shape", "fsdp", "split"),
    [
        ((31, 33), 3, ()),
        ((32, 33), 3, (None, "fsdp")),
        ((66, 32), 2, ("fsdp",)),
        ((32, 32), 3, ()),
        ((32, 32), 1, ()),
    ],
    ids=["1023_numbers", "1056_numbers", "largest_axis", "undivided", "one_device"],
)
def test_kernels_of_1024_numbers_and_more_are_split(shape, fsdp, split):
    assert sharding.split_largest_axis(shape, fsdp) == jax.P(*split)


def test_nearest_batches_are_those_of_the_mesh_and_of_all_parts():
    with pytest.raises(UserError, match="batch of 4 can't be split over 8 devices; 8 can"):
        sharding.make_mesh(MeshConfig(data=8), batches=(4,))
    with pytest.raises(UserError, match=r"batch of 12 .* over 4 devices in 2 parts; 8 or 16 can"):
        sharding.make_mesh(MeshConfig(data=4), batches=(12,), accumulate=2)
