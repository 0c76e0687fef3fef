"""All forms of a convolution have the result of the reference, and its gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvvae_jax.models import conv_forms, winograd
from cvvae_jax.models.winograd import ONE_TAP, THREE_TAPS, THREE_TAPS_UPSAMPLED

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


@pytest.fixture
def winograd_everywhere(monkeypatch):
    """The threshold of Winograd's algorithm below the sizes of tests."""
    monkeypatch.setattr(conv_forms, "_WINOGRAD_OPERATIONS", 0)
    monkeypatch.setattr(conv_forms, "_WINOGRAD_CHANNELS", 8)


FORMS = [conv_forms.summed, conv_forms.inputs_joined, conv_forms.outputs_joined]


@pytest.mark.parametrize("form", FORMS, ids=["summed", "inputs_joined", "outputs_joined"])
@pytest.mark.parametrize(("strides", "pads"), [(ONES, (1, 1)), ((2, 2, 2), (0, 1))])
def test_forms_of_frames_equal_reference(form, strides, pads):
    arguments = {"strides": strides, "pads": (pads, pads)}
    forms = (functools.partial(f, **arguments) for f in (form, conv_forms.direct))
    assert_same_with_gradients(*forms, random(2, 7, 6, 8, 3), random(3, 3, 3, 3, 2))


@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("pads", [((1, 1), (1, 1)), ((0, 0), (1, 1))], ids=["whole", "split_rows"])
def test_sub_pixels_equal_convolution_after_upsampling(taps, pads):
    """Also where the rows around come from other devices."""
    reference = functools.partial(conv_forms.reference, strides=ONES, pads=pads, upsampled=True)
    form = functools.partial(conv_forms.sub_pixels, pads=pads, form=conv_forms.direct)
    video, kernel = random(2, taps + 1, 5, 6, 4), random(taps, 3, 3, 4, 2)
    assert_same_with_gradients(form, reference, video, kernel)


def test_convolution_after_upsampling_is_the_old_one():
    """Upsampled, then padded: by zeros, or by the outermost pixels."""
    video, kernel = random(1, 3, 4, 5, 2), random(3, 3, 3, 2, 2)
    upsampled = video.repeat(2, 2).repeat(2, 3)
    for mode, pads in (("constant", 1), ("edge", 0)):
        sides = ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0))
        expected = jax.lax.conv_general_dilated(
            jnp.pad(upsampled, sides, mode=mode),
            kernel,
            ONES,
            "VALID",
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        )
        padded = video if pads else jnp.pad(video, sides, mode=mode)
        found = conv_forms.convolve(padded, kernel, pads=((pads, pads),) * 2, upsampled=True)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE * 20)


SIZES = [(5, 8, 6), (2, 7, 9), (1, 4, 5)]


@pytest.mark.parametrize(
    "space", [THREE_TAPS, THREE_TAPS_UPSAMPLED], ids=["same_size", "upsampled"]
)
@pytest.mark.parametrize("time", [THREE_TAPS, ONE_TAP], ids=["3d", "per_frame"])
@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(1, id="many_pieces"),
        pytest.param(5000, id="some", marks=pytest.mark.slow),
        pytest.param(2**25, id="one"),
    ],
)
def test_winograd_equals_reference(monkeypatch, space, time, piece):
    """In pieces of a few rows, of a few frames, and all at once; odd sizes are no whole tiles."""
    monkeypatch.setattr(winograd, "_PIECE_BYTES", piece)
    winograd.convolve.clear_cache()
    taps = 3 if time == THREE_TAPS else 1
    kernel = random(taps, 3, 3, 4, 3)
    for size in SIZES:
        t, h, w = size
        video = random(2, t + taps - 1, h + 2, w + 2, 4)
        found = winograd.convolve(video, kernel, axes=(time, space, space))
        nothing = ((0, 0), (0, 0))
        expected = conv_forms.reference(
            video, kernel, strides=ONES, pads=nothing, upsampled=space == THREE_TAPS_UPSAMPLED
        )
        np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max())
    winograd.convolve.clear_cache()


