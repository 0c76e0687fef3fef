"""Any frame count and any size through a model, in chunks and tiles."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvvae_jax.codec import chunks
from cvvae_jax.codec.codec import Codec
from cvvae_jax.codec.plan import Cut, make_cuts
from cvvae_jax.codec.values import Latents, checked_pixels
from cvvae_jax.errors import UserError
from cvvae_jax.models.inputs import to_uint8

# Programs and numbers are the same, but compiled once inside larger ones and once alone: the order
# of float32 sums may differ, by some roundings (6e-8 each) of values of order 1.
SAME_PROGRAM = 1e-5


one_device = functools.partial(Codec, devices=jax.devices()[:1])


@pytest.mark.parametrize("length", range(1, 60))
@pytest.mark.parametrize("cut", [Cut(17, 16), Cut(5, 4), Cut(9, 7), Cut(8, 8)])
def test_pieces_cover_an_axis_once_but_for_the_overlap(cut, length):
    spans = cut.spans(length)
    assert spans[0].start == 0
    assert spans[-1].stop == length
    for before, after in itertools.pairwise(spans):
        assert before.stop - before.start == cut.size
        assert after.start == before.start + cut.stride
        assert after.stop > before.stop, "the first piece that reaches the end is the last"


def test_chunks_equal_definition(vae, clip):
    """Chunk n is frames 4n to 4n + 4 here; all but chunk 0 lose their first (latent) frame."""
    video = clip(13, 16, 24)
    encode = jax.jit(lambda vae, video: vae.encode(video).mode())
    decode = jax.jit(lambda vae, latents: vae.decode(latents))
    parts = [
        encode(vae, video[:, a:b] / np.float32(127.5) - 1) for a, b in [(0, 5), (4, 9), (8, 13)]
    ]
    latents = np.concatenate([parts[0], parts[1][:, 1:], parts[2][:, 1:]], axis=1)
    parts = [decode(vae, latents[:, a:b]) for a, b in [(0, 2), (1, 3), (2, 4)]]
    recon = np.concatenate([parts[0], parts[1][:, 1:], parts[2][:, 1:]], axis=1)

    codec = one_device(vae, chunk_frames=4)
    np.testing.assert_allclose(codec.encode(video).values, latents, atol=SAME_PROGRAM)
    decoded = codec.decode(latents)
    np.testing.assert_allclose(decoded, recon, atol=SAME_PROGRAM)


def drawn_videos(count: int) -> list[tuple[int, int, int]]:
    """(frames, height, width): every count up to 40, odd sizes, the smallest ones."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(8, 60, (count, 2)).tolist()
    frames = [i % 40 + 1 for i in range(count)]
    return [(t, *size) for t, size in zip(frames, sizes, strict=True)]


@pytest.mark.parametrize("size", [(1, 8, 8), (2, 37, 51), (18, 24, 9)])
def test_every_count_and_size_comes_back(vae, clip, size):
    check_contract(vae, clip, size)


@pytest.mark.slow
@pytest.mark.parametrize("size", drawn_videos(240))
def test_any_count_and_size_comes_back(vae, clip, size):
    check_contract(vae, clip, size)


def check_contract(vae, clip, size):
    """Checks that shape and type come back, that strides are filled up with what padding by hand
    adds, and that this is gone in the end."""
    codec, video = one_device(vae, tile=32, chunk_frames=8), clip(*size)
    latents = codec.encode(video)
    frames, height, width = size
    assert latents.values.shape[1:] == codec.latents_shape(
        frames=frames, height=height, width=width
    )
    recon = codec.decode(latents)
    assert (recon.shape, recon.dtype) == (video.shape, video.dtype)
    ends = (-(frames - 1) % 4, -height % 8, -width % 8)
    padded = np.pad(video, ((0, 0), *((0, end) for end in ends), (0, 0)), mode="edge")
    np.testing.assert_array_equal(codec.encode(padded).values, latents.values)
    whole = codec.decode(latents.values)
    assert whole.shape == padded.shape
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(to_uint8(whole)[:, :frames, :height, :width], recon)


