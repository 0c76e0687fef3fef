import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvvae_jax.hardware import count_flops
from cvvae_jax.models import conv_forms
from cvvae_jax.models.blocks import Style, Upsample, pool
from cvvae_jax.models.conv import ConvKind

REFERENCE = {"max": nnx.max_pool, "mean": nnx.avg_pool}


@pytest.mark.parametrize("reduction", ["max", "mean"])
@pytest.mark.parametrize("window", [(1, 2, 2), (2, 2, 2)])
def test_pooling_equals_flax_with_gradients_also_where_windows_dont_fit(window, reduction):
    """Sums of eight float32 numbers in another order."""
    video = jax.random.normal(jax.random.key(0), (2, 5, 6, 7, 3))

    def ours(video):
        return jnp.sin(pool(video, window=window, reduction=reduction))

    def theirs(video):
        return jnp.sin(REFERENCE[reduction](video, window, strides=window))

    np.testing.assert_allclose(ours(video), theirs(video), atol=1e-6)
    grads = [jax.grad(lambda v, form=form: form(v).sum())(video) for form in (ours, theirs)]
    np.testing.assert_allclose(*grads, atol=1e-6)


@pytest.mark.parametrize("mode", ["zero", "edge"])
@pytest.mark.parametrize("frames", [1, 3])
def test_upsampling_equals_its_definition_with_fewer_operations(monkeypatch, mode, frames):
    """Per pixel of a 3-D convolution 3 x 36 products, or 3 x 16 and what overlaps at the border; of
    one frame a third of it, and half of that where the frame stays one. Sums of these in float32
    differ by rounding."""
    monkeypatch.setattr(conv_forms, "_SUB_PIXEL_CHANNELS", 0)
    kind, float32 = ConvKind("centered", "edge", mode), jnp.dtype("float32")
    style = Style(kind, kind, True, 2, 1e-6, float32, float32)
    upsample = Upsample(4, time_stride=2, style=style, rngs=nnx.Rngs(0))
    video = jax.random.normal(jax.random.key(0), (2, frames, 15, 15, 4))
    with conv_forms.reference_convolutions():
        expected = jax.jit(lambda v: upsample(v))(video)
        operations = count_flops(jax.make_jaxpr(lambda v: upsample(v))(video))
    found = upsample(video)
    assert found.shape == expected.shape == (2, 2 * frames - 1, 30, 30, 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    share = 16 / 36 * (16 / 15) ** 2 / (6 if frames == 1 else 1)
    counted = count_flops(jax.make_jaxpr(upsample)(video))
    np.testing.assert_allclose(counted / operations, share)
