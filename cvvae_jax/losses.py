"""The terms of the objective as pure functions: reconstruction, LPIPS, compatibility, GAN.

This is the paper's latent regularization. Decoder-based: || psi(x) - D_i(E_v(x)) ||, the image
decoder shows the frames. Encoder-based: || x - D_v(E_i(psi(x))) ||, the video decoder shows the
video from image latents.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, Key

from cvvae_jax.config import Mapping, Remat
from cvvae_jax.models.feature_networks.alexnet import AlexLPIPS
from cvvae_jax.models.feature_networks.vgg import LPIPS
from cvvae_jax.models.remat import run
from cvvae_jax.split_frames import mean_over_devices, sum_over_devices

# Added to the GAN gradient's norm, and the largest ratio: the official code's.
_EPSILON, _LARGEST_RATIO = 1e-4, 1e4
# How much of its past a running average of logits keeps per update: LeCAM's official code's.
_LECAM_DECAY = 0.999

Kind = Literal["hinge", "vanilla"]


def generator_loss(logits_fake: Float[Array, "..."]) -> Float[Array, ""]:
    """Low where the discriminator takes reconstructions for real; the same for both kinds."""
    return -mean_over_devices(logits_fake.mean())


def real_loss(logits_real: Float[Array, "..."], *, kind: Kind) -> Float[Array, ""]:
    """Low where the discriminator takes real videos for real: half of its loss."""
    logits = -logits_real
    losses = jax.nn.relu(1 + logits) if kind == "hinge" else jax.nn.softplus(logits)
    return 0.5 * mean_over_devices(losses.mean())


def fake_loss(logits_fake: Float[Array, "..."], *, kind: Kind) -> Float[Array, ""]:
    """Low where the discriminator sees through reconstructions: the other half."""
    return real_loss(-logits_fake, kind=kind)


def adaptive_weight(
    nll_gradient: Float[Array, "..."], gan_gradient: Float[Array, "..."]
) -> Float[Array, ""]:
    """How many times longer the gradient of the other losses is than the GAN loss's, both at the
    kernel of the decoder's last layer; in [0, 1e4].

    VQGAN's weight (Esser et al. 2021, "Taming Transformers"), as the official code computes it.
    """
    nll, gan = (jnp.sqrt(jnp.square(g).sum()) for g in (nll_gradient, gan_gradient))
    return jnp.clip(nll / (gan + _EPSILON), 0.0, _LARGEST_RATIO)


def r1_penalty(
    logits: Callable[[Array], Float[Array, "b ..."]], video: Float[Array, "b t h w c"]
) -> Float[Array, ""]:
    """Half the squared length of the gradient of a real video's mean logit with respect to the
    video, averaged over videos.

    Mescheder et al. 2018, "Which training methods for GANs do actually converge?".
    """

    def summed(video):
        out = logits(video)
        return mean_over_devices(out.reshape(len(out), -1).mean(axis=1)).sum()

    squares = jnp.square(jax.grad(summed)(video)).sum(axis=(1, 2, 3, 4))
    return 0.5 * sum_over_devices(squares).mean()


def lecam_real(logits_real: Float[Array, "..."], average_fake: Float[Array, ""]):
    """LeCAM's pull of real logits down to the running average of fake ones.

    Tseng et al. 2021, "Regularizing generative adversarial networks under limited data".
    """
    return mean_over_devices(jnp.square(jax.nn.relu(logits_real - average_fake)).mean())


def lecam_fake(logits_fake: Float[Array, "..."], average_real: Float[Array, ""]):
    """LeCAM's pull of fake logits up to the running average of real ones."""
    return mean_over_devices(jnp.square(jax.nn.relu(average_real - logits_fake)).mean())


def lecam_average(average: Float[Array, ""], logits_mean: Float[Array, ""]) -> Float[Array, ""]:
    """A running average of logits after one more update of the discriminator."""
    return _LECAM_DECAY * average + (1 - _LECAM_DECAY) * logits_mean


