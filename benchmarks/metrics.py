"""How many clips a second every metric measures, beside the library that it agrees with.

    python -m benchmarks.metrics                              # the whole table
    python -m benchmarks.metrics --only psnr ssim ms_ssim     # some rows
    python -m benchmarks.metrics --clips 1 --frames 9         # enough for a small machine

Beside NumPy, SciPy and scikit-image, which a plain install has, stand torchmetrics, lpips and
pytorch-fid where they are installed; networks have random weights, the same on both sides. A round
runs every side once, so that whatever else the machine does slows all of them; the first, which
compiles, is shown by itself. Ours take and return arrays on the device and are timed until they are
there; PyTorch's too, on CUDA where there is one. The last column is the largest difference to ours,
of the largest value.
"""

import dataclasses
import functools
import importlib.util
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

import cvvae_jax
from cvvae_jax.config import I3DConfig
from cvvae_jax.losses import lpips
from cvvae_jax.metrics import frechet, image, seams
from cvvae_jax.metrics import time as metrics_time
from cvvae_jax.models.feature_networks.i3d import I3D

Sides = dict[str, Callable[[], np.ndarray]]
LIBRARIES = {
    "torch": "torch",
    "torchmetrics": "torchmetrics",
    "lpips": "lpips",
    "pytorch_fid": "pytorch-fid",
    "cv2": "opencv-python-headless",
}
"""What a plain install doesn't have: modules, and how they are installed."""
HEADER = f"{'':34}{'first s':>9}{'min s':>9}{'median s':>10}{'clips/s':>10}{'difference':>12}"


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Rows are metrics, each by all sides that are installed."""

    clips: int = 2
    """In a batch, which ours take at once."""
    frames: int = 17
    """Of a clip."""
    size: int = 256
    """Height and width in pixels."""
    repeats: int = 3
    """Timed rounds after the first."""
    only: tuple[str, ...] = ()
    """Rows to run; unset, all."""


@dataclasses.dataclass(frozen=True)
class Videos:
    """Reconstructions and what they reconstruct: float32 (b, t, h, w, 3) in [-1, 1], on the device
    and on the host."""

    recon: jax.Array
    video: jax.Array

    def frames(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs of a reconstruction's and a video's in [0, 1], as users of other libraries have
        them."""
        _, _, *shape = self.video.shape
        return zip(*((np.asarray(x).reshape(-1, *shape) + 1) / 2 for x in self.pair), strict=True)

    @property
    def pair(self) -> tuple[jax.Array, jax.Array]:
        return self.recon, self.video

    def by_frame(self, measure: Callable[[np.ndarray, np.ndarray], float]) -> np.ndarray:
        """(b, t), of what takes one frame of each."""
        return np.array([measure(*pair) for pair in self.frames()]).reshape(self.video.shape[:2])

    def errors(self) -> np.ndarray:
        return np.asarray(self.recon) - np.asarray(self.video)

    def tensors(self) -> list:
        """For PyTorch: (b * t, 3, h, w)."""
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        flat = (torch.tensor(np.asarray(x), device=device).flatten(0, 1) for x in self.pair)
        return [x.movedim(-1, 1).contiguous() for x in flat]


def random_videos(options: Benchmark) -> Videos:
    """Soft waves that move, and noise."""
    rng = np.random.default_rng(0)
    shape = (options.clips, options.frames, options.size, options.size, 3)
    clip, frame, down, across, channel = np.ogrid[tuple(slice(n) for n in shape)]
    waves = np.sin(down / 17 + frame / 3 + clip) * np.cos(across / 11 - frame / 5 + channel)
    recon = np.clip(0.9 * waves + 0.05 * rng.normal(size=shape), -1, 1)
    return Videos(jnp.asarray(recon, jnp.float32), jnp.asarray(0.9 * waves, jnp.float32))


def _ours(function: Callable, *arrays: object) -> Callable[[], np.ndarray]:
    run = jax.jit(function)
    return lambda: np.asarray(jax.block_until_ready(run(*arrays)))


def _torch(function: Callable) -> Callable[[], np.ndarray]:
    import torch

    @torch.inference_mode()
    def run():
        return function().cpu().numpy()

    return run


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def psnr(videos: Videos) -> Sides:
    from skimage.metrics import peak_signal_noise_ratio

    def theirs(recon, video):
        return peak_signal_noise_ratio(video, recon, data_range=1)

    sides = {"cvvae_jax": _ours(image.psnr, *videos.pair)}
    return sides | {"scikit-image": lambda: videos.by_frame(theirs)}


