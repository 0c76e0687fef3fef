import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cvvae_jax.frame_groups import repeat_to_frames
from cvvae_jax.metrics.image import ms_ssim, mse, psnr, psnr_of, ssim
from cvvae_jax.models.inputs import to_float

CONTENTS = ("random", "smooth", "bright", "photograph")


def pictures(content: str, noise: float, *shape: int) -> tuple[jax.Array, jax.Array]:
    """Reconstruction and video, float32 (*shape, 3) in [-1, 1]."""
    rng = np.random.default_rng(0)
    down, across = (np.linspace(0, 3, size) for size in shape[-2:])
    photograph = skimage.data.astronaut()[100:, 140:]
    waves = np.sin(down[:, None, None] + across[:, None] + np.arange(3))
    video = {
        "random": rng.uniform(-1, 1, (*shape, 3)),
        "smooth": waves * np.ones((*shape, 1)),
        "bright": 0.97 + 0.02 * waves * np.ones((*shape, 1)),
        "photograph": photograph[: shape[-2], : shape[-1]] / 127.5 - np.ones((*shape, 1)),
    }[content].astype(np.float32)
    recon = np.clip(video + noise * rng.normal(size=video.shape), -1, 1)
    return jnp.asarray(recon, jnp.float32), jnp.asarray(video)


def as_users_have_them(video: jax.Array) -> np.ndarray:
    """Values in [-1, 1] as float64 in [0, 1], the range of floating-point pictures elsewhere."""
    return (np.asarray(video, np.float64) + 1) / 2


