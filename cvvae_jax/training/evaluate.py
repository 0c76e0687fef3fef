"""Scores of a model and of plain baselines on unseen clips, during a run and at its end."""

import functools
import io
import json
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cvvae_jax import sharding
from cvvae_jax.checkpoint import newest_complete_step
from cvvae_jax.compiling import announced
from cvvae_jax.config import TrainConfig
from cvvae_jax.frame_groups import repeat_to_frames
from cvvae_jax.metrics import color
from cvvae_jax.metrics.baselines import bicubic_in_space, bicubic_in_space_and_time
from cvvae_jax.metrics.image import SSIM_WINDOW, error, psnr, ssim
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.inputs import to_float
from cvvae_jax.resumable.files import read_json, write_whole
from cvvae_jax.training.jobs import Job
from cvvae_jax.training.log import finite_or_none, say
from cvvae_jax.training.pictures import contact_sheet

Scores = dict[str, float]
"""Scores by name, such as `psnr_recon`."""
Views = dict[str, np.ndarray]
"""Videos by name, such as `recon`."""

_CHANNELS = ("red", "green", "blue")
_METRICS = ("psnr", "ssim", "hue", "chroma", *_CHANNELS)
_LEVELS = 127.5  # 8-bit levels in a unit of values in [-1, 1]


