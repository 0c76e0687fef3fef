"""Example clips: three panels that show what they say, in files without H.264."""

import av
import numpy as np
import pytest
from report_results import clip_and_recon

from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.report import write_example
from cvvae_jax.evaluation.report.players import error_colors
from cvvae_jax.video_io.frame_index import frame_times
from cvvae_jax.video_io.video import probe, read_frames

GAP = 4


def panels(path):
    """Input, reconstruction and error of every frame, (t, h, w, 3) each."""
    frames = np.stack(list(read_frames(path))).astype(np.float32)
    width = (frames.shape[2] - 2 * GAP) // 3
    return [frames[:, :, i * (width + GAP) :][:, :, :width] for i in range(3)]


def test_panels_are_input_reconstruction_and_error(tmp_path):
    video, recon = clip_and_recon(size=192)
    recon[:, :, 128:] = 255 - video[:, :, 128:] // 2
    write_example(tmp_path / "a.webm", video, recon, fps=8)
    shown = panels(tmp_path / "a.webm")
    # 4:2:0 and VP9 at this quality cost some levels on average; the other panel, over 20.
    for panel, frames in zip(shown, (video, recon), strict=False):
        assert np.abs(panel - frames).mean() < 8
    none, most = error_colors()[[0, 255]].astype(np.float32)
    assert np.abs(shown[2][:, :, :80] - none).mean() < 4
    # Errors of over 32 levels are as bright as the error map gets.
    assert np.abs(shown[2][:, :, 150:] - most).mean() < 20


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        *[((32, 48), 192), ((256, 256), 256), ((33, 65), 198), ((700, 1100), 234)],
        *[((64, 300), 64), ((512, 512), 512), ((514, 514), 257)],
    ],
)
def test_panels_are_neither_tiny_nor_huge(size, shown, tmp_path):
    video = np.full((2, *size, 3), 90, np.uint8)
    write_example(tmp_path / "a.webm", video, video, fps=25)
    found = probe(tmp_path / "a.webm")
    assert found.height == shown and found.width <= 3 * 512 + 2 * GAP


def test_every_frame_is_there_at_its_time(tmp_path):
    video, recon = clip_and_recon(frames=5)
    write_example(tmp_path / "a.webm", video, recon, fps=25 / 3)
    assert len(list(read_frames(tmp_path / "a.webm"))) == 5
    # WebM counts in milliseconds.
    times = [float(time) for time in frame_times(tmp_path / "a.webm")]
    assert times == pytest.approx([0, 0.12, 0.24, 0.36, 0.48], abs=1e-3)
    assert float(probe(tmp_path / "a.webm").fps) == pytest.approx(25 / 3, rel=1e-3)


def test_the_codec_is_one_that_browsers_have(tmp_path):
    video, recon = clip_and_recon(frames=2)
    write_example(tmp_path / "a.webm", video, recon, fps=8)
    with av.open(str(tmp_path / "a.webm")) as container:
        context = container.streams.video[0].codec_context
        # Safari plays VP9 with colors of half the resolution only.
        assert (context.name, context.pix_fmt) == ("vp9", "yuv420p")


def test_bytes_are_the_same_every_time(tmp_path):
    video, recon = clip_and_recon(frames=3)
    for name in ("a", "b"):
        write_example(tmp_path / f"{name}.webm", video, recon, fps=8)
    assert (tmp_path / "a.webm").read_bytes() == (tmp_path / "b.webm").read_bytes()


@pytest.mark.parametrize(
    ("name", "frames", "said"),
    [("a.mp4", 2, ".webm"), ("a.webm", 0, "no frame"), ("none/a.webm", 2, "cannot be written")],
)
def test_what_cannot_be_written_leaves_nothing(name, frames, said, tmp_path):
    video, _ = clip_and_recon(frames=2)
    with pytest.raises(UserError, match=said):
        write_example(tmp_path / name, video[:frames], video[:frames], fps=8)
    assert not list(tmp_path.iterdir())
