"""Training a part of a VAE: the rest stays the same to the bit, and costs nothing."""

import dataclasses
import functools
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import trifling_step
from flax import nnx
from tiny_training import (
    IMAGE,
    SMALLEST_IMAGE,
    SMALLEST_VIDEO,
    SMOOTH,
    STAGE,
    VIDEO,
    assert_gradients_equal,
    assert_metrics_equal,
    first_state,
    frozen_networks,
    random_batch,
    short_run,
)

from cvvae_jax import parameter_paths, sharding
from cvvae_jax.checkpoint import save_model
from cvvae_jax.config import MeshConfig
from cvvae_jax.errors import ConfigError, UserError
from cvvae_jax.hardware import count_flops
from cvvae_jax.loading import load
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.training import loop, programs
from cvvae_jax.training.jobs import plan_run
from cvvae_jax.training.programs import abstract_stages, bytes_per_device
from cvvae_jax.training.state import Optimizers, TrainState
from cvvae_jax.training.step import train_step
from cvvae_jax.training.trainable import (
    check_frozen,
    checksums,
    chosen_paths,
    merged,
    partition,
    trains_encoder,
)

pytestmark = pytest.mark.usefixtures("with_reference_convolutions")


def slow(*names: str) -> list:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


KERNELS = r".*/(conv1|conv_out)/kernel"
# No clipping, which would depend on the frozen parameters' gradients, too; and an epsilon by which
# an update is nearly proportional to the gradient, where Adam's own turns rounding into full steps.
LINEAR = dataclasses.replace(STAGE.optimizer, clip_norm=1e9, eps=1e3)


def state_for(trainable: str, *, config=VIDEO, gan: bool = True, optimizer=None) -> TrainState:
    whole = first_state(config, gan=gan)
    stage = dataclasses.replace(STAGE, optimizer=optimizer or STAGE.optimizer)
    return TrainState.create(
        whole.model,
        whole.discriminator,
        Optimizers.create(stage),
        log_scale=0.1,
        trainable=trainable,
    )


def settled(update: str, trainable: str, *, loss=SMOOTH, **changes):
    stage = dataclasses.replace(STAGE, trainable=trainable, **changes)
    return functools.partial(train_step, update=update, stage=stage, loss=loss, seed=0)


def flat(tree) -> dict[str, np.ndarray]:
    return {path: np.array(leaf) for path, leaf in parameter_paths.flatten(tree).items()}


def assert_frozen(model, before: dict[str, np.ndarray], trainable: str) -> None:
    """Frozen parameters are the same to the bit, and every chosen one has changed, but for biases
    before a norm, whose gradient is zero."""
    chosen, now = set(chosen_paths(model, trainable)), flat(model)
    assert 0 < len(chosen) < len(now)
    for path, leaf in now.items():
        if path not in chosen:
            np.testing.assert_array_equal(leaf, before[path], err_msg=path)
        elif path.endswith("kernel"):
            assert (leaf != before[path]).any(), path


def test_parts_have_the_parameters_that_their_names_say():
    model = first_state(gan=False).model
    assert trains_encoder(model, "all") and trains_encoder(model, KERNELS)
    assert trains_encoder(model, "encoder") and not trains_encoder(model, "decoder")
    names = {"decoder/conv_out/kernel", "decoder/conv_out/bias"}
    assert set(chosen_paths(model, "last-layer")) == names
    both = [*chosen_paths(model, "encoder"), *chosen_paths(model, "decoder")]
    assert sorted(both) == sorted(chosen_paths(model, "all")) == sorted(flat(model))
    for trainable in ("all", "decoder", KERNELS):
        parts = partition(model, trainable)
        assert jax.tree.structure(merged(*parts)) == jax.tree.structure(model)
        assert sum(map(parameter_paths.count, parts)) == parameter_paths.count(model)