@pytest.mark.parametrize("tile", [32, 64, 72])
def test_tiles_blend_to_the_right_size(tile):
    """Also for 64 pixels, where the official code returns 90 x 114 for 96 x 120; an encoder that
    takes every 8th pixel, and a decoder that repeats it, show no seam."""
    cuts = make_cuts(temporal_compression=4, spatial_compression=8, tile=tile)
    video = np.random.default_rng(0).standard_normal((1, 1, 96, 120, 3)).astype(np.float32)
    encoded = chunks.tiled(
        lambda x: jnp.asarray(x[:, :, ::8, ::8]),
        video,
        cut=cuts.pixel_tiles,
        joint=cuts.latent_tiles,
    )
    np.testing.assert_allclose(encoded, video[:, :, ::8, ::8], atol=SAME_PROGRAM)
    decoded = chunks.tiled(
        lambda x: jnp.asarray(x.repeat(8, 2).repeat(8, 3)),
        np.asarray(encoded),
        cut=cuts.latent_tiles,
        joint=cuts.pixel_tiles,
    )
    wanted = np.asarray(encoded).repeat(8, 2).repeat(8, 3)
    np.testing.assert_allclose(decoded, wanted, atol=SAME_PROGRAM)


def test_floats_and_uint8_are_the_same_video(vae, clip):
    codec, video = one_device(vae), clip(5, 16, 24)
    recon = codec.reconstruct((video / 127.5 - 1).astype(np.float32))
    assert recon.dtype == np.float32
    assert np.abs(recon).max() <= 1
    # A value that lies at half may round either way.
    difference = np.asarray(to_uint8(recon), int) - np.asarray(codec.reconstruct(video), int)
    assert np.abs(difference).max() <= 1


def test_tiles_that_agree_show_no_seam():
    """Where every tile computes the same values as the whole, tiling changes nothing."""
    array = np.random.default_rng(0).standard_normal((1, 2, 37, 50, 3)).astype(np.float32)
    cut = Cut(12, 9)
    tiled = chunks.tiled(jnp.asarray, array, cut=cut, joint=cut)
    np.testing.assert_allclose(tiled, array, atol=SAME_PROGRAM)


def test_tiles_fade_linearly():
    ones = jnp.ones((1, 1, 4, 6, 2))
    faded = chunks._fade(0 * ones, ones, axis=3, width=4)[0, 0, 0, :, 0]
    np.testing.assert_allclose(faded, [0, 0.25, 0.5, 0.75, 1, 1], atol=SAME_PROGRAM)


def test_image_vae_sees_every_frame_alone(image_vae, clip):
    video = clip(5, 19, 24)
    codec = one_device(image_vae, chunk_frames=2)
    recon = codec.reconstruct(video)
    assert recon.shape == video.shape
    alone = codec.reconstruct(video[:, 4:5])
    difference = np.asarray(recon[:, 4:5], int) - np.asarray(alone, int)
    assert (
        np.abs(difference).max() <= 1
    )  # other batch sizes sum in another order; halves round either way


def test_sample_depends_on_the_key_alone(vae, clip):
    codec, video = one_device(vae, chunk_frames=4), clip(13, 16, 24)
    mode, one, again, two = (
        codec.encode(video, key=key).values
        for key in (None, jax.random.key(1), jax.random.key(1), jax.random.key(2))
    )
    np.testing.assert_array_equal(one, again)
    assert len({float(x[0, i, 0, 0, 0]) for x in (mode, one, two) for i in range(3)}) == 9
    noise = (one - mode) / jnp.exp(0.5 * codec.posterior(video).logvar)
    assert not np.allclose(noise[:, 2], noise[:, 3]), "chunks share their noise"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"chunk_frames": 6}, "chunk-frames"), ({"tile": 60}, "tile"), ({"overlap": 0.9}, "overlap")],
)
def test_unsuitable_numbers_are_named(vae, arguments, named):
    with pytest.raises(UserError, match=named):
        one_device(vae, **arguments)


