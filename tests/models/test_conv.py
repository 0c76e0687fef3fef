import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvvae_jax.hardware import count_flops
from cvvae_jax.models import conv_forms
from cvvae_jax.models.conv import Conv, ConvKind

# Sums of the same products in another order: about sqrt(216) * 6e-8.
TOLERANCE = 1e-5


def build(kind: ConvKind, **options) -> Conv:
    dtypes = {"dtype": jnp.dtype("float32"), "param_dtype": jnp.dtype("float32")}
    return Conv(2, 3, kind=kind, **options, **dtypes, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("time", "seen"), [("none", {3}), ("causal", {1, 2, 3}), ("centered", {2, 3, 4})]
)
def test_frame_depends_on_just_the_frames_of_its_kind(time, seen):
    conv = build(ConvKind(time))
    video = jax.random.normal(jax.random.key(0), (1, 6, 4, 4, 2))
    grads = jax.grad(lambda v: conv(v)[:, 3].sum())(video)
    assert {t for t in range(6) if jnp.any(grads[:, t] != 0)} == seen


@pytest.mark.parametrize("mode", ["zero", "edge"])
def test_padding_is_what_the_kind_says(mode):
    """Against numpy's own padding, followed by an unpadded convolution."""
    conv = build(ConvKind("centered", temporal_padding=mode, spatial_padding=mode))
    video = jax.random.normal(jax.random.key(0), (1, 4, 5, 6, 2))
    names = {"zero": "constant", "edge": "edge"}
    padded = jnp.pad(video, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)), mode=names[mode])
    expected = conv_forms.direct(padded, conv.kernel[...], strides=(1, 1, 1), pads=((0, 0), (0, 0)))
    assert jnp.abs(conv(video) - expected).max() <= TOLERANCE * jnp.abs(expected).max()


@pytest.mark.parametrize("mode", ["zero", "edge"])
@pytest.mark.parametrize("time", ["causal", "centered"])
@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 2, 2)], ids=["kept", "halved"])
def test_image_is_a_video_of_one_frame_at_a_third_of_the_operations(mode, time, strides):
    conv = build(ConvKind(time, temporal_padding=mode, spatial_padding=mode), strides=strides)
    video = jax.random.normal(jax.random.key(0), (2, 1, 4, 6, 2))
    with conv_forms.reference_convolutions():
        expected = conv(video)
        operations = count_flops(jax.make_jaxpr(lambda v: conv(v))(video))
    assert jnp.abs(conv(video) - expected).max() <= TOLERANCE * jnp.abs(expected).max()
    assert count_flops(jax.make_jaxpr(conv)(video)) == operations / 3


def test_convolution_along_time_sees_one_position():
    conv = build(ConvKind("centered", spatial_taps=1))
    assert conv.kernel.shape == (3, 1, 1, 2, 3)
    video = jax.random.normal(jax.random.key(0), (1, 5, 4, 6, 2))
    grads = jax.grad(lambda v: conv(v)[:, 2, 1, 3].sum())(video)
    seen = {tuple(int(i) for i in place[1:4]) for place in np.argwhere(grads)}
    assert seen == {(1, 1, 3), (2, 1, 3), (3, 1, 3)}
    assert conv(video).shape == (1, 5, 4, 6, 3)


def test_gradient_moves_no_activation_between_devices_that_split_a_batch():
    conv = build(ConvKind("causal", spatial_padding="edge"))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.P("data"))
    video = jax.ShapeDtypeStruct((8, 3, 4, 4, 2), jnp.float32, sharding=split)
    step = jax.jit(jax.grad(lambda v: jnp.square(conv(v)).sum()), out_shardings=split)
    program = step.lower(video).compile().as_text()
    assert "num_partitions=8" in program
    assert "collective-permute" not in program
    assert "all-gather" not in program