def evaluate(
    model: VAE,
    frozen: ImageVAE | None,
    clips: np.ndarray,
    mesh: Mesh,
    say: Callable[[str], None] | None = None,
) -> tuple[Scores, Views]:
    """Measures a model on clips, beside baselines.

    Args:
        model: the model.
        frozen: the image VAE that it is to be compatible with; None where there is none.
        clips: uint8 (n, t, h, w, 3).
        mesh: the devices; every process has all clips.
        say: is told before the program is compiled; default: the log of `compiling`.

    Returns:
        The scores, and views of at most 4 clips. Averaged over clips are `psnr_NAME` in dB and,
        where frames have 11 pixels or more along each side, `ssim_NAME`; `red_NAME`, `green_NAME`
        and `blue_NAME`, the mean errors of the channels in 8-bit levels. Of the ten saturated
        patches of a test chart (`metrics.color.chart`), `hue_NAME` is the largest turn of a hue in
        degrees, and `chroma_NAME` the ratio to the chart's chroma that is farthest from 1. The
        names are
        `recon`: the reconstruction from the posterior's mode;
        `bicubic` and `bicubic_time`: resampling to the latent grid and back, in space, and in space
        and time;
        and with a frozen image VAE also
        `compat`: the image decoder on the video's latents;
        `image_latents`: the video decoder on the image VAE's latents of the first frame and of the
        last frame of every group;
        `image_vae`: the image VAE's reconstruction, frame by frame.
        Views are float32 (n', t', h, w, 3), named `input`, `recon` and `compat`.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    run = jax.jit(_evaluate_batch, out_shardings=replicated)
    model_name = type(model).__name__
    identity = (model.config, frozen and frozen.config, clips.shape[1:], dict(mesh.shape))
    count, chart = len(clips), color.chart(*clips.shape[1:4])
    clips = np.concatenate([clips, chart[None]])
    scores, views = [], []
    for start in range(0, len(clips), mesh.size):
        batch = clips[start : start + mesh.size]
        filled = np.concatenate([batch, np.repeat(batch[-1:], mesh.size - len(batch), axis=0)])
        placed = jax.make_array_from_callback(
            filled.shape, sharding.whole_clips(mesh), functools.partial(_part, filled)
        )
        with announced(f"the evaluation of {model_name}", *identity, once=True, say=say):
            batch_scores, batch_views = run(model, frozen, placed)
        keep = slice(len(batch))
        scores.append({name: np.asarray(x)[keep] for name, x in batch_scores.items()})
        if start < 4:
            views.append({name: np.asarray(x)[keep] for name, x in batch_views.items()})
    join = functools.partial(jax.tree.map, lambda *parts: np.concatenate(parts))
    measured = join(*scores)
    means = {name: float(x[:count].mean()) for name, x in measured.items() if x.ndim == 1}
    patches = {name: x[count] for name, x in measured.items() if x.ndim > 1}
    views = {name: x[: min(count, 4)] for name, x in join(*views).items()}
    return means | _chart_scores(patches), views


def _chart_scores(patches: dict[str, np.ndarray]) -> Scores:
    """The scores of the test chart, from the mean colors of its patches, each (ten, 3)."""
    found = {}
    for name, colors in patches.items():
        rival = name.removeprefix("patches_")
        if rival != "input":
            errors = color.patch_errors(colors, patches["patches_input"])
            found |= {f"hue_{rival}": errors.worst_hue, f"chroma_{rival}": errors.worst_chroma}
    return found


def _part(clips: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
    return clips[index]


def _evaluate_batch(model, frozen, clips):
    """Scores of every clip, each (b,), with the mean colors of what would be the test chart's
    patches, each (b, ten, 3); and views."""
    video = to_float(clips)
    latents = model.encode(video).mode()
    views = {"input": video, "recon": model.decode(latents)}
    rivals = {"recon": views["recon"], **_resampled(video, model)}
    if frozen is not None:
        time = model.temporal_compression
        views["compat"] = frozen.decode(latents)
        rivals["compat"] = repeat_to_frames(views["compat"], temporal_compression=time)
        rivals["image_latents"] = model.decode(frozen.encode(video[:, ::time]).mode())
        rivals["image_vae"] = frozen.decode(frozen.encode(video).mode())
    metrics = {"psnr": psnr}
    if min(video.shape[2:4]) >= SSIM_WINDOW:
        metrics["ssim"] = ssim
    scores = {
        f"{metric}_{name}": measure(rival, video).mean(axis=1)
        for metric, measure in metrics.items()
        for name, rival in rivals.items()
    }
    for name, rival in rivals.items():
        errors = _LEVELS * error(rival, video).mean(axis=(1, 2, 3))
        scores |= {f"{channel}_{name}": errors[:, i] for i, channel in enumerate(_CHANNELS)}
    weights = jnp.asarray(color.patch_weights(*video.shape[2:4]), jnp.float32)
    for name, rival in {"input": video, **rivals}.items():
        means = jnp.clip(rival, -1, 1).mean(axis=1)
        scores[f"patches_{name}"] = jnp.einsum("phw,bhwc->bpc", weights, means)
    return scores, views


def _resampled(video, model):
    """The video, resampled to the latent grid and back, in space, and in space and time."""
    space, time = model.config.spatial_compression, model.temporal_compression
    found = {"bicubic": bicubic_in_space(video, spatial_compression=space)}
    if time > 1 and video.shape[1] > 1:
        found["bicubic_time"] = bicubic_in_space_and_time(
            video, spatial_compression=space, temporal_compression=time
        )
    return found


_LABELS = {
    "recon": "reconstruction",
    "compat": "image decoder on the video's latents (compatibility)",
    "image_latents": "video decoder on the image VAE's latents of one frame in {k}",
    "image_vae": "image VAE, frame by frame",
    "bicubic": "bicubic, down and up in space",
    "bicubic_time": "bicubic, down and up in space and time (the latent grid)",
}

# Title, width and format of the columns of the table of scores.
_COLUMNS = {
    "psnr": ("PSNR, dB", 10, ".2f"),
    "ssim": ("SSIM", 8, ".4f"),
    "hue": ("hue", 7, ".1f"),
    "chroma": ("chroma", 8, ".2f"),
    "red": ("red", 7, "+.1f"),
    "green": ("green", 7, "+.1f"),
    "blue": ("blue", 7, "+.1f"),
}


def report(model: VAE, image_vae: ImageVAE | None, job: Job, config: TrainConfig) -> Scores:
    """Measures a trained model, prints a table, and writes `scores.json` and
    `samples/contact_sheet.png` to the folder of the job."""
    tell = functools.partial(say, job.folder)
    scores, views = evaluate(model, image_vae, job.clips, job.mesh, tell)
    if jax.process_index() == 0:
        samples = job.folder / "samples"
        samples.mkdir(exist_ok=True)
        sheet = contact_sheet(views, temporal_compression=model.temporal_compression)
        png = io.BytesIO()
        sheet.save(png, "png")
        write_whole(samples / "contact_sheet.png", png.getvalue())
        write_whole(job.folder / "scores.json", json.dumps(_record(scores, job, config), indent=2))
    count, frames, height, width, _ = job.clips.shape
    say(job.folder, f"on {count} unseen clips of {frames} frames of {height} x {width}:")
    for line in _table(scores, temporal_compression=model.temporal_compression):
        say(job.folder, line)
    say(job.folder, f"contact sheet: {job.folder / 'samples' / 'contact_sheet.png'}")
    return scores


def finished_scores(job: Job) -> Scores | None:
    """The scores that `report` wrote for a job that is done; None where the last checkpoint or
    scores.json is missing."""
    if newest_complete_step(job.folder / "checkpoints") != job.stage.steps:
        return None
    path = job.folder / "scores.json"
    record = read_json(path) if path.exists() else None
    if record is None:
        return None
    tables = {metric: record.get(metric) for metric in _METRICS}
    return {
        f"{metric}_{rival}": math.nan if value is None else value
        for metric, table in tables.items()
        for rival, value in (table or {}).items()
    }


def _table(scores: Scores, *, temporal_compression: int) -> list[str]:
    shown = [metric for metric in _COLUMNS if f"{metric}_recon" in scores]
    lines = ["".join(f"{_COLUMNS[metric][0]:>{_COLUMNS[metric][1]}}" for metric in shown)]
    for name, label in _LABELS.items():
        if f"psnr_{name}" in scores:
            values = (format(scores[f"{metric}_{name}"], _COLUMNS[metric][2]) for metric in shown)
            cells = (f"{v:>{_COLUMNS[m][1]}}" for v, m in zip(values, shown, strict=True))
            lines.append("".join(cells) + "  " + label.format(k=temporal_compression))
    return lines


def _record(scores: Scores, job: Job, config: TrainConfig) -> dict:
    """The content of scores.json: scores by metric, and what they depend on."""
    by_metric = {metric: {} for metric in _METRICS}
    for name, value in finite_or_none(scores).items():
        metric, _, rival = name.partition("_")
        by_metric[metric][rival] = value
    return {
        **by_metric,
        "clips": list(job.clips.shape),
        "device": job.mesh.devices.flat[0].device_kind,
        "devices": job.mesh.size,
        "jax": jax.__version__,
        "matmul_precision": config.matmul_precision,
    }
