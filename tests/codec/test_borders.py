"""What a codec takes, as a whole and frame by frame, and the sentence for what it doesn't: types
and shapes have their rows in tests/models/test_inputs.py; values, and what is the codec's alone,
have theirs here.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cvvae_jax.codec.codec import Codec
from cvvae_jax.codec.stream import decode_frames, encode_frames, reconstruct_frames
from cvvae_jax.codec.values import Latents, checked_pixels, latents_from_moments
from cvvae_jax.errors import UserError
from cvvae_jax.models.gaussian import DiagonalGaussian

PIXELS = np.random.default_rng(0).integers(0, 256, (1, 5, 8, 16, 3), np.uint8)
FLOATS = (PIXELS / 127.5 - 1).astype(np.float32)
LATENTS = np.random.default_rng(0).standard_normal((1, 2, 1, 2, 4)).astype(np.float32)
POSTERIOR = DiagonalGaussian(jnp.asarray(LATENTS), jnp.zeros(LATENTS.shape))
OF_THEM = {"frames": 5, "height": 8, "width": 16}
ENCODERS = ("encode", "posterior", "reconstruct")


@pytest.fixture(scope="module")
def codec(vae) -> Codec:
    return Codec(vae, chunk_frames=4, devices=jax.devices()[:1])


def with_value(array: np.ndarray, value: float, *place: int) -> np.ndarray:
    changed = array.copy()
    changed[place] = value
    return changed


def rows(table):
    return pytest.mark.parametrize(("given", "said"), table.values(), ids=table)


VALUES_REFUSED = {
    "NaN": (with_value(FLOATS, np.nan, 0, 3, 4, 5, 1), "the video's frame 3 holds NaN"),
    "infinity": (with_value(FLOATS, np.inf, 0, 4), "frame 4 holds NaN or infinity"),
    "infinities": (np.full_like(FLOATS, -np.inf), "frame 0 holds"),
    "first of two": (with_value(with_value(FLOATS, np.nan, 0, 3), np.inf, 0, 2), "frame 2 holds"),
    "NaN in a batch": (
        with_value(FLOATS.repeat(3, 0), np.nan, 1, 2, 0, 0, 0),
        "frame 2 of video 1 holds",
    ),
    "NaN of JAX": (jnp.asarray(with_value(FLOATS, np.nan, 0, 1)), "frame 1 holds"),
    "NaN in bfloat16": (jnp.asarray(with_value(FLOATS, np.nan, 0, 1), jnp.bfloat16), "frame 1"),
    "beyond float32": (with_value(FLOATS.astype(np.float64), 1e300, 0, 1), "frame 1 holds"),
    "0 to 255": (PIXELS.astype(np.float32), r"one is 255; .* \[0, 255\], give video / 127.5 - 1"),
    "dark 0 to 255": (PIXELS // 60.0, r"one is 4; if they are in \[0, 255\]"),
    "by ImageNet's deviation": (FLOATS * 2.4, r"\[-1, 1\]; one is 2.4\."),
    "far below": (with_value(FLOATS, -3, 0, 1), r"one is -3\."),
}


@pytest.mark.parametrize("method", ENCODERS)
@rows(VALUES_REFUSED)
def test_values_that_are_no_pixels_are_named(codec, method, given, said):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=said):
            getattr(codec, method)(given)


@pytest.mark.parametrize(
    "given",
    [PIXELS, FLOATS, 1.9 * FLOATS, FLOATS * 0, FLOATS * 0 + 1, 0.2 + 0.8 * abs(FLOATS)],
    ids=["uint8", "floats", "decoded", "gray", "white", "bright"],
)
def test_right_videos_are_taken_without_a_word(given):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = checked_pixels(given)
    assert pixels.dtype == given.dtype
    np.testing.assert_array_equal(pixels, given)


def test_floats_that_seem_to_be_in_0_to_1_are_warned_of_and_taken(codec):
    given = PIXELS.astype(np.float32) / 255
    with pytest.warns(UserWarning, match=r"give 2 \* video - 1") as said:
        assert codec.encode(given).values.shape == LATENTS.shape
    assert len(said) == 1
    # No chunk alone has both extremes.
    ramp = np.linspace(0, 1, 9, dtype=np.float32).reshape(9, 1, 1, 1) + np.zeros((8, 16, 3), "f")
    with pytest.warns(UserWarning, match=r"give 2 \* video - 1") as said:
        assert len(np.concatenate(list(encode_frames(codec, ramp)))) == 3
    assert len(said) == 1


SAME = {
    "frames": list(PIXELS[0]),
    "images": [Image.fromarray(frame) for frame in PIXELS[0]],
    "JAX's": jnp.asarray(PIXELS),
}


@pytest.mark.parametrize("given", SAME.values(), ids=SAME)
def test_what_is_certainly_a_video_is_encoded_as_one(codec, given):
    encoded, wanted = codec.encode(given), codec.encode(PIXELS)
    np.testing.assert_array_equal(encoded.values, wanted.values)
    assert vars(encoded) | {"values": None} == vars(wanted) | {"values": None}


@pytest.mark.parametrize("kind", [np.float64, np.float16, jnp.bfloat16])
def test_floats_of_any_width_are_encoded_as_float32(codec, kind):
    given = FLOATS.astype(kind)
    wanted = codec.encode(given.astype(np.float32)).values
    np.testing.assert_array_equal(codec.encode(given).values, wanted)


LATENTS_REFUSED = {
    "NaN": (with_value(LATENTS, np.nan, 0, 1, 0, 1, 2), "the latents' latent frame 1 holds NaN"),
    "infinity": (with_value(LATENTS, -np.inf, 0, 0), "latent frame 0 holds NaN or infinity"),
    "NaN in a batch": (with_value(LATENTS.repeat(2, 0), np.nan, 1, 1), "1 of video 1 holds"),
    "NaN of JAX": (jnp.asarray(with_value(LATENTS, np.nan, 0, 1)), "latent frame 1 holds"),
    "beyond float32": (with_value(LATENTS.astype(np.float64), 1e300, 0, 1), "latent frame 1"),
    "posterior": (POSTERIOR, r"DiagonalGaussian; .*posterior.sample\(key\)"),
    "integers": (LATENTS.astype(int), "must be floats, not int64"),
    "moments": (LATENTS.repeat(2, -1), r"\(batch, n, y, x, 4\), not"),
    "one video's": (LATENTS[0], r"latents\[None\]"),
    "nothing": (None, "not None"),
}


@rows(LATENTS_REFUSED)
def test_what_are_no_latents_is_named(codec, given, said):
    with pytest.raises(UserError, match=said):
        codec.decode(given)


@pytest.mark.parametrize("method", ["decode", "scale", "unscale"])
@pytest.mark.parametrize("scaled", [False, True])
def test_nan_in_latents_is_named_by_all_that_takes_them(codec, method, scaled):
    latents = Latents(with_value(LATENTS, np.nan, 0, 1), **OF_THEM, scaled=scaled)
    with pytest.raises(UserError, match="latent frame 1 holds NaN"):
        getattr(codec, method)(latents)


@pytest.mark.parametrize("method", ["scale", "unscale"])
@pytest.mark.parametrize("given", [LATENTS, POSTERIOR, None], ids=["array", "posterior", "nothing"])
def test_only_latents_know_whether_they_are_scaled(codec, method, given):
    with pytest.raises(UserError, match=r"must be cvvae_jax.Latents, .* take arrays"):
        getattr(codec, method)(given)


def test_a_model_that_gives_nan_is_told_apart_from_its_input():
    """Such as one in float16 that overflows; noise hides it no more than the mode."""
    moments = np.zeros((1, 2, 1, 2, 8), np.float32)
    moments[0, 1, 0, 0, 0] = np.nan
    for key in (None, jax.random.key(0)):
        with pytest.raises(UserError, match=r"the model's latent frame 5 holds NaN .* float16"):
            latents_from_moments(moments, key, start=4)


KEYS_REFUSED = {
    "seed for a key": (lambda codec: codec.encode(PIXELS, key=0), "key must be .*, not 0"),
    "several keys": (
        lambda codec: codec.encode(PIXELS, key=jax.random.split(jax.random.key(0), 1)),
        "key must be one key, not 1 of them",
    ),
}


@pytest.mark.parametrize(("call", "said"), KEYS_REFUSED.values(), ids=KEYS_REFUSED)
def test_what_draws_no_sample_is_named(codec, call, said):
    with pytest.raises(UserError, match=said):
        call(codec)


def test_a_codec_in_a_traced_program_is_named(codec):
    with pytest.raises(UserError, match="can't be called inside"):
        jax.eval_shape(codec.encode, PIXELS)
    with pytest.raises(UserError, match="can't be called inside"):
        jax.eval_shape(codec.decode, LATENTS)


def test_old_keys_draw_what_new_ones_do(codec):
    old, new = (make(3) for make in (jax.random.PRNGKey, jax.random.key))
    values = [codec.encode(PIXELS, key=key).values for key in (old, new)]
    np.testing.assert_array_equal(*values)


FRAMES_REFUSED = {
    "path": ("in.mp4", 0, "'in.mp4'; read_frames of cvvae_jax.video_io.video"),
    "number": (5, 0, "frames must be a list or another iterable, not 5"),
    "image": (Image.fromarray(PIXELS[0, 0]), 0, "not Image"),
    "batch": (PIXELS, 0, r"frame 0 is \(5, 8, 16, 3\); frames are \(height, width, 3\)"),
    "integers": (PIXELS[0].astype(int), 0, "not int64"),
    "channels first": (np.moveaxis(PIXELS[0], -1, 1), 0, r"frame 0 is \(3, 8, 16\)"),
    "other size": (
        [*PIXELS[0], *PIXELS[0], PIXELS[0, 0, :, :8]],
        10,
        r"number 0 is uint8 \(8, 16, 3\), number 10 is uint8 \(8, 8, 3\)",
    ),
    "other type": ([*PIXELS[0], FLOATS[0, 0]], 5, "number 5 is float32"),
    "NaN": (with_value(FLOATS[0], np.nan, 4), 4, "the video's frame 4 holds NaN"),
    "0 to 255": ([*(0 * FLOATS[0]), *PIXELS[0].astype(np.float32)], 5, "one is 255"),
}


@pytest.mark.parametrize(("given", "right", "said"), FRAMES_REFUSED.values(), ids=FRAMES_REFUSED)
def test_frames_come_out_until_one_is_none(codec, given, right, said):
    came = []
    with pytest.raises(UserError, match=said):
        for frame in reconstruct_frames(codec, given):
            came.append(frame)
    assert len(came) == right


@pytest.mark.parametrize("video", [PIXELS, FLOATS], ids=["uint8", "floats"])
def test_frames_of_both_types_stream_as_they_are_coded(codec, video):
    video = np.concatenate([video, video[:, ::-1]], axis=1)
    parts = list(encode_frames(codec, iter(video[0])))
    encoded = codec.encode(video)
    np.testing.assert_array_equal(np.concatenate(parts), encoded.values[0])
    frames = list(decode_frames(codec, parts, height=8, width=16, pixels=video.dtype.name))
    np.testing.assert_array_equal(np.stack(frames)[: video.shape[1]], codec.decode(encoded)[0])
    recons = np.stack(list(reconstruct_frames(codec, video[0])))
    np.testing.assert_array_equal(recons, codec.reconstruct(video)[0])


PARTS_REFUSED = {
    "NaN": ([LATENTS[0], with_value(LATENTS[0], np.nan, 1)], "latent frame 3 holds NaN"),
    "Latents": (Latents(LATENTS, **OF_THEM), "iterable, not Latents; its .values are one"),
    "posterior": (POSTERIOR, "not DiagonalGaussian; .*mode"),
    "latent frames": (LATENTS[0], r"parts of these latents are \(n, 1, 2, 4\), not \(1, 2, 4\)"),
    "integers": (LATENTS.astype(int), "must be floats, not int64"),
    "other size": (LATENTS.repeat(2, 2), r"are \(n, 1, 2, 4\), not \(2, 2, 2, 4\)"),
}


@rows(PARTS_REFUSED)
def test_parts_that_are_no_latents_are_named(codec, given, said):
    with pytest.raises(UserError, match=said):
        list(decode_frames(codec, given, height=8, width=16))


def test_a_batch_that_is_read_is_one_video_after_another(codec):
    """What `encode` gives for one video can be decoded in parts as it is."""
    video = list(decode_frames(codec, codec.encode(PIXELS).values, height=8, width=16))
    np.testing.assert_array_equal(np.stack(video), codec.reconstruct(PIXELS)[0])