def test_convolutions_beside_the_latents_belong_to_their_network():
    with_quant = ImageVAE(dataclasses.replace(IMAGE, quant_conv=True), rngs=nnx.Rngs(0))
    decoder = chosen_paths(with_quant, "decoder")
    encoder = chosen_paths(with_quant, "encoder")
    assert "post_quant_conv/kernel" in decoder and "quant_conv/kernel" in encoder
    assert not set(decoder) & set(encoder) and trains_encoder(with_quant, "quant_conv/.*")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_checksums_see_every_change_of_an_entry(dtype):
    """Any bit of any entry, entries that change places, and zeros that change their sign."""
    model = first_state(SMALLEST_VIDEO, gan=False).model
    model = jax.tree.map(lambda leaf: leaf.astype(dtype), model)
    before = checksums(model, "decoder")
    path = "encoder/conv_in/kernel"
    number = list(flat(partition(model, "decoder")[1])).index(path)
    leaf = parameter_paths.flatten(model)[path]
    bits = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")

    def changed(change) -> np.ndarray:
        flat_bits = np.asarray(leaf).view(bits).ravel().copy()
        change(flat_bits)
        array = jnp.asarray(flat_bits.view(leaf.dtype).reshape(leaf.shape))
        leaves = parameter_paths.flatten(model) | {path: array}
        return np.asarray(checksums(parameter_paths.unflatten(model, leaves), "decoder"))

    def flipped(array, place, bit):
        array[place] ^= 1 << bit

    def swapped(array):
        array[[3, 4]] = array[[4, 3]]

    changes = [functools.partial(flipped, place=p, bit=b) for p in (0, 7, -1) for b in (0, 9, 15)]
    for change in (*changes, swapped):
        assert list(np.flatnonzero(changed(change) != np.asarray(before))) == [number]
    assert checksums(model, "all") is None


def test_change_of_a_frozen_parameter_is_an_error_that_names_it():
    model = first_state(SMALLEST_VIDEO, gan=False).model
    before = checksums(model, "decoder")
    check_frozen(model, "decoder", before)
    path = "encoder/conv_out/bias"
    leaves = parameter_paths.flatten(model)
    leaves |= {path: leaves[path] + 1e-6}
    with pytest.raises(UserError, match=f"1 of .* frozen parameters have changed .* {path} among"):
        check_frozen(parameter_paths.unflatten(model, leaves), "decoder", before)


@functools.cache
def after_a_step(trainable: str):
    """The state after a step without clipping, and the step's metrics."""
    loss = dataclasses.replace(SMOOTH, compat_mode="both")
    step = jax.jit(settled("joint", trainable, loss=loss, optimizer=LINEAR))
    state = state_for(trainable, config=SMALLEST_VIDEO, optimizer=LINEAR)
    return step(state, random_batch(2), frozen_networks(SMALLEST_IMAGE))


@pytest.mark.parametrize("trainable", ["decoder", KERNELS, *slow("encoder", "last-layer")])
def test_update_equals_that_of_the_whole_model_restricted_to_the_part(trainable):
    """Of one step in float32 against the GAN and both kinds of compatibility, without clipping.

    The gradients are compared as the first moments hold them. Sums are fused in other ways: 1e-5.
    """
    (whole, metrics), (part, part_metrics) = after_a_step("all"), after_a_step(trainable)
    moments = [flat(optax.tree.get(state.opt_state, "mu")) for state in (whole, part)]
    assert {p for p in moments[1] if p.startswith("00/")} == {
        f"00/{path}" for path in chosen_paths(part.model, trainable)
    }
    restricted = {path: moments[0][path] for path in moments[1]}
    assert_gradients_equal(moments[1], restricted, tolerance=1e-5)
    start = flat(first_state(SMALLEST_VIDEO).model)
    updates = [
        {p: flat(state.model)[p] - start[p] for p in chosen_paths(part.model, trainable)}
        for state in (whole, part)
    ]
    for path, update in updates[1].items():  # differences of numbers near 1: 2^-23 each
        np.testing.assert_allclose(update, updates[0][path], rtol=1e-3, atol=3e-7, err_msg=path)
    averages = flat(part.ema)
    assert set(averages) == set(updates[1])
    for path, average in averages.items():
        np.testing.assert_allclose(average, flat(whole.ema)[path], rtol=1e-5, atol=1e-6)
    same = set(metrics) - {"norm/generator", "norm/generator_update"}
    assert_metrics_equal(
        {name: part_metrics[name] for name in same},
        {name: metrics[name] for name in same},
        tolerance=1e-4,
    )
    assert part_metrics["norm/generator"] < metrics["norm/generator"]


