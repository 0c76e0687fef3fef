"""`show`: the pictures and videos that notebooks get."""

import base64
import io
import sys
import types

import av
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cvvae_jax
from cvvae_jax import notebook
from cvvae_jax.errors import UserError

NUMBERS = np.random.default_rng(0)


def noise(*shape):
    return NUMBERS.integers(0, 256, shape, np.uint8)


def frames_of(shown):
    """The frames of an animated PNG, and its milliseconds a frame."""
    assert shown.mime_type == "image/png"
    picture = Image.open(io.BytesIO(base64.b64decode(shown.data)))
    assert (picture.width, picture.height) == (shown.width, shown.height)
    frames = []
    for number in range(picture.n_frames):
        picture.seek(number)
        frames.append(np.asarray(picture.convert("RGB")))
    return np.stack(frames), picture.info.get("duration")


def test_clips_are_animated_pngs_with_every_color():
    video = noise(1, 5, 64, 48, 3)
    frames, milliseconds = frames_of(notebook.inline(video, fps=8.0))
    np.testing.assert_array_equal(frames[:, ::4, ::4], video[0])
    assert frames.shape == (5, 256, 192, 3) and milliseconds == 125


def test_floats_are_in_minus_one_to_one():
    video = jnp.asarray([-1.0, 0.0, 1.0, 3.0]).reshape(1, 1, 1, 4, 1)
    frames, _ = frames_of(notebook.inline(jnp.broadcast_to(video, (1, 1, 256, 4, 3))))
    assert frames[0, 0, :, 0].tolist() == [0, 128, 255, 255]


def test_videos_stand_beside_each_other_and_clips_below():
    one, two = noise(2, 3, 300, 300, 3), noise(1, 3, 300, 200, 3)
    frames, _ = frames_of(notebook.inline(one, two))
    assert frames.shape == (3, 604, 604, 3)
    np.testing.assert_array_equal(frames[:, 304:, :300], one[1])
    np.testing.assert_array_equal(frames[:, :300, 304:504], two[0])
    assert (frames[:, 304:, 304:] == 255).all()


def test_a_frame_of_the_image_decoder_stands_for_its_group():
    latents = noise(1, 3, 300, 8, 3)
    frames, _ = frames_of(notebook.inline(noise(1, 9, 300, 8, 3), latents))
    wanted = latents[0][[0, 1, 1, 1, 1, 2, 2, 2, 2]]
    np.testing.assert_array_equal(frames[:, :, 12:], wanted)


def test_one_clip_and_pictures_are_taken():
    assert len(frames_of(notebook.inline(noise(3, 8, 8, 3)))[0]) == 3
    assert len(frames_of(notebook.inline(Image.new("RGB", (8, 8))))[0]) == 1


def test_long_videos_are_vp9_with_controls():
    video = np.broadcast_to(np.uint8([200, 40, 90]), (1, 90, 128, 256, 3))
    shown = notebook.inline(video, fps=12.5)
    assert shown.mime_type == "text/html" and "controls loop autoplay muted" in shown.data
    data = shown.data.partition("base64,")[2].partition('"')[0]
    with av.open(io.BytesIO(base64.b64decode(data))) as container:
        [stream] = container.streams.video
        assert stream.codec_context.name == "vp9" and stream.average_rate == 12.5
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(pictures) == 90 and pictures[0].shape == (256, 512, 3)
    assert np.abs(pictures[40].mean(axis=(0, 1)) - [200, 40, 90]).max() < 3


def test_what_is_displayed_has_its_size_and_a_text(monkeypatch):
    displayed = []
    display = types.ModuleType("IPython.display")
    display.display = displayed.append
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    assert cvvae_jax.show(noise(1, 2, 300, 8, 3)) is None
    data, metadata = displayed[0]._repr_mimebundle_()
    assert data.keys() == {"image/png", "text/plain"}
    assert data["text/plain"] == repr(displayed[0]) == "<2 frames of 8 x 300 pixels>"
    assert metadata == {"image/png": {"width": 8, "height": 300}}


def test_ipython_displays_it():
    formatters = pytest.importorskip("IPython.core.formatters")
    data, _ = formatters.DisplayFormatter().format(notebook.inline(noise(1, 2, 300, 8, 3)))
    assert data["text/plain"] == "<2 frames of 8 x 300 pixels>"
    assert base64.b64decode(data["image/png"])[:4] == b"\x89PNG"


def test_without_ipython_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    with pytest.raises(UserError, match="show needs a notebook"):
        cvvae_jax.show(noise(1, 2, 8, 8, 3))


@pytest.mark.parametrize(
    ("videos", "said"),
    [
        ([], "needs a video"),
        ([np.full((1, 1, 8, 8, 3), np.nan, np.float32)], "NaN or infinity"),
        (["clip.mp4"], "video"),
    ],
)
def test_what_is_no_video_is_refused(videos, said):
    with pytest.raises(UserError, match=said):
        notebook.inline(*videos)


def test_rates_are_checked():
    with pytest.raises(UserError, match="fps must be above 0"):
        notebook.inline(noise(1, 2, 8, 8, 3), fps=0.0)
