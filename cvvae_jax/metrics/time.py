"""How the errors of a reconstruction behave over time: whether they stand still, drift, flicker or
move.

Everything here looks along the time axis of (batch, time, height, width, channel) alone, except for
`warping_error`, which follows motion.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from cvvae_jax.errors import UserError
from cvvae_jax.metrics.image import error

_LEVELS = 127.5
"""8-bit levels per unit of values in [-1, 1]."""


def difference_mse(
    recon: Float[Array, "b t h w 3"], video: Float[Array, "b t h w 3"]
) -> Float[Array, "b t-1"]:
    """Mean squared error of the differences between every frame and the next, float32.

    For values in [-1, 1]; `recon` is clipped to that range. The result is 0 where the error doesn't
    change from frame to frame, twice the mean squared error where errors of neighboring frames are
    unrelated, and four times where they alternate. `metrics.image.psnr_of` converts it to decibels,
    with the peak 2 of frames.
    """
    return jnp.square(jnp.diff(error(recon, video), axis=1)).mean(axis=(2, 3, 4))


def error_spectrum(
    recon: Float[Array, "b t h w 3"], video: Float[Array, "b t h w 3"], *, window: int = 16
) -> Float[Array, "b f"]:
    """Power spectrum of the error over time, averaged over pixels and channels.

    For values in [-1, 1]; `recon` is clipped to that range. Float32 at the `window` / 2 + 1
    `frequencies`. By Welch's method (1967): windows of `window` frames overlap by half or more,
    evenly spaced from the first to the last frame. A shorter clip is one shorter window, evaluated
    at the same frequencies. Windows are Hann's, sampled such that no weight is zero: every frame
    counts, the ends of a clip least. The mean of a pixel over a window is power at frequency 0 and
    subtracted first, so that an error that stands still has power nowhere else.

    The sum over frequencies is the mean squared error, with frames weighted by the squares of the
    windows (Parseval). Where the squared error is equal in all frames, it is that of the clip.

    Raises:
        ValueError: `window` is odd or less than 2.
    """
    if window < 2 or window % 2:
        raise ValueError(f"A spectrum's window is an even number of frames, not {window}.")
    starts, length = _windows(video.shape[1], window)
    transform, mean = (jnp.asarray(matrix, jnp.float32) for matrix in _transform(length, window))
    frames = error(recon, video)

    def powers(start):
        part = jax.lax.dynamic_slice_in_dim(frames, start, length, axis=1)
        # float32 in full, or power leaks from strong frequencies to weak ones.
        waves = jnp.einsum("pft,bthwc->bpfhwc", transform, part, precision="highest")
        still = jnp.einsum("t,bthwc->bhwc", mean, part, precision="highest")
        power = jnp.square(waves).mean(axis=(3, 4, 5)).sum(axis=1)
        return power.at[:, 0].add(jnp.square(still).mean(axis=(1, 2, 3)))

    return jax.lax.map(powers, jnp.asarray(starts)).mean(axis=0)


def frequencies(window: int = 16) -> np.ndarray:
    """The frequencies of a spectrum in cycles per frame: float64 (`window` / 2 + 1,) from 0 to
    0.5."""
    return np.linspace(0.0, 0.5, window // 2 + 1)


def flicker(
    spectrum: Float[Array | np.ndarray, "*batch f"],
) -> Float[Array | np.ndarray | np.generic, "*batch"]:
    """The error that comes and goes within four frames or fewer, in 8-bit levels.

    It is the root of a spectrum's power at a quarter cycle per frame and above: a pattern that
    repeats with every group of four frames counts, a slower one doesn't.
    """
    fast = frequencies(2 * (spectrum.shape[-1] - 1)) >= 0.25
    return levels_of(spectrum[..., fast].sum(axis=-1))


def drift_mse(
    recon: Float[Array, "b t h w 3"], video: Float[Array, "b t h w 3"]
) -> Float[Array, "b"]:
    """The part of the mean squared error that grows steadily from the first to the last frame,
    float32.

    For values in [-1, 1]; `recon` is clipped to that range. A straight line is fitted to the error
    of every pixel over time (least squares). The result is the variance of the line over time,
    averaged over pixels and channels: the whole variance of an error that is such a line, 0 of an
    error that stands still or of a single frame.
    """
    frames = video.shape[1]
    times = np.arange(frames) - (frames - 1) / 2
    line = times / max(np.sqrt(np.sum(times**2)), 1.0)
    # float32 in full, or errors that stand still would have a share.
    along = jnp.einsum(
        "t,bthwc->bhwc", jnp.asarray(line, jnp.float32), error(recon, video), precision="highest"
    )
    return jnp.square(along).mean(axis=(1, 2, 3)) / frames


def levels_of(
    mse: Float[Array | np.ndarray | np.generic, "*shape"],
) -> Float[Array | np.ndarray | np.generic, "*shape"]:
    """Mean squared errors of values in [-1, 1] as root mean squares in 8-bit levels."""
    return _LEVELS * mse**0.5


def by_position(values: np.ndarray, period: int) -> Float[np.ndarray, "positions"]:
    """Means of (b, t) values of frames over clips and groups, by position in the group: float64.

    Groups are those of `frame_groups` with k = `period`, or chunks of `period` frames after the
    first frame. Entry 0 is the mean of all first frames, entries 1 to `period` those of the groups'
    first to last frames; NaN where no clip has such a frame.
    """
    values = np.asarray(values, np.float64)
    times = np.arange(values.shape[1])
    positions = np.where(times == 0, 0, (times - 1) % period + 1)
    chosen = [values[:, positions == i] for i in range(period + 1)]
    return np.array([part.mean() if part.size else np.nan for part in chosen])


def _windows(frames: int, window: int) -> tuple[np.ndarray, int]:
    """The number of the first frame of every window, int, and the length of the windows in
    frames."""
    length = min(frames, window)
    count = 1 + -(-(frames - length) // (window // 2))
    return np.linspace(0, frames - length, count).round().astype(int), length


def _transform(length: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices, float64; the squares of their products with a segment are its power.

    (2, `window` / 2 + 1, `length`) for the cosines and sines of the windowed segment without its
    mean, and (`length`,) for that mean, weighted by the squares of the window, which makes
    Parseval's sum exact.
    """
    hann = np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2
    mean = hann**2 / np.sum(hann**2)
    waves = np.exp(-2j * np.pi * np.outer(frequencies(window), np.arange(length))) * hann
    waves -= np.outer(waves.sum(axis=1), mean)
    # Positive frequencies stand for negative ones too, except for the lowest and the highest.
    sides = np.full(len(waves), 2.0)
    sides[[0, -1]] = 1.0
    waves *= np.sqrt(sides / (window * np.sum(hann**2)))[:, None]
    return np.stack([waves.real, waves.imag]), mean