@pytest.mark.parametrize("upsampled", [False, True], ids=["same_size", "upsampled"])
@pytest.mark.usefixtures("winograd_everywhere")
def test_winograd_is_chosen_on_cpus_where_it_pays_with_gradients(upsampled):
    arguments = {"pads": ((1, 1), (1, 1)), "upsampled": upsampled}
    form = functools.partial(conv_forms.convolve, **arguments)
    reference = functools.partial(conv_forms.reference, strides=ONES, **arguments)
    video, kernel = random(1, 5, 6, 6, 8), random(3, 3, 3, 8, 8)
    assert_same_with_gradients(form, reference, video, kernel)
    assert "while" in jax.jit(form).lower(video, kernel).compile().as_text()
    narrow = jax.jit(form).lower(video[..., :4], kernel[..., :4, :])
    assert "while" not in narrow.compile().as_text()


BORDERS = {"pads": ((1, 1), (1, 1))}


@pytest.mark.parametrize("upsampled", [False, True], ids=["same_size", "upsampled"])
@pytest.mark.usefixtures("winograd_everywhere")
def test_winograd_has_derivatives_forward_and_back(upsampled):
    """Forward along each argument alone and along both; and J^T J, as singular values need it."""
    form = functools.partial(conv_forms.convolve, **BORDERS, upsampled=upsampled)
    reference = functools.partial(
        conv_forms.reference, strides=ONES, **BORDERS, upsampled=upsampled
    )
    video, kernel = random(1, 5, 6, 6, 8), random(3, 3, 3, 8, 8)

    def derivatives(form):
        def of_video(v):
            return form(v, kernel)

        _, forward = jax.linearize(of_video, video)
        (normal,) = jax.linear_transpose(forward, video)(forward(video[::-1]))
        along_kernel = jax.jvp(functools.partial(form, video), (kernel,), (kernel[::-1],))[1]
        along_both = jax.jvp(form, (video, kernel), (video[::-1], kernel[::-1]))[1]
        return jax.jvp(of_video, (video,), (video[::-1],))[1], along_kernel, along_both, normal

    for found, expected in zip(derivatives(form), derivatives(reference), strict=True):
        assert jnp.abs(found - expected).max() <= TOLERANCE * jnp.abs(expected).max()