def ssim(videos: Videos) -> Sides:
    from skimage.metrics import structural_similarity

    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}

    def theirs(recon, video):
        return structural_similarity(video, recon, data_range=1, channel_axis=-1, **settings)

    sides = {"cvvae_jax": _ours(image.ssim, *videos.pair)}
    return sides | {"scikit-image": lambda: videos.by_frame(theirs)}


def ms_ssim(videos: Videos) -> Sides:
    sides = {"cvvae_jax": _ours(lambda *pair: image.ms_ssim(*pair).ravel(), *videos.pair)}
    if _has("torchmetrics"):
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

        tensors = [x / 2 + 0.5 for x in videos.tensors()]
        settings = {"data_range": 1.0, "reduction": "none"}
        sides["torchmetrics"] = _torch(
            lambda: multiscale_structural_similarity_index_measure(*tensors, **settings)
        )
    return sides


def _lpips(videos: Videos, name: str) -> Sides:
    """The same random network on both sides, by way of a file."""
    if not _has("lpips"):
        return {}
    import lpips as theirs

    warnings.filterwarnings("ignore", module="torchvision")  # of how lpips calls it
    tensors = videos.tensors()
    network = theirs.LPIPS(net=name, pretrained=False, pnet_rand=True, verbose=False).eval()
    for head in network.lins:
        head.model[-1].weight.data.abs_()
    ours = _through_file(network.state_dict())
    network = network.to(tensors[0].device)
    return {
        "cvvae_jax": _ours(lambda n, *pair: lpips(n, *pair).ravel(), ours, *videos.pair),
        "lpips": _torch(lambda: network(*tensors).flatten()),
    }


def _through_file(tensors: dict) -> object:
    import torch

    with tempfile.TemporaryDirectory() as folder:
        torch.save(tensors, path := Path(folder, "network.pt"))
        return cvvae_jax.load(path)


def inception(videos: Videos) -> Sides:
    """Features of every frame, for the Frechet distance of frames."""
    if not _has("pytorch_fid"):
        return {}
    import torch
    from pytorch_fid import inception as theirs

    # It would fetch weights.
    with (
        mock.patch.object(theirs, "load_state_dict_from_url"),
        mock.patch.object(torch.nn.Module, "load_state_dict"),
    ):
        network = theirs.fid_inception_v3()
    ours = _through_file(network.state_dict())
    with mock.patch.object(theirs, "fid_inception_v3", return_value=network):
        network = theirs.InceptionV3([3]).eval()
    frames = videos.tensors()[0] / 2 + 0.5
    network = network.to(frames.device)
    run = _ours(lambda n, x: frechet.frame_features(n, x).reshape(-1, 2048), ours, videos.recon)
    return {"cvvae_jax": run, "pytorch-fid": _torch(lambda: network(frames)[0].flatten(1))}


def i3d(videos: Videos) -> Sides:
    """Features of every clip, for the Frechet distance of videos: ours alone, no package has it."""
    network = jax.jit(lambda: I3D(I3DConfig(), rngs=nnx.Rngs(0)))()
    return {"cvvae_jax": _ours(frechet.clip_features, network, videos.recon)}


def difference_mse(videos: Videos) -> Sides:
    def theirs():
        return np.square(np.diff(videos.errors(), axis=1)).mean((2, 3, 4))

    return {"cvvae_jax": _ours(metrics_time.difference_mse, *videos.pair), "numpy": theirs}


def drift_mse(videos: Videos) -> Sides:
    def theirs():
        errors = videos.errors()
        times = np.arange(errors.shape[1])
        slopes = [np.polyfit(times, clip.reshape(len(times), -1), 1)[0] for clip in errors]
        return np.square(slopes).mean(axis=1) * times.var()

    return {"cvvae_jax": _ours(metrics_time.drift_mse, *videos.pair), "numpy polyfit": theirs}


