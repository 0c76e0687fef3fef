"""All forms of a convolution compute what it is defined as, with gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvvae_jax.models import conv_forms, few_products
from cvvae_jax.models.few_products import ALONE, DOUBLING, KEEPING

# Forms sum the same products, or twice as many, in another order: about sqrt(216) * 6e-8.
TOLERANCE = 1e-5
ONES = (1, 1, 1)


def random(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


def assert_same_with_gradients(form, other, video, kernel) -> None:
    def gradients(form):
        return jax.jit(jax.grad(lambda v, k: jnp.sin(form(v, k)).sum(), (0, 1)))

    np.testing.assert_allclose(*(f(video, kernel) for f in (form, other)), atol=TOLERANCE * 20)
    found, expected = (gradients(f)(video, kernel) for f in (form, other))
    for a, b in zip(found, expected, strict=True):
        assert jnp.abs(a - b).max() <= TOLERANCE * jnp.abs(b).max()


FORMS = [conv_forms.summed, conv_forms.inputs_joined, conv_forms.outputs_joined]


@pytest.mark.parametrize("form", FORMS, ids=["summed", "inputs_joined", "outputs_joined"])
@pytest.mark.parametrize(("strides", "pads"), [(ONES, (1, 1)), ((2, 2, 2), (0, 1))])
def test_forms_of_frames_equal_definition(form, strides, pads):
    arguments = {"strides": strides, "pads": (pads, pads)}
    forms = (functools.partial(f, **arguments) for f in (form, conv_forms.direct))
    assert_same_with_gradients(*forms, random(2, 7, 6, 8, 3), random(3, 3, 3, 3, 2))


@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("pads", [((1, 1), (1, 1)), ((0, 0), (1, 1))], ids=["whole", "split_rows"])
def test_sub_pixels_equal_convolution_of_doubled_frames(taps, pads):
    """Also where the rows around come from other devices."""
    definition = functools.partial(conv_forms.definition, strides=ONES, pads=pads, doubled=True)
    form = functools.partial(conv_forms.sub_pixels, pads=pads, form=conv_forms.direct)
    video, kernel = random(2, taps + 1, 5, 6, 4), random(taps, 3, 3, 4, 2)
    assert_same_with_gradients(form, definition, video, kernel)


def test_convolution_of_doubled_frames_is_the_old_one():
    """Upsampled, then padded: by zeros, or by the outermost pixels."""
    video, kernel = random(1, 3, 4, 5, 2), random(3, 3, 3, 2, 2)
    doubled = video.repeat(2, 2).repeat(2, 3)
    for mode, pads in (("constant", 1), ("edge", 0)):
        sides = ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0))
        expected = jax.lax.conv_general_dilated(
            jnp.pad(doubled, sides, mode=mode),
            kernel,
            ONES,
            "VALID",
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        )
        padded = video if pads else jnp.pad(video, sides, mode=mode)
        found = conv_forms.convolve(padded, kernel, pads=((pads, pads),) * 2, doubled=True)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE * 20)


SIZES = [(5, 8, 6), (2, 7, 9), (1, 4, 5)]


@pytest.mark.parametrize("space", [KEEPING, DOUBLING], ids=["keeping", "doubling"])
@pytest.mark.parametrize("time", [KEEPING, ALONE], ids=["3d", "per_frame"])
@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(1, id="many_pieces"),
        pytest.param(5000, id="some", marks=pytest.mark.slow),
        pytest.param(2**25, id="one"),
    ],
)
def test_few_products_equal_definition(monkeypatch, space, time, piece):
    """In pieces of a few rows, of a few frames, and all at once; odd sizes are no whole tiles."""
    monkeypatch.setattr(few_products, "_PIECE_BYTES", piece)
    few_products.convolve.clear_cache()
    taps = 3 if time == KEEPING else 1
    kernel = random(taps, 3, 3, 4, 3)
    for size in SIZES:
        t, h, w = size
        video = random(2, t + taps - 1, h + 2, w + 2, 4)
        found = few_products.convolve(video, kernel, axes=(time, space, space))
        nothing = ((0, 0), (0, 0))
        expected = conv_forms.definition(
            video, kernel, strides=ONES, pads=nothing, doubled=space == DOUBLING
        )
        np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max())
    few_products.convolve.clear_cache()


@pytest.mark.parametrize("doubled", [False, True], ids=["keeping", "doubling"])
def test_few_products_are_chosen_on_cpus_where_they_pay_with_gradients(monkeypatch, doubled):
    monkeypatch.setattr(conv_forms, "_MANY_OPERATIONS", 0)
    monkeypatch.setattr(conv_forms, "_MANY_CHANNELS", 8)
    arguments = {"pads": ((1, 1), (1, 1)), "doubled": doubled}
    form = functools.partial(conv_forms.convolve, **arguments)
    definition = functools.partial(conv_forms.definition, strides=ONES, **arguments)
    video, kernel = random(1, 5, 6, 6, 8), random(3, 3, 3, 8, 8)
    assert_same_with_gradients(form, definition, video, kernel)
    assert "while" in jax.jit(form).lower(video, kernel).compile().as_text()
    narrow = jax.jit(form).lower(video[..., :4], kernel[..., :4, :])
    assert "while" not in narrow.compile().as_text()


def test_sums_of_taps_are_rounded_once():
    """To bfloat16: the sum of four taps is the nearest number to it."""
    kernel = random(1, 3, 3, 1, 1)
    video = jnp.ones((1, 1, 1, 1, 1), jnp.bfloat16)
    found = conv_forms.convolve(video, kernel, pads=((1, 1), (1, 1)), doubled=True)
    expected = kernel[0, 1:, 1:].sum((0, 1)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(found[0, 0, 0, 0], expected[0])


def test_definition_is_traced_on_request():
    def forms() -> int:
        video, kernel = jnp.zeros((1, 3, 4, 4, 2)), jnp.zeros((3, 3, 3, 2, 2))
        run = functools.partial(conv_forms.convolve, pads=((1, 1), (1, 1)), doubled=True)
        return len(re.findall("conv_general_dilated", str(jax.make_jaxpr(run)(video, kernel))))

    assert forms() > 1
    with conv_forms.as_defined():
        assert forms() == 1
    assert forms() > 1