@pytest.mark.parametrize("upsampled", [False, True], ids=["same_size", "upsampled"])
@pytest.mark.usefixtures("winograd_everywhere")
def test_winograd_inside_a_shard_map_equals_that_outside(upsampled):
    """Also where the kernel is the same on all devices, and its gradient their sum."""
    video, kernel = random(8, 5, 6, 6, 8), random(3, 3, 3, 8, 8)
    form = functools.partial(conv_forms.convolve, **BORDERS, upsampled=upsampled)
    own = jax.P("pieces")
    mesh = jax.make_mesh((8,), ("pieces",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(form, mesh=mesh, in_specs=(own, jax.P()), out_specs=own)
    assert "while" in jax.jit(split).lower(video, kernel).compile().as_text()
    assert_same_with_gradients(split, form, video, kernel)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.usefixtures("winograd_everywhere")
def test_other_platforms_get_one_convolution_and_its_two_gradients(platform):
    """Nothing of the form for CPUs, which is traced as well, is left in their programs."""

    def loss(video, kernel):
        return jnp.sin(conv_forms.convolve(video, kernel, **BORDERS)).sum()

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(random(1, 5, 6, 6, 8), random(3, 3, 3, 8, 8))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 3
    assert "stablehlo.while" not in text


@pytest.mark.parametrize("upsampled", [False, True], ids=["same_size", "upsampled"])
@pytest.mark.usefixtures("winograd_everywhere")
def test_form_of_another_platform_leaves_nothing_in_a_compiled_program(monkeypatch, upsampled):
    """Compiled here as if Winograd were for TPUs: what its backward pass would keep is traced
    into every platform's program, as zeros that nobody reads, which the compiler removes."""
    video, kernel = random(1, 5, 6, 6, 8), random(3, 3, 3, 8, 8)
    arguments = {**BORDERS, "upsampled": upsampled}
    choose = jax.lax.platform_dependent

    def for_tpus(*arrays, cpu, default):
        return choose(*arrays, tpu=cpu, default=default)

    def compiled(form):
        def loss(video, kernel):
            return jnp.sin(form(video, kernel)).sum()

        return jax.jit(jax.grad(loss, (0, 1))).lower(video, kernel).compile()

    def operations(program) -> list[str]:
        return sorted(re.findall(r"= \S+ ([\w-]+)\(", program.as_text()))

    monkeypatch.setattr(jax.lax, "platform_dependent", for_tpus)
    found = compiled(functools.partial(conv_forms.convolve, **arguments))
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *a, cpu, default: default(*a))
    alone = compiled(functools.partial(conv_forms.convolve, **arguments))
    assert "convolution" in operations(found)
    assert operations(found) == operations(alone)
    sizes = [program.memory_analysis().temp_size_in_bytes for program in (found, alone)]
    assert sizes[0] == sizes[1]


OPERATIONS = 2.0 * 4 * 8 * 8 * 27 * 128 * 128
"""Operations of a convolution of 128 channels of 4 x 8 x 8."""


@pytest.mark.parametrize(
    ("channels", "operations", "dtype", "chosen"),
    [
        (128, OPERATIONS, "float32", True),
        (128, OPERATIONS * 1.01, "float32", False),
        (127, 0, "float32", False),
        (128, OPERATIONS, "bfloat16", False),
    ],
    ids=["from", "fewer_operations", "fewer_channels", "fewer_digits"],
)
def test_winograd_is_chosen_from_its_thresholds_on(
    monkeypatch, channels, operations, dtype, chosen
):
    assert conv_forms._WINOGRAD_CHANNELS == 128
    monkeypatch.setattr(conv_forms, "_WINOGRAD_OPERATIONS", operations)
    video = jax.ShapeDtypeStruct((1, 4, 8, 8, channels), dtype)
    kernel = jax.ShapeDtypeStruct((3, 3, 3, channels, channels), dtype)
    form = functools.partial(conv_forms.convolve, **BORDERS)
    text = jax.jit(form).trace(video, kernel).lower(lowering_platforms=("cpu",)).as_text()
    assert ("stablehlo.while" in text) == chosen


@pytest.mark.parametrize(
    ("channels", "taps", "outputs"), [(63, 3, 63), (64, 2, 4 * 64)], ids=["repeated", "sub_pixels"]
)
def test_narrow_networks_repeat_pixels_and_wide_ones_have_sub_pixels(channels, taps, outputs):
    """Both are a convolution for every tap in time; sub-pixels are four times the outputs."""
    video = jax.ShapeDtypeStruct((1, 4, 8, 8, channels), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 3, channels, channels), jnp.float32)
    form = functools.partial(conv_forms.convolve, **BORDERS, upsampled=True)
    text = jax.jit(form).trace(video, kernel).lower(lowering_platforms=("cpu",)).as_text()
    kernels = f"tensor<{taps}x{taps}x{channels}x{outputs}xf32>"
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert [kernels in line for line in convolutions] == [True] * 3


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel"),
    [(4, 5, "12x5"), (5, 4, "5x12"), (5, 5, "5x5")],
    ids=["few_inputs", "few_outputs", "more"],
)
def test_few_channels_of_all_taps_are_joined(inputs, outputs, kernel):
    video = jax.ShapeDtypeStruct((1, 4, 8, 8, inputs), jnp.float32)
    taps = jax.ShapeDtypeStruct((3, 3, 3, inputs, outputs), jnp.float32)
    form = functools.partial(conv_forms.convolve, **BORDERS)
    text = jax.jit(form).trace(video, taps).lower(lowering_platforms=("cpu",)).as_text()
    assert f"tensor<3x3x{kernel}xf32>" in text.split("stablehlo.convolution", 1)[1]


def test_sums_of_taps_are_rounded_once():
    """To bfloat16: the sum of four taps is the nearest number to it."""
    kernel = random(1, 3, 3, 1, 1)
    video = jnp.ones((1, 1, 1, 1, 1), jnp.bfloat16)
    found = conv_forms.convolve(video, kernel, pads=((1, 1), (1, 1)), upsampled=True)
    expected = kernel[0, 1:, 1:].sum((0, 1)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(found[0, 0, 0, 0], expected[0])


def test_reference_is_traced_on_request():
    def forms() -> int:
        video, kernel = jnp.zeros((1, 3, 4, 4, 2)), jnp.zeros((3, 3, 3, 2, 2))
        run = functools.partial(conv_forms.convolve, pads=((1, 1), (1, 1)), upsampled=True)
        return len(re.findall("conv_general_dilated", str(jax.make_jaxpr(run)(video, kernel))))

    assert forms() > 1
    with conv_forms.reference_convolutions():
        assert forms() == 1
    assert forms() > 1
