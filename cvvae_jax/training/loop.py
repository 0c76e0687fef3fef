"""A whole run: an image VAE, loaded or trained, then a video VAE compatible with it."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cvvae_jax import paths, sharding
from cvvae_jax.checkpoint import Checkpoints
from cvvae_jax.config import ConfigError, StageConfig, TrainConfig, to_json
from cvvae_jax.data.pipeline import batches, eval_clips
from cvvae_jax.load import load
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.inflation import inflate
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.training.evaluate import evaluate
from cvvae_jax.training.log import StageLog, say
from cvvae_jax.training.optimizer import make_optimizer
from cvvae_jax.training.pictures import before_after, contact_sheet
from cvvae_jax.training.state import TrainState
from cvvae_jax.training.step import train_step


def train(config: TrainConfig) -> dict[str, float]:
    """Runs a recipe to its end, from the newest checkpoint of its run folder where there is one.

    Returns the scores on unseen clips (see `evaluate`); they, a contact sheet and all else are in the run
    folder.

    Raises:
        ConfigError: the configuration can't be run, or the run folder belongs to another model.
    """
    jax.config.update("jax_default_matmul_precision", config.matmul_precision)
    folder = Path(config.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(to_json(config))
    image_vae = _image_vae(config, folder)
    _check_compatible(config, image_vae)
    clips = eval_clips(config.train, config.data, seed=config.seed)
    mesh = _mesh(config, config.train)
    say(folder, f"video VAE: {paths.count(image_vae) / 1e6:.2f} M parameters are frozen in the image VAE")

    def create(key: jax.Array, frozen: ImageVAE) -> VideoVAE:
        if config.init == "inflate":
            return inflate(frozen, config.model, rngs=nnx.Rngs(key))
        return VideoVAE(config.model, rngs=nnx.Rngs(key))

    model = fit(config, config.train, create, image_vae, clips, mesh, folder=folder, title="video VAE")
    return _report(model, image_vae, clips, mesh, folder)


def _image_vae(config: TrainConfig, folder: Path) -> ImageVAE:
    """The image VAE to be compatible with: loaded, or trained in a run folder of its own."""
    if config.image_vae is not None:
        image_vae = load(config.image_vae)
        if not isinstance(image_vae, ImageVAE):
            raise ConfigError(f"--image-vae {config.image_vae} holds a video VAE; an image VAE is wanted.")
        return image_vae
    folder = folder / "image_vae"
    folder.mkdir(exist_ok=True)
    clips = eval_clips(config.image_train, config.data, seed=config.seed)
    create = lambda key, _: ImageVAE(config.image_model, rngs=nnx.Rngs(key))  # noqa: E731
    mesh = _mesh(config, config.image_train)
    return fit(config, config.image_train, create, None, clips, mesh, folder=folder, title="image VAE")


def _check_compatible(config: TrainConfig, image_vae: ImageVAE) -> None:
    ours, theirs = config.model, image_vae.config
    for name in ("latent_channels", "spatial_compression"):
        if getattr(ours, name) != getattr(theirs, name):
            raise ConfigError(
                f"the video VAE's {name} is {getattr(ours, name)}, the image VAE's {getattr(theirs, name)}; "
                "compatible latents need the same."
            )


def _mesh(config: TrainConfig, stage: StageConfig) -> Mesh:
    return sharding.make_mesh(config.mesh, batches=tuple(bucket.batch for bucket in stage.buckets))


def fit(
    config: TrainConfig,
    stage: StageConfig,
    create: Callable[[jax.Array, ImageVAE | None], VAE],
    frozen: ImageVAE | None,
    clips: np.ndarray,
    mesh: Mesh,
    *,
    folder: Path,
    title: str,
) -> VAE:
    """Trains one stage in its folder and returns the averaged model.

    `create` makes the untrained model from a key and the frozen image VAE; `clips` are the unseen ones.
    """
    optimizer = make_optimizer(stage.optimizer, stage.steps)
    key = jax.random.key(config.seed)
    initialize = lambda key, frozen: TrainState.create(create(key, frozen), optimizer)  # noqa: E731
    target = jax.eval_shape(initialize, key, frozen)
    layout = sharding.shardings(target, mesh)
    frozen = jax.device_put(frozen, sharding.shardings(frozen, mesh))
    checkpoints = Checkpoints(folder / "checkpoints", keep=stage.keep_checkpoints)
    start = checkpoints.latest_step() or 0
    if start:
        state = checkpoints.restore(start, target, layout)
    else:
        state = jax.jit(initialize, out_shardings=layout)(key, frozen)
    say(folder, f"{title}: {paths.count(target.model) / 1e6:.2f} M parameters, step {start} of {stage.steps}, "
        f"on {sharding.describe(mesh)}")  # fmt: skip
    step = _compiled_step(config, stage, layout, frozen, mesh)
    log = StageLog(folder, title=title, steps=stage.steps, start_step=start)
    stream = batches(
        stage,
        config.data,
        seed=config.seed,
        start_step=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    try:
        pending = None
        for n in range(start + 1, stage.steps + 1):
            state, metrics = step(state, sharding.put_batch(next(stream), mesh), frozen)
            _log_pending(log, stage, pending)
            pending = (n, metrics)
            last = n == stage.steps
            if last or n % stage.eval_every == 0:
                scores, views = evaluate(state.ema, frozen, clips, mesh)
                log.scalars(n, {f"eval/psnr_{name}": value for name, value in scores.items()})
                log.clip(n, "input above reconstruction", before_after(views))
            if last or n % stage.checkpoint_every == 0:
                checkpoints.save(n, state=state, weights=state.ema, config=dataclasses.asdict(config))
        _log_pending(log, stage, pending)
    finally:
        log.close()
        checkpoints.close()
    return state.ema


def _compiled_step(config: TrainConfig, stage: StageConfig, layout, frozen, mesh: Mesh) -> Callable:
    """The step as one compiled program a bucket, its state donated."""
    return jax.jit(
        functools.partial(train_step, stage=stage, loss=config.loss, seed=config.seed),
        in_shardings=(layout, sharding.batch_sharding(mesh), sharding.shardings(frozen, mesh)),
        out_shardings=(layout, NamedSharding(mesh, PartitionSpec())),
        donate_argnums=0,
    )


def _log_pending(log: StageLog, stage: StageConfig, pending: tuple[int, dict] | None) -> None:
    """Logs the step before the one just dispatched, so that fetching its numbers doesn't stop the device."""
    if pending is None:
        return
    step, metrics = pending
    if step % stage.log_every == 0 or step == stage.steps:
        values = {name: float(value) for name, value in metrics.items()}
        log.scalars(step, values)
        log.progress(step, values)


def _report(model: VideoVAE, image_vae: ImageVAE, clips: np.ndarray, mesh: Mesh, folder: Path) -> dict:
    """The scores of the finished run, as a table, a file and a contact sheet."""
    scores, views = evaluate(model, image_vae, clips, mesh)
    (folder / "samples").mkdir(exist_ok=True)
    sheet = contact_sheet(views, temporal_compression=model.temporal_compression)
    sheet.save(folder / "samples" / "contact_sheet.png")
    (folder / "scores.json").write_text(json.dumps(scores, indent=2))
    names = {
        "recon": "reconstruction",
        "compat": "image decoder on the video's latents (compatibility)",
        "image_vae": "image VAE, frame by frame",
        "bicubic": "bicubic, down and up in space",
        "bicubic_time": "bicubic, down and up in space and time (the latent grid)",
    }
    say(folder, f"PSNR on {len(clips)} unseen clips of {clips.shape[1]} x {clips.shape[2]} x {clips.shape[3]}:")
    for name, label in names.items():
        say(folder, f"  {scores[name]:6.2f} dB  {label}")
    say(folder, f"run folder: {folder}; contact sheet: {folder / 'samples' / 'contact_sheet.png'}")
    return scores