def error_spectrum(videos: Videos) -> Sides:
    """But for the two lowest frequencies, which a window's mean has a share in: SciPy's has other
    weights."""
    from scipy.signal import welch

    half = min(8, videos.video.shape[1] // 2)
    frames = videos.video.shape[1] // half * half  # SciPy leaves the others out
    hann = np.sin(np.pi * (np.arange(2 * half) + 0.5) / (2 * half)) ** 2

    def theirs():
        _, power = welch(videos.errors()[:, :frames], axis=1, window=hann, noverlap=half)
        return power.mean((2, 3, 4))[:, 2:] / (2 * half)

    def ours(*pair):
        return metrics_time.error_spectrum(*pair, window=2 * half)[:, 2:]

    pair = [x[:, :frames] for x in videos.pair]
    return {"cvvae_jax": _ours(ours, *pair), "scipy welch": theirs}


def seam_ratio(videos: Videos) -> Sides:
    border = videos.video.shape[3] // 2

    def theirs():
        steps = np.square(np.diff(videos.errors(), axis=3)).mean((1, 2, 4))
        return steps[:, border - 1] / np.delete(steps, border - 1, axis=1).mean(1)

    def ours(*pair):
        return seams.seam_ratio(*pair, column_borders=(border,))

    return {"cvvae_jax": _ours(ours, *videos.pair), "numpy": theirs}


def warping_error(videos: Videos) -> Sides:
    """OpenCV's flow and two samplings a frame: ours alone."""
    if not _has("cv2"):
        return {}
    clips = [np.asarray((x + 1) * 127.5).round().astype(np.uint8) for x in videos.pair]
    pairs = list(zip(*clips, strict=True))
    return {"cvvae_jax": lambda: np.array([metrics_time.warping_error(*pair) for pair in pairs])}


def _frechet(_: Videos, width: int) -> Sides:
    """One distance of two sets of features, twice as many as each has entries."""
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    sets = [rng.normal(size=(2 * width, width)) * scale for scale in (1.0, 1.1)]

    def ours():
        found = [frechet.FeatureStatistics() for _ in sets]
        for each, values in zip(found, sets, strict=True):
            each.add(values)
        return np.array(frechet.frechet_distance(*found))

    def theirs():
        a, b = (np.cov(values, rowvar=False) for values in sets)
        apart = sets[0].mean(0) - sets[1].mean(0)
        return np.array(apart @ apart + np.trace(a) + np.trace(b) - 2 * np.trace(sqrtm(a @ b).real))

    return {"cvvae_jax": ours, "scipy sqrtm": theirs}


ROWS: dict[str, Callable[[Videos], Sides]] = {
    "psnr": psnr,
    "ssim": ssim,
    "ms_ssim": ms_ssim,
    "lpips_vgg": functools.partial(_lpips, name="vgg"),
    "lpips_alex": functools.partial(_lpips, name="alex"),
    "difference_mse": difference_mse,
    "drift_mse": drift_mse,
    "error_spectrum": error_spectrum,
    "seam_ratio": seam_ratio,
    "warping_error": warping_error,
    "inception": inception,
    "i3d": i3d,
    "frechet_400": functools.partial(_frechet, width=400),
    "frechet_2048": functools.partial(_frechet, width=2048),
}


def main(options: Benchmark) -> None:
    """Prints lines about the machine, then the table, as it is measured."""
    unknown = set(options.only) - set(ROWS)
    if unknown:
        sys.exit(f"There are no rows {', '.join(sorted(unknown))}.")
    device = jax.devices()[0]
    packages = {name: version(name) for name in ("jax", "numpy", "scipy", "scikit-image")}
    packages |= {name: version(name) for module, name in LIBRARIES.items() if _has(module)}
    print(
        f"{device.device_kind} ({device.platform}), {os.cpu_count()} cores\n"
        f"{', '.join(f'{name} {number}' for name, number in packages.items())}\n"
        f"{options}\n{HEADER}",
        flush=True,
    )
    # float32 in full on GPUs and TPUs, as PyTorch's side.
    jax.config.update("jax_default_matmul_precision", "highest")
    videos = random_videos(options)
    for name, row in ROWS.items():
        if not options.only or name in options.only:
            _measure(name, row(videos), options)


def _measure(row: str, sides: Sides, options: Benchmark) -> None:
    if not sides:
        print(f"{row:34}its library is not installed", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    outputs = {}
    for _ in range(1 + options.repeats):
        for name, run in sides.items():
            start = time.perf_counter()
            outputs[name] = run()
            seconds[name].append(time.perf_counter() - start)
    for name, (first, *others) in seconds.items():
        count = 1 if row.startswith("frechet") else options.clips
        print(
            f"{f'{row} {name}':34}{first:>9.3f}{min(others):>9.4f}"
            f"{statistics.median(others):>10.4f}{count / min(others):>10.2f}"
            f"{_apart(name, outputs):>12}",
            flush=True,
        )


def _apart(name: str, outputs: dict[str, np.ndarray]) -> str:
    if name == "cvvae_jax":
        return ""
    ours = outputs["cvvae_jax"]
    return f"{np.abs(outputs[name] - ours).max() / np.abs(ours).max():.1e}"


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