FLOW_PIXELS = 16
"""The smallest height and width in pixels that flow is computed for. On smaller frames OpenCV's DIS
at its preset `medium` crashes the process, since its coarsest scale is finer than its finest."""


def warping_error(
    recon: UInt8[np.ndarray, "t h w 3"], video: UInt8[np.ndarray, "t h w 3"]
) -> Float[np.ndarray, "t-1"]:
    """The difference between every frame of a reconstruction and the next one, warped back along
    the motion of the input.

    After Lai et al. 2018 ("Learning Blind Video Temporal Consistency"). The optical flow of the
    *input* leads from every pixel of a frame to a point of the next frame, at which `recon` is
    sampled bilinearly. The result is the root of the mean squared difference over channels and
    pixels, in 8-bit levels, float64. Left out are pixels whose flow leads out of the frame, and
    pixels whose flow there and back doesn't end where it began (occlusions, by the bound of
    Sundaram, Brox & Keutzer 2010); NaN where no pixel is left, as between scenes. Flow is OpenCV's
    DIS (Kroeger et al. 2016) at its preset `medium`, on gray frames.

    Flow is never perfect, so compare with `warping_error(video, video)`. Smooth frames warp well: a
    blurred reconstruction may score lower than that.

    Raises:
        UserError: OpenCV isn't installed.
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
    """OpenCV, imported late since it takes long and only this file needs it."""
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise UserError(
            "The warping error needs OpenCV: pip install opencv-python-headless."
        ) from error
    return cv2


def _flow(cv2, gray: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The optical flow of every pixel from a frame to another, float32 (h, w, 2): columns, then
    rows.

    The estimator is new each time, since it starts from its last result, which would make a clip's
    numbers depend on what was measured before.
    """
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return estimator.calc(gray, other, None)


def _visible(cv2, forward: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Pixels whose flow stays inside the frame and leads back to them: bool (h, w)."""
    height, width = forward.shape[:2]
    columns, rows = _targets(forward)
    inside = (columns >= 0) & (columns <= width - 1) & (rows >= 0) & (rows <= height - 1)
    returned = _sampled(cv2, back, forward)
    apart = np.square(forward + returned).sum(axis=-1)
    lengths = np.square(forward).sum(axis=-1) + np.square(returned).sum(axis=-1)
    return inside & (apart <= 0.01 * lengths + 0.5)


def _sampled(cv2, picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The picture, float32, sampled where the flow leads."""
    return cv2.remap(picture, *_targets(flow), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _targets(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The column and the row that the flow leads to from every pixel."""
    rows, columns = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    return columns + flow[..., 0], rows + flow[..., 1]