def test_too_small_videos_and_foreign_latents_are_refused(vae, clip):
    codec = one_device(vae)
    with pytest.raises(UserError, match="8 x 8 pixels"):
        codec.encode(clip(1, 7, 16))
    with pytest.raises(UserError, match=r"not \(1, 0, 16, 16, 3\)"):
        codec.encode(clip(0, 16, 16))
    with pytest.raises(UserError, match=r"\(3, 2, 2, 4\)"):
        codec.decode(Latents(np.zeros((1, 2, 2, 2, 4), np.float32), 9, 16, 16))


def test_plans_that_cut_nothing_are_the_same(vae, clip):
    video = clip(5, 16, 40)
    whole = one_device(vae, tile="whole", chunk_frames=4).encode(video)
    for options in ({"chunk_frames": 8}, {"tile": 40, "chunk_frames": 4}, {"overlap": 0.5}):
        np.testing.assert_array_equal(one_device(vae, **options).encode(video).values, whole.values)


@pytest.mark.slow
def test_inside_of_a_tile_is_that_tile_alone(vae, clip):
    """Latents 0 to 6 and 5 to 9 of 9 with tiles of 6, of which one is shared; frames likewise."""
    video, codec = clip(1, 16, 72), one_device(vae, tile=48, overlap=0.2)
    first, last = (
        one_device(vae).encode(video[:, :, :, part]).values
        for part in (slice(0, 48), slice(40, 72))
    )
    both = codec.encode(video).values
    np.testing.assert_allclose(both[..., :5, :], first[..., :5, :], atol=SAME_PROGRAM)
    np.testing.assert_allclose(both[..., 6:, :], last[..., 1:, :], atol=SAME_PROGRAM)
    recon = codec.decode(both)
    ends = (one_device(vae).decode(both[..., part, :]) for part in (slice(0, 6), slice(5, 9)))
    first, last = ends
    np.testing.assert_allclose(recon[..., :40, :], first[..., :40, :], atol=SAME_PROGRAM)
    np.testing.assert_allclose(recon[..., 48:, :], last[..., 8:, :], atol=SAME_PROGRAM)


def test_latents_of_a_video_are_images_to_an_image_vae(vae, image_vae, clip):
    latents = one_device(vae).encode(clip(6, 13, 16))
    codec = one_device(image_vae)
    with pytest.raises(UserError, match=r"\(6, 2, 2, 4\)"):
        codec.decode(latents)
    images = codec.decode(latents, mode="image")
    assert images.shape == (1, 3, 13, 16, 3)
    alone = codec.decode(latents.values[:, 1:2])[:, 0, :13]
    np.testing.assert_allclose(to_uint8(alone), images[:, 1], atol=1)  # halves round either way


@pytest.mark.parametrize(
    ("video", "said"),
    [
        (np.zeros((5, 16, 16, 3), np.uint8), r"not \(5, 16, 16, 3\)"),
        (np.zeros((1, 5, 16, 16, 4), np.uint8), "not"),
        (np.zeros((0, 5, 16, 16, 3), np.uint8), "not"),
        (np.zeros((1, 5, 16, 16, 3), np.int64), "not int64"),
        (np.full((1, 5, 16, 16, 3), 200.0, np.float32), "one is 200"),
    ],
    ids=["no batch", "alpha", "empty", "integers", "range"],
)
def test_what_is_no_video_is_named(video, said):
    with pytest.raises(UserError, match=said):
        checked_pixels(video)


def test_floats_of_other_types_are_taken_as_float32():
    video = np.linspace(-1, 1, 3 * 64).reshape(1, 1, 8, 8, 3)
    for dtype in (np.float64, np.float16, jnp.bfloat16):
        pixels = checked_pixels(video.astype(dtype))
        assert pixels.dtype == np.float32
        np.testing.assert_array_equal(pixels, video.astype(dtype).astype(np.float32))