def draw_offsets(
    key: Key[Array, ""], *, groups: int, temporal_compression: int
) -> Int[Array, " groups"]:
    """Which frame the `random` mapping takes of every group: one draw, shared by the batch."""
    return jax.random.randint(key, (groups,), 0, temporal_compression)


def compat_targets(
    video: Float[Array, "b t h w c"],
    *,
    mapping: Mapping,
    temporal_compression: int,
    offsets: Int[Array, " groups"],
) -> Float[Array, "b n h w c"]:
    """The paper's psi: one frame for every latent frame of a video of 1 + kn frames.

    The first latent frame stands for the first frame. For every group of k frames after it: `slice`
    takes its last frame, `mean` its average, `random` the one at its entry of `offsets`, in [0, k).
    `first` is the first frame alone: compared with the first latent frame only.
    """
    first, rest = video[:, :1], video[:, 1:]
    if mapping == "first" or video.shape[1] == 1:
        return first
    groups = rearrange(rest, "b (n k) h w c -> b n k h w c", k=temporal_compression)
    match mapping:
        case "slice":
            chosen = groups[:, :, -1]
        case "mean":
            chosen = groups.mean(axis=2)
        case "random":
            chosen = jnp.take_along_axis(groups, offsets.reshape(1, -1, 1, 1, 1, 1), axis=2)[
                :, :, 0
            ]
    return jnp.concatenate([first, chosen], axis=1)


def lpips(
    network: LPIPS | AlexLPIPS,
    video: Float[Array, "b t h w 3"],
    other: Float[Array, "b t h w 3"],
    *,
    remat: Remat = "none",
) -> Float[Array, "b t"]:
    """LPIPS of every frame of two videos in [-1, 1]; 0 for equal ones, without an upper limit.

    Features of every layer are brought to length 1 over channels; their squared difference is
    weighted by the layer's head, averaged over the frame and summed over layers (Zhang et al. 2018,
    "The Unreasonable Effectiveness of Deep Features"). No dropout, in training neither. Values of
    VGG16 (`LPIPS`) and of AlexNet (`AlexLPIPS`) can't be compared with each other.
    Unless `remat` is `none`, only the features are kept for a backward pass.
    """
    features = (network.features(x, remat=remat) for x in (video, other))
    levels = zip(network.heads, *features, strict=True)
    return sum(run(_distance, *level, remat=remat) for level in levels)


def _distance(head, a, b):
    return mean_over_devices(head(jnp.square(_normalized(a) - _normalized(b))).mean(axis=(2, 3, 4)))


def _normalized(features: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
    """Length 1 over channels, in float32.

    Both epsilons are the official code's; the first keeps the gradient finite where all features
    are zero.
    """
    features = features.astype(jnp.float32)
    squares = jnp.square(features).sum(axis=-1, keepdims=True)
    return features / (jnp.sqrt(squares + 1e-10) + 1e-10)


def pixel_error(
    recon: Float[Array, "b t h w c"], video: Float[Array, "b t h w c"], *, kind: Literal["l1", "l2"]
) -> Float[Array, "b t"]:
    """Absolute or squared error, summed over a frame's pixels and channels, in float32."""
    error = recon.astype(jnp.float32) - video
    error = jnp.abs(error) if kind == "l1" else jnp.square(error)
    return sum_over_devices(error.sum(axis=(2, 3, 4)))


def likelihood_loss(
    error: Float[Array, "b t"], log_scale: Float[Array, ""], *, values: int
) -> Float[Array, ""]:
    """error / exp(log_scale) + log_scale, summed over the `values` of a frame, averaged over
    frames.

    `error` is a frame's sum. With the best log-scale this is the logarithm of the mean error, so
    the scale weighs the term against all others as it gets small (`nll_loss` of the official
    `LPIPSWithDiscriminator3D`).
    """
    return (error * jnp.exp(-log_scale) + log_scale * values).mean()