def trained_on(shape: tuple[int, int, int], trainable: str, steps: int, **changes):
    """The state after some steps on a mesh (data, fsdp, space), and the metrics of the last."""
    devices = jax.devices()[: int(np.prod(shape))]
    mesh = sharding.make_mesh(MeshConfig(*shape), batches=(8,), devices=devices)
    state = state_for(trainable, config=SMALLEST_VIDEO)
    layout = sharding.shardings(state, mesh)
    step = sharding.split_rows(settled("joint", trainable, **changes), mesh)
    step = jax.jit(step, out_shardings=(layout, None), donate_argnums=0)
    frozen = frozen_networks(SMALLEST_IMAGE)
    frozen = jax.device_put(frozen, sharding.shardings(frozen, mesh))
    state = jax.device_put(state, layout)
    with jax.set_mesh(mesh):
        for _ in range(steps):
            state, metrics = step(state, sharding.put_batch(random_batch(8), mesh), frozen)
        check_frozen(state.model, trainable, state.frozen_checksums)
    return state, metrics


@pytest.mark.parametrize("trainable", [KERNELS, *slow("decoder")])
def test_frozen_parameters_stay_the_same_to_the_bit_on_one_device_and_on_a_mesh(
    trainable, monkeypatch
):
    """Three steps against the GAN, on the mesh with parameters and moments divided, rows of frames
    split, and a batch in two parts."""
    monkeypatch.setattr(sharding, "SMALLEST_SHARDED", 1024)
    before = flat(first_state(SMALLEST_VIDEO).model)
    one, expected = trained_on((1, 1, 1), trainable, 3)
    many, metrics = trained_on((2, 2, 2), trainable, 3, accumulate=2)
    for state in (one, many):
        assert_frozen(state.model, before, trainable)
        assert_frozen(state.averaged, before, trainable)
    # Losses after two updates of Adam, which turns the rounding of small gradients into steps.
    for name in ("loss/total", "loss/recon", "norm/generator"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=2e-2, err_msg=name)
    moments = optax.tree.get(many.opt_state, "mu")[0]
    assert set(flat(moments)) == set(chosen_paths(many.model, trainable))
    kernel = moments.decoder.mid_block.resnets[0].conv1.kernel[...]
    assert kernel.addressable_shards[0].data.size == kernel.size // 2


def shapes_of(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def flops_of(update: str, trainable: str, **loss) -> float:
    arguments = shapes_of((state_for(trainable), random_batch(8), frozen_networks()))
    step = settled(update, trainable, loss=dataclasses.replace(SMOOTH, **loss))
    return forward_flops(step, *arguments)


def forward_flops(function, *shapes) -> float:
    return count_flops(jax.jit(function).trace(*shapes).jaxpr)


def test_no_gradient_of_what_is_frozen_is_computed():
    """Counted: the last layer's kernel needs as many operations as its output, behind one forward
    pass; and of a frozen encoder's view, the image decoder goes forward alone."""
    model, image_vae = shapes_of((first_state().model, frozen_networks().image_vae))
    video = jax.ShapeDtypeStruct((8, 5, 16, 16, 3), jnp.float32)
    latents = jax.eval_shape(lambda m, v: m.encode(v).mean, model, video)
    forward = forward_flops(lambda m, v: m.decode(m.encode(v).mean), model, video)
    hidden = jax.eval_shape(lambda m, z: m.decode_hidden(z), model, latents)
    last = forward_flops(lambda m, x: m.decoder.conv_out(x), model, hidden)
    plain = {"gan": "none", "compat_mode": "none"}
    assert flops_of("plain", "last-layer", **plain) == pytest.approx(forward + last)
    view = forward_flops(lambda m, z: m.decode(z), image_vae, latents)
    decoder = flops_of("plain", "decoder", **plain)
    with_view = flops_of("plain", "decoder", gan="none")
    assert with_view - decoder == pytest.approx(view)
    assert forward + last < decoder < flops_of("plain", "all", **plain)


@pytest.fixture
def config(image_vae, no_evaluations, tmp_path):
    """A run of a video VAE from a file, of which the decoder is trained."""
    save_model(tmp_path / "start", first_state(SMALLEST_VIDEO, gan=False).model)
    config = short_run(tmp_path / "run", image_vae, gan="none")
    train = dataclasses.replace(config.train, trainable="decoder")
    return dataclasses.replace(config, train=train, init_weights=str(tmp_path / "start"))


def trainable_set(config, trainable: str):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, trainable=trainable))


