"""Small videos as files."""

from fractions import Fraction

import numpy as np

from cvvae_jax.video_io.video_writer import VideoWriter

RATE = Fraction(30000, 1001)


def make_video(path, *, frames: int, height: int, width: int) -> str:
    across, down = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
    with VideoWriter(path, fps=RATE, height=height, width=width) as writer:
        for i in range(frames):
            frame = 128 + 100 * np.sin((across + i) / 9 + np.arange(3)) * np.cos(down / 7)
            writer.write(frame.astype(np.uint8))
    return str(path)
