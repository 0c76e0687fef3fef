"""One training step, a pure function."""

import jax
import optax
from jaxtyping import Array, Float, Key

from cvvae_jax.config import LossConfig, StageConfig
from cvvae_jax.losses.compatibility import compat_targets
from cvvae_jax.losses.reconstruction import reconstruction_loss
from cvvae_jax.metrics.image import psnr
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.pixels import to_float
from cvvae_jax.training.optimizer import make_optimizer, make_schedule, update_average
from cvvae_jax.training.state import TrainState, random_streams

Metrics = dict[str, Array]


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    frozen: ImageVAE | None,
    *,
    stage: StageConfig,
    loss: LossConfig,
    seed: int,
) -> tuple[TrainState, Metrics]:
    """The state after one batch, and what is logged of it.

    `batch` holds `video`, uint8 (b, t, h, w, 3), and `seed`, uint32 (b,), which keys the posterior
    noise of each record, so that noise depends neither on a record's place in the batch nor on the
    number of devices. `frozen` is the image VAE of the compatibility loss; without one there is
    none.
    """
    _, noise_key, mapping_key = random_streams(seed)
    noise_keys = jax.vmap(lambda record: jax.random.fold_in(noise_key, record))(batch["seed"])
    step_key = jax.random.fold_in(mapping_key, state.step)
    grads, metrics = jax.grad(objective, has_aux=True)(
        state.model, to_float(batch["video"]), frozen, noise_keys, step_key, loss=loss
    )
    updates, opt_state = make_optimizer(stage.optimizer, stage.steps).update(
        grads, state.opt_state, state.model
    )
    model = optax.apply_updates(state.model, updates)
    decay = stage.optimizer.ema_decay
    metrics["norm/grad"] = optax.tree.norm(grads)
    metrics["norm/update"] = optax.tree.norm(updates)
    metrics["learning_rate"] = make_schedule(stage.optimizer, stage.steps)(state.step)
    average = update_average(state.ema, model, state.step, decay=decay)
    return TrainState(state.step + 1, model, average, opt_state), metrics


def objective(
    model: VAE,
    video: Float[Array, "b t h w 3"],
    frozen: ImageVAE | None,
    noise_keys: Key[Array, " b"],
    step_key: Key[Array, ""],
    *,
    loss: LossConfig,
) -> tuple[Float[Array, ""], Metrics]:
    """The loss of a batch and its parts: reconstruction, KL and compatibility."""
    posterior = model.encode(video)
    latents = posterior.sample(noise_keys)
    recon = model.decode(latents)
    parts = {
        "recon": reconstruction_loss(recon, video, kind=loss.recon),
        "kl": posterior.kl().mean(),
    }
    total = parts["recon"] + loss.kl_weight * parts["kl"]
    metrics = {"psnr/recon": psnr(recon, video).mean()}
    if frozen is not None and loss.compat_mode == "decoder":
        targets = compat_targets(
            video,
            mapping=loss.mapping,
            temporal_compression=model.temporal_compression,
            key=step_key,
        )
        recon_2d = frozen.decode(latents[:, : targets.shape[1]])
        parts["compat"] = reconstruction_loss(recon_2d, targets, kind=loss.recon)
        total += loss.compat_weight * parts["compat"]
        metrics["psnr/compat"] = psnr(recon_2d, targets).mean()
    metrics |= {f"loss/{name}": value for name, value in {"total": total, **parts}.items()}
    return total, metrics
