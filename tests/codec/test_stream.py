"""Reconstruction frame by frame."""

import functools

import jax
import numpy as np
import pytest

from cvvae_jax.codec.codec import Codec
from cvvae_jax.codec.stream import reconstruct_frames
from cvvae_jax.errors import UserError

one_device = functools.partial(Codec, devices=jax.devices()[:1])


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 6, 9, 18])
@pytest.mark.parametrize("seed", [None, 0])
def test_stream_equals_codec(vae, clip, frames, seed):
    """Exactly: both run the same programs on the same chunks."""
    codec, video = one_device(vae, chunk_frames=4), clip(frames, 11, 21)
    key = None if seed is None else jax.random.key(seed)
    streamed = np.stack(list(reconstruct_frames(codec, iter(video[0]), key=key)))
    np.testing.assert_array_equal(streamed, codec.reconstruct(video, key=key)[0])


def test_stream_of_tiles_equals_codec(vae, clip):
    codec, video = one_device(vae, chunk_frames=4, tile=24, overlap=0.3), clip(6, 16, 40)
    streamed = np.stack(list(reconstruct_frames(codec, video[0])))
    np.testing.assert_array_equal(streamed, codec.reconstruct(video)[0])


def test_stream_of_official_chunks_equals_codec(vae, clip):
    codec, video = one_device(vae), clip(18, 16, 24)
    streamed = np.stack(list(reconstruct_frames(codec, video[0])))
    np.testing.assert_array_equal(streamed, codec.reconstruct(video)[0])


def test_stream_holds_four_chunks_at_most(vae, clip):
    """When a frame comes out, its chunk has been read, and one each that is being decoded, encoded
    and read."""
    frame, read = clip(1, 16, 24)[0, 0], 0

    def source():
        nonlocal read
        for _ in range(40):
            read += 1
            yield frame

    stream = reconstruct_frames(one_device(vae, chunk_frames=4), source())
    assert read == 0
    ahead = [read - i for i, _ in enumerate(stream, start=1)]
    assert len(ahead) == 40
    assert max(ahead) <= 1 + 4 * 4


def test_stream_of_nothing_is_empty(vae):
    assert list(reconstruct_frames(one_device(vae), [])) == []


@pytest.mark.parametrize("frames", [3, 12, 23])
def test_frames_before_an_error_of_the_file_come_out(vae, clip, frames):
    """On eight devices, whose chunks are taken together."""
    codec, video = Codec(vae, chunk_frames=4), clip(frames, 16, 24)[0]

    def damaged():
        yield from video
        raise UserError("the file ends early")

    came = []
    with pytest.raises(UserError, match="ends early"):
        for frame in reconstruct_frames(codec, damaged()):
            came.append(frame)
    assert len(came) == frames
