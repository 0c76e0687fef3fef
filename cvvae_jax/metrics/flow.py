"""Warping error: does a reconstruction move as its input does?"""

import numpy as np
from jaxtyping import Float, UInt8

from cvvae_jax.config import ConfigError

FLOW_PIXELS = 16
"""Height and width in pixels of the smallest frames that flow is worked out on: below, the coarsest
scale of OpenCV's DIS at its preset `medium` is finer than its finest, which crashes the process."""


def warping_error(
    recon: UInt8[np.ndarray, "t h w 3"], video: UInt8[np.ndarray, "t h w 3"]
) -> Float[np.ndarray, "t-1"]:
    """How far every frame of a reconstruction is from its next one, moved back along the motion.

    After Lai et al. 2018 ("Learning Blind Video Temporal Consistency"): optical flow of the
    *input* leads from every pixel of a frame to the next frame, where `recon` is sampled
    bilinearly; root of the mean squared difference over channels and pixels, in 8-bit levels,
    float64; NaN where no pixel is left, as between scenes. Pixels are left out whose way leads out
    of the frame, or whose way there and back doesn't end where it began (occlusions, by the bound
    of Sundaram, Brox & Keutzer 2010). Flow is OpenCV's DIS (Kroeger et al. 2016) at its preset
    `medium`, on gray frames.

    Flow is never perfect: compare with `warping_error(video, video)`. What is smooth warps well, so
    that a blurred reconstruction may be below that.

    Raises:
        ConfigError: OpenCV isn't installed.
        ValueError: frames have less than 16 pixels in height or width.
    """
    if min(video.shape[1:3]) < FLOW_PIXELS:
        height, width = video.shape[1:3]
        raise ValueError(f"Flow needs frames of {FLOW_PIXELS} pixels, not {height} x {width}.")
    cv2 = _opencv()
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    errors = np.empty(len(video) - 1)
    for i in range(len(errors)):
        forward, back = _flow(cv2, gray[i], gray[i + 1]), _flow(cv2, gray[i + 1], gray[i])
        visible = _visible(cv2, forward, back)
        moved = _sampled(cv2, recon[i + 1].astype(np.float32), forward)
        squares = np.square(moved - recon[i].astype(np.float32))[visible]
        errors[i] = np.sqrt(squares.mean(dtype=np.float64)) if squares.size else np.nan
    return errors


def _opencv():
    """Imported late: it takes long, and only this file needs it."""
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise ConfigError(
            "The warping error needs OpenCV: pip install opencv-python-headless."
        ) from error
    return cv2


def _flow(cv2, gray: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where every pixel of a frame goes, float32 (h, w, 2): columns, then rows.

    A new estimator each time: it keeps its last result as a start, which would make a clip's
    numbers depend on what was measured before.
    """
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return estimator.calc(gray, other, None)


def _visible(cv2, forward: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Pixels that are inside of the next frame, and lead back to where they came from: bool."""
    height, width = forward.shape[:2]
    columns, rows = _targets(forward)
    inside = (columns >= 0) & (columns <= width - 1) & (rows >= 0) & (rows <= height - 1)
    returned = _sampled(cv2, back, forward)
    apart = np.square(forward + returned).sum(axis=-1)
    lengths = np.square(forward).sum(axis=-1) + np.square(returned).sum(axis=-1)
    return inside & (apart <= 0.01 * lengths + 0.5)


def _sampled(cv2, picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """What a picture, float32, has where the flow leads."""
    return cv2.remap(picture, *_targets(flow), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _targets(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    return columns + flow[..., 0], rows + flow[..., 1]
