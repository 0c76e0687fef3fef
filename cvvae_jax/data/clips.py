"""From a medium to a clip: a random one to train on, or a fixed one to measure on."""

import math

import numpy as np

from cvvae_jax.config import Bucket, DataConfig
from cvvae_jax.video_io.media import Frames, Media
from cvvae_jax.video_io.video import frame_times, is_image, read_clip

# Clips to measure on have at most so many source frames from one to the next.
_LARGEST_EVAL_STRIDE = 2


def random_clip(
    media: Media, bucket: Bucket, data: DataConfig, rng: np.random.Generator
) -> np.ndarray:
    """A clip to train on; all that is random about it comes from `rng`.

    Images are resized to cover the clip, and give their middle.

    Returns:
        uint8 array (frames, height, width, 3) of the bucket's sizes.

    Raises:
        UserError: the medium cannot be decoded.
    """
    image = not isinstance(media, Frames) and is_image(media)
    numbers = _draw_numbers(frame_times(media), bucket.frames, data, rng)
    cover = (bucket.height, bucket.width)
    clip = read_clip(media, numbers, short_side=None if image else data.short_side, cover=cover)
    centered = image or data.crop == "center"
    spare = np.subtract(clip.shape[1:3], cover)
    top, left = (int(s) // 2 if centered else int(rng.integers(s + 1)) for s in spare)
    clip = clip[:, top : top + bucket.height, left : left + bucket.width]
    if data.flip and rng.random() < 0.5:
        clip = clip[:, :, ::-1]
    if data.reverse and rng.random() < 0.5:
        clip = clip[::-1]
    return np.ascontiguousarray(clip)


def center_clip(media: Media, bucket: Bucket, data: DataConfig, *, position: float) -> np.ndarray:
    """The clip that nothing random is about: the middle of the frame.

    Its frames are as far apart as training's nearest, but at most 2 source frames; where `data` has
    a range of rates, they have the lower one.

    Args:
        media: a video or an image.
        bucket: sizes of the clip; the last frame of a shorter video is held.
        data: how far apart its frames are.
        position: where in the video the clip lies, from 0, its beginning, to 1, its end.

    Returns:
        uint8 array (frames, height, width, 3) of the bucket's sizes.

    Raises:
        UserError: the medium cannot be decoded.
    """
    times = frame_times(media)
    if data.fps is not None:
        numbers = numbers_at_rate(times, bucket.frames, data.fps[0], position)
    else:
        stride = max(data.min_stride, min(_LARGEST_EVAL_STRIDE, data.max_stride))
        stride = min(stride, largest_stride(len(times), bucket.frames))
        spare = max(0, len(times) - 1 - stride * (bucket.frames - 1))
        numbers = round(position * spare) + stride * np.arange(bucket.frames)
    cover = (bucket.height, bucket.width)
    clip = read_clip(media, np.minimum(numbers, len(times) - 1), cover=cover)
    top, left = np.subtract(clip.shape[1:3], cover) // 2
    return np.ascontiguousarray(clip[:, top : top + bucket.height, left : left + bucket.width])


def largest_stride(count: int, frames: int) -> int:
    """The largest stride at which a clip fits into `count` frames, or 1."""
    return max(1, (count - 1) // max(frames - 1, 1))


def _draw_numbers(
    times: np.ndarray, frames: int, data: DataConfig, rng: np.random.Generator
) -> np.ndarray:
    """Numbers of a clip's frames: int (frames,); the last one of a video too short is held."""
    if data.fps is not None:
        return numbers_at_rate(times, frames, rng.uniform(*data.fps), rng.random())
    largest = min(data.max_stride, largest_stride(len(times), frames))
    stride = int(rng.integers(min(data.min_stride, largest), largest + 1))
    spare = max(0, len(times) - 1 - stride * (frames - 1))
    start = int(rng.integers(spare + 1))
    return np.minimum(start + stride * np.arange(frames), len(times) - 1)


def numbers_at_rate(times: np.ndarray, frames: int, fps: float, position: float) -> np.ndarray:
    """Numbers of the frames that are shown at a rate: int (frames,).

    Args:
        times: when each frame of the video is shown, in seconds from the first one on.
        frames: of the clip; the last one of a video that has fewer is held.
        fps: the rate; the video's own, on average, where that is lower, and a higher one where the
            video is too short.
        position: where the clip lies, from 0, the beginning, to 1, the end of the video.
    """
    if len(times) < frames:
        return np.minimum(np.arange(frames), len(times) - 1)
    own = (len(times) - 1) / times[-1] if times[-1] > 0 else math.inf
    span = min((frames - 1) / min(fps, own), float(times[-1]))
    wanted = position * (times[-1] - span) + np.linspace(0, span, frames)
    # The nearest of the two frames around a time; the middles between frames tell them apart. Of
    # two that are equally near it is always the earlier one, whatever rounding does.
    middles = (times[1:] + times[:-1]) / 2
    return np.searchsorted(middles, wanted - 1e-6 * span / max(frames - 1, 1))
