"""Long files through `reconstruct`."""

import subprocess
import sys
import time

import numpy as np
import pytest
from tiny_videos import make_video

from benchmarks.streaming import memory_while_running, save_weights, write_video
from cvvae_jax.video_io.video import read_frames


@pytest.mark.slow
def test_ten_minutes_take_as_much_memory_as_one(tmp_path):
    """Within 5 %, of the whole process's peak."""
    save_weights(tmp_path / "weights")
    peaks = []
    for frames in (1_500, 15_000):
        source = tmp_path / f"{frames}.mp4"
        write_video(source, frames=frames, height=16, width=24)
        peaks.append(max(memory_while_running(tmp_path, source)))
        assert sum(1 for _ in read_frames(tmp_path / "out.mp4")) == frames
    assert peaks[1] <= 1.05 * peaks[0]


@pytest.mark.slow
def test_killed_at_random_moments_leaves_a_prefix_that_plays(tmp_path, weights):
    """After SIGKILL the frames beside OUT are the first ones of what would have been OUT, as far as
    the encoder had got; here each frame of the input has a gray of its own."""
    source = make_video(tmp_path / "in.mp4", frames=1200, height=32, width=32)
    whole = tmp_path / "whole.mp4"
    command = [sys.executable, "-m", "cvvae_jax", "reconstruct", source]
    options = ["--weights", weights, "--chunk-frames", "8"]
    subprocess.run([*command, str(whole), *options], check=True)
    expected = list(read_frames(whole))
    partial, rng = tmp_path / "out.partial.mp4", np.random.default_rng()
    for _ in range(5):
        process = subprocess.Popen([*command, str(tmp_path / "out.mp4"), *options])
        # Before the first second is written there is nothing to see yet.
        while not (partial.exists() and b"moof" in partial.read_bytes()):
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 4))
        process.kill()
        process.wait()
        frames = list(read_frames(partial))
        assert len(frames) < len(expected)
        # The encoder's decisions depend on what it looks ahead at: some levels.
        for frame, other in zip(frames, expected, strict=False):
            assert np.abs(frame.astype(int) - other).mean() < 4
        partial.unlink()