def test_run_that_goes_on_ends_the_same_with_frozen_parameters_of_its_file(config):
    """The same program on the same numbers: equal to the bit. Then, other parameters can't be
    trained in its folder, and the same ones by another name can."""
    loop.train(config)
    folder = Path(config.workdir)
    before = flat(load(config.init_weights))
    ends = flat(load(folder)), flat(load(folder, raw=True))
    for end in (load(folder), load(folder, raw=True)):
        assert_frozen(end, before, "decoder")
    for step in (6, 9):
        shutil.rmtree(folder / f"checkpoints/{step}")
    loop.train(trainable_set(config, "(decoder)/.*"))
    log = (folder / "log.txt").read_text()
    assert "are trained (decoder); step 0 of 9" in log and "step 3 of 9" in log
    for end, again in zip(ends, (load(folder), load(folder, raw=True)), strict=True):
        for path, leaf in flat(again).items():
            np.testing.assert_array_equal(leaf, end[path], err_msg=path)
    said = r"was trained with train.trainable \(decoder\)/\.\* so far, .* can't go on with all"
    with pytest.raises(UserError, match=said):
        loop.train(trainable_set(config, "all"))


def test_run_whose_frozen_parameters_change_saves_no_checkpoint(config, monkeypatch):
    def faulty(state, batch, frozen, **options):
        new, metrics = trifling_step(state, batch, frozen, **options)
        return dataclasses.replace(new, frozen_checksums=state.frozen_checksums), metrics

    monkeypatch.setattr(programs, "train_step", faulty)
    with pytest.raises(UserError, match="frozen parameters have changed since the first step"):
        loop.train(config)
    assert not list((Path(config.workdir) / "checkpoints").glob("[0-9]*"))


def test_folder_without_checkpoints_takes_any_choice(config):
    """As that of the second stage is, where a run was stopped in the first."""
    (Path(config.workdir) / "checkpoints").mkdir(parents=True)
    loop._check_checkpoints(plan_run(config), config)


def test_choice_of_nothing_is_one_clear_error(config):
    said = r"train.trainable decodr/\.\* matches no parameter of the VideoVAE: all, decoder, enc"
    with pytest.raises(UserError, match=said):
        plan_run(trainable_set(config, "decodr/.*"))
    with pytest.raises(ConfigError, match=r"trainable must be all, .* not decoder/\( \(missing"):
        trainable_set(config, "decoder/(")
    image_train = dataclasses.replace(config.image_train, trainable="nothing")
    with pytest.raises(UserError, match=r"image_train.trainable nothing matches no parameter"):
        plan_run(dataclasses.replace(config, image_vae=None, image_train=image_train))


@pytest.mark.parametrize("init", ["inflate", "random"])
def test_plans_count_moments_and_averages_of_the_part_alone(config, init):
    config = dataclasses.replace(config, init_weights=None, init=init)
    for trainable in ("all", "last-layer"):
        run = trainable_set(config, trainable)
        [stage] = abstract_stages(plan_run(run, allow_missing=True), run)
        part = parameter_paths.count(partition(stage.state.model, trainable)[0])
        kept = {name: bytes_per_device(tree, stage.job.mesh) for name, tree in stage.kept.items()}
        assert kept["parameters"] == 4 * parameter_paths.count(stage.state.model)
        assert kept["averages"] == 4 * part
        assert kept["moments"] == 4 * (2 * (part + 2) + 2)  # with two log-scales, and two counts
