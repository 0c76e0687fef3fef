import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import cvvae_jax
from cvvae_jax import parameter_paths, sharding
from cvvae_jax.checkpoint import Checkpoints, find_model, save_model
from cvvae_jax.config import ImageVAEConfig, MeshConfig, VideoVAEConfig
from cvvae_jax.errors import UserError
from cvvae_jax.loading import open_model
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.resumable import manifest
from cvvae_jax.training.state import Optimizers, TrainState

pytestmark = pytest.mark.stack

TINY = {"block_channels": (8, 16), "blocks_per_level": 1, "norm_groups": 4}


def tiny_video_vae(**changes) -> VideoVAE:
    return VideoVAE(VideoVAEConfig(temporal_strides=(2,), **TINY | changes), rngs=nnx.Rngs(0))


def train_state(model: VideoVAE, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState.create(model, None, Optimizers(optimizer, optimizer), log_scale=0.0)


def assert_same(ours, theirs):
    theirs = parameter_paths.flatten(theirs)
    for path, leaf in parameter_paths.flatten(ours).items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_models_load_exactly(tmp_path, dtype):
    for model in (
        tiny_video_vae(param_dtype=dtype),
        ImageVAE(ImageVAEConfig(param_dtype=dtype, **TINY), rngs=nnx.Rngs(0)),
    ):
        save_model(tmp_path / type(model).__name__, model)
        loaded = cvvae_jax.load(tmp_path / type(model).__name__)
        assert type(loaded) is type(model)
        assert loaded.config == model.config
        assert_same(loaded, model)


def test_models_are_never_overwritten(tmp_path):
    save_model(tmp_path / "model", tiny_video_vae())
    with pytest.raises(UserError, match="exists"):
        save_model(tmp_path / "model", tiny_video_vae())


def test_more_than_ten_blocks_keep_their_order(tmp_path):
    model = tiny_video_vae(blocks_per_level=12)
    save_model(tmp_path / "model", model)
    assert_same(cvvae_jax.load(tmp_path / "model"), model)


@pytest.mark.parametrize("fsdp", [1, 4])
def test_train_state_comes_back_exactly_on_another_mesh(tmp_path, fsdp, monkeypatch):
    monkeypatch.setattr(sharding, "SMALLEST_SHARDED", 256)
    model = tiny_video_vae()
    state = train_state(model, optax.adam(1e-3))
    state = jax.tree.map(lambda x: x + jnp.arange(x.size).reshape(x.shape).astype(x.dtype), state)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    checkpoints.save(3, state=state, weights=state.ema, config={"a": 1})
    checkpoints.close()
    mesh = sharding.make_mesh(MeshConfig(fsdp=fsdp), batches=(8,))
    layout = sharding.shardings(state, mesh)
    reopened = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert reopened.latest_step() == 3
    restored = reopened.restore(3, jax.eval_shape(lambda: state), layout)
    assert_same(restored, state)
    for leaf, sharding_ in zip(*map(jax.tree.leaves, (restored, layout)), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding_, leaf.ndim)
    assert json.loads((tmp_path / "checkpoints/3/config/metadata").read_text()) == {"a": 1}


def test_run_folder_loads_the_newest_averaged_weights(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    state = train_state(tiny_video_vae(), optax.sgd(1e-3))
    for step in (9, 10):
        averaged = jax.tree.map(lambda x, step=step: x + step, state.ema)
        checkpoints.save(step, state=state, weights=averaged, config={})
    checkpoints.close()
    assert_same(cvvae_jax.load(tmp_path), averaged)
    assert_same(cvvae_jax.load(tmp_path / "checkpoints" / "10"), averaged)


def test_state_of_another_model_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    state = train_state(tiny_video_vae(), optax.sgd(1e-3))
    checkpoints.save(1, state=state, weights=state.ema, config={})
    checkpoints.close()
    other = train_state(tiny_video_vae(block_channels=(8, 8)), optax.sgd(1e-3))
    layout = sharding.shardings(other, sharding.make_mesh(MeshConfig(), batches=(8,)))
    with pytest.raises(UserError, match=r"1 doesn't fit this run: it is of other networks, "):
        Checkpoints(tmp_path, keep=1).restore(1, other, layout)


@pytest.mark.parametrize("content", ["missing", "empty", "file"])
def test_paths_without_a_model_are_named(tmp_path, content):
    path = tmp_path / "model"
    if content == "empty":
        path.mkdir()
    elif content == "file":
        path.write_text("not a model")
    with pytest.raises(UserError, match=str(path)):
        cvvae_jax.load(path)


def test_damaged_models_are_named(tmp_path):
    save_model(tmp_path / "model", tiny_video_vae())
    for file in (tmp_path / "model/weights/d").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(UserError, match=r"model is damaged: weights/d/\w+ has 10 bytes instead of"):
        cvvae_jax.load(tmp_path / "model")
    (tmp_path / "model/manifest.json").unlink()
    with pytest.raises(UserError, match=r"model is damaged: manifest\.json is missing"):
        cvvae_jax.load(tmp_path / "model")


def test_average_of_half_precision_parameters_is_kept_in_float32(tmp_path):
    state = train_state(tiny_video_vae(param_dtype="bfloat16"), optax.sgd(1e-3))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.ema)} == {jnp.dtype("float32")}
    save_model(tmp_path / "model", state.ema)
    loaded = cvvae_jax.load(tmp_path / "model")
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("bfloat16")}


def test_weights_of_another_config_are_refused(tmp_path):
    """Every name and shape that differs is listed."""
    save_model(tmp_path / "model", tiny_video_vae())
    description = tmp_path / "model/model/metadata"
    text = json.loads(description.read_text())
    text["config"]["blocks_per_level"] = 2
    text["config"]["mid_attention"] = False
    text["config"]["latent_channels"] = 8
    description.write_text(json.dumps(text))
    manifest.write(tmp_path / "model")
    with pytest.raises(UserError) as error:
        cvvae_jax.load(tmp_path / "model")
    assert "encoder/down_blocks/00/resnets/01/conv1/bias is missing" in str(error.value)
    assert "encoder/conv_out/bias is (8,), not (16,)" in str(error.value)
    assert "encoder/mid_block/attentions/00/to_q/bias has no place" in str(error.value)


def test_raw_weights_of_a_run_are_the_optimizers(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    state = train_state(tiny_video_vae(), optax.sgd(1e-3))
    averaged = jax.tree.map(lambda x: x + 1, state.ema)
    checkpoints.save(3, state=state, weights=averaged, config={})
    checkpoints.close()
    assert_same(cvvae_jax.load(tmp_path, raw=True), state.model)
    assert_same(cvvae_jax.load(tmp_path), averaged)
    for raw, item, words in ((True, "state", "raw"), (False, "weights", "averaged")):
        opened = open_model(tmp_path, raw=raw)
        assert f"{words} weights of step 3" in opened.title
        assert {file.relative_to(opened.folder).parts[0] for file in opened.weight_files} == {item}


def test_what_is_no_finished_checkpoint_is_passed_over(tmp_path):
    save_model(tmp_path / "checkpoints/3", tiny_video_vae())
    for name in ("4.damaged", "10.orbax-checkpoint-tmp", "²"):
        (tmp_path / "checkpoints" / name / "weights").mkdir(parents=True)
    assert find_model(tmp_path) == tmp_path / "checkpoints/3"
    assert find_model(tmp_path / "checkpoints/4.damaged") is None