def eight_bits(content: str, noise: float, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Reconstruction and video, uint8 (*shape, 3)."""
    pair = pictures(content, noise, *shape)
    return tuple((255 * as_users_have_them(x)).round().astype(np.uint8) for x in pair)


def frame_by_frame(measure, recon: np.ndarray, video: np.ndarray) -> np.ndarray:
    """What another library's measure gives for every frame: (b, t)."""
    pairs = zip(video, recon, strict=True)
    return np.array([[measure(*frames) for frames in zip(*clips, strict=True)] for clips in pairs])


def their_psnr(video: np.ndarray, recon: np.ndarray) -> float:
    """With the range that scikit-image takes itself for 8-bit pictures, 255, and 1 for others."""
    data_range = None if video.dtype == np.uint8 else 1
    return peak_signal_noise_ratio(video, recon, data_range=data_range)


def their_ssim(video: np.ndarray, recon: np.ndarray) -> float:
    """With the settings that its documentation gives for Wang et al.; averaged over windows inside
    of the frame, as ours."""
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    data_range = 255 if video.dtype == np.uint8 else 1
    return structural_similarity(video, recon, data_range=data_range, channel_axis=-1, **settings)


@pytest.mark.parametrize("noise", [0.002, 0.3, 2.0])
@pytest.mark.parametrize("content", CONTENTS)
def test_psnr_equals_scikit_image_frame_by_frame(content, noise):
    recon, video = pictures(content, noise, 2, 3, 16, 16)
    # Up to 60 dB, of which float32 has seven digits.
    expected = frame_by_frame(their_psnr, *map(as_users_have_them, (recon, video)))
    np.testing.assert_allclose(psnr(recon, video), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("content", CONTENTS)
def test_psnr_and_ssim_are_what_scikit_image_says_of_8_bit_frames(content):
    recon, video = eight_bits(content, 0.1, 2, 2, 19, 24)
    ours = to_float(recon), to_float(video)
    # Half of float32's spacing at 1, 6e-8, beside an error of 1 / 255: 2e-5, or 1e-4 dB.
    expected = frame_by_frame(their_psnr, recon, video)
    np.testing.assert_allclose(psnr(*ours), expected, atol=1e-4)
    expected = frame_by_frame(their_ssim, recon, video)
    np.testing.assert_allclose(ssim(*ours), expected, atol=1e-5)


def test_psnr_ignores_what_clipping_removes_and_is_100_at_most():
    video = jnp.ones((1, 1, 4, 4, 3))
    np.testing.assert_allclose(psnr(video + 5, video), 100, rtol=1e-6)


def test_psnr_of_host_arrays_stays_double():
    """10 log10(4 / mse): 26.020599913279625 dB for 0.01."""
    found = psnr_of(np.array([0.01, 0.0]))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [26.020599913279625, 100.0], rtol=1e-15)


def test_psnr_is_of_the_mean_squared_error():
    recon, video = pictures("random", 0.1, 2, 3, 8, 8)
    expected = np.square(np.asarray(recon, np.float64) - np.asarray(video)).mean((2, 3, 4))
    np.testing.assert_allclose(mse(recon, video), expected, rtol=1e-6)  # of float32
    np.testing.assert_array_equal(psnr(recon, video), psnr_of(mse(recon, video)))


def test_images_of_latents_last_as_long_as_what_they_stand_for():
    frames = np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1, 1)
    held = repeat_to_frames(frames, temporal_compression=4)
    np.testing.assert_array_equal(held.ravel(), [0, 1, 1, 1, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(
        repeat_to_frames(frames[:, :1], temporal_compression=4), frames[:, :1]
    )


@pytest.mark.parametrize("noise", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("content", CONTENTS)
def test_ssim_equals_scikit_image_frame_by_frame(content, noise):
    recon, video = pictures(content, noise, 2, 2, 19, 24)
    # Rounding of squares near 0.25, 1.5e-8, against the constant 0.0009 that is added to variances.
    expected = frame_by_frame(their_ssim, *map(as_users_have_them, (recon, video)))
    np.testing.assert_allclose(ssim(recon, video), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("recon", "video", "expected"),
    [(0.0, 1.0, 0.0001 / 1.0001), (0.5, 1.0, 1.0001 / 1.2501), (0.25, 0.25, 1.0)],
    ids=["black and white", "gray and white", "equal"],
)
def test_ssim_of_even_frames_is_the_papers_luminance_term(recon, video, expected):
    """(2 x y + C) / (x^2 + y^2 + C) with C = 0.01^2, for values in [0, 1]: as all other terms are
    1, MS-SSIM is its power 0.1333."""
    frames = [jnp.full((1, 1, 176, 176, 3), 2 * value - 1) for value in (recon, video)]
    # The term is told as what it lacks from 1, in float32: to 6e-8, of 0.0001.
    np.testing.assert_allclose(ssim(*frames), expected, atol=2e-7)
    np.testing.assert_allclose(ms_ssim(*frames), expected**0.1333, rtol=2e-3 * 0.1333)


def test_ssim_of_a_photograph_and_its_blur_is_scikit_images():
    photograph = skimage.data.astronaut()[:256, 100:356]
    blurred = gaussian_filter(photograph, 1.5, axes=(0, 1))
    found = ssim(*(to_float(x)[None, None] for x in (blurred, photograph)))
    # Bound as above.
    np.testing.assert_allclose(found, [[their_ssim(photograph, blurred)]], atol=1e-5)


def test_ssim_of_equal_frames_is_one_and_of_what_clipping_removes_too():
    video = jnp.ones((1, 2, 177, 179, 3))
    for measure in (ssim, ms_ssim):
        np.testing.assert_array_equal(jax.jit(measure)(video + 5, video), 1)


@pytest.mark.parametrize(
    ("measure", "shape", "message"),
    [
        (ssim, (16, 10), "^SSIM needs frames of 11 pixels, not 16 x 10"),
        (ms_ssim, (175, 200), "^MS-SSIM needs frames of 176 pixels, not 175 x 200"),
    ],
    ids=["ssim", "ms_ssim"],
)
def test_ssim_needs_frames_of_a_window(measure, shape, message):
    video = jnp.zeros((1, 1, *shape, 3))
    with pytest.raises(ValueError, match=message):
        measure(video, video)


def ms_ssim_by_hand(video: np.ndarray, recon: np.ndarray) -> float:
    """The paper's fractions in float64, with SciPy's Gaussian windows, for values in [0, 1]."""
    product = 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333):
        mean_x, mean_y, square_x, square_y, together = (
            gaussian_filter(values, 1.5, truncate=3.5, axes=(0, 1), mode="mirror")
            for values in (video, recon, video**2, recon**2, video * recon)
        )
        term = 2 * (together - mean_x * mean_y) + 0.03**2
        term /= square_x - mean_x**2 + square_y - mean_y**2 + 0.03**2
        if weight == 0.1333:
            term *= (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        else:
            term = term[5:-5, 5:-5]
        product *= max(term.mean(), 0.0) ** weight
        height, width = (size // 2 for size in video.shape[:2])
        video, recon = (
            values[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).mean((1, 3))
            for values in (video, recon)
        )
    return product


@pytest.mark.parametrize("content", CONTENTS)
def test_ms_ssim_is_the_papers_formula(content):
    recon, video = pictures(content, 0.3, 1, 2, 177, 179)
    expected = frame_by_frame(ms_ssim_by_hand, *map(as_users_have_them, (recon, video)))
    # The tolerance is SSIM's, at five scales.
    np.testing.assert_allclose(jax.jit(ms_ssim)(recon, video), expected, atol=1e-5)


@pytest.mark.parametrize("data_range", [1.0, 255.0])
@pytest.mark.parametrize("content", CONTENTS)
def test_ms_ssim_equals_torchmetrics(content, data_range):
    """On frames in [0, 1] and on 8-bit values, as its users call it."""
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torchmetrics.functional.image")
    recon, video = eight_bits(content, 0.3, 2, 2, 177, 192)
    flat = [
        torch.tensor(x).flatten(0, 1).movedim(-1, 1).float() * (data_range / 255)
        for x in (recon, video)
    ]
    expected = theirs.multiscale_structural_similarity_index_measure(
        *flat, data_range=data_range, reduction="none"
    )
    found = jax.jit(ms_ssim)(to_float(recon), to_float(video)).reshape(4)
    # Theirs rounds squares near 1 to 6e-8, beside the 0.0009 added to variances, at five scales.
    np.testing.assert_allclose(found, expected.numpy(), atol=5 * 6e-8 / 0.0009)
