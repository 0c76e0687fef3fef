"""The terms of the training objective as pure functions: reconstruction, LPIPS, compatibility, GAN.

`training.objective` sums them, and `training.step` adds the GAN's. Compatibility is the paper's
latent regularization with a frozen image VAE, E_i and D_i. Decoder-based, || psi(x) - D_i(E_v(x))
||: the image decoder has to show a frame of every group. Encoder-based, || x - D_v(E_i(psi(x))) ||:
the video decoder has to show the video from the image encoder's latents. Two terms are not the
paper's: the distance of E_v(x) from E_i(psi(x)), and that of what the first layers of D_i make of
the two.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int, Key

from cvvae_jax.config import Mapping, Remat
from cvvae_jax.models.feature_networks.alexnet import AlexLPIPS
from cvvae_jax.models.feature_networks.vgg import LPIPS
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.models.remat import run
from cvvae_jax.split_frames import mean_over_devices, sum_over_devices

# Added to the norm of the GAN gradient, and the largest ratio, in the official code.
_EPSILON, _LARGEST_RATIO = 1e-4, 1e4
# The share of the old average that an update of a running average of logits keeps, in the official
# code of LeCAM.
_LECAM_DECAY = 0.999

GanLossKind = Literal["hinge", "vanilla"]


def generator_loss(logits_fake: Float[Array, "..."]) -> Float[Array, ""]:
    """The GAN loss of the VAE, low where the discriminator takes reconstructions for real videos;
    the same for both kinds."""
    return -mean_over_devices(logits_fake.mean())


def real_loss(logits_real: Float[Array, "..."], *, kind: GanLossKind) -> Float[Array, ""]:
    """Half of the discriminator's loss, low where it takes real videos for real."""
    logits = -logits_real
    losses = jax.nn.relu(1 + logits) if kind == "hinge" else jax.nn.softplus(logits)
    return 0.5 * mean_over_devices(losses.mean())


def fake_loss(logits_fake: Float[Array, "..."], *, kind: GanLossKind) -> Float[Array, ""]:
    """The other half of the discriminator's loss, low where it recognizes reconstructions."""
    return real_loss(-logits_fake, kind=kind)


def adaptive_weight(
    nll_gradient: Float[Array, "..."], gan_gradient: Float[Array, "..."]
) -> Float[Array, ""]:
    """The weight of the GAN loss: the norm of the other losses' gradient over that of the GAN
    loss's gradient, both with respect to the kernel of the decoder's last layer; in [0, 1e4].

    From VQGAN (Esser et al. 2021, "Taming Transformers"), as the official code computes it.
    """
    nll, gan = (jnp.sqrt(jnp.square(g).sum()) for g in (nll_gradient, gan_gradient))
    return jnp.clip(nll / (gan + _EPSILON), 0.0, _LARGEST_RATIO)


def r1_penalty(
    logits: Callable[[Array], Float[Array, "b ..."]], video: Float[Array, "b t h w c"]
) -> Float[Array, ""]:
    """The R1 penalty: half the squared norm of the gradient of a real video's mean logit with
    respect to the video, averaged over videos.

    Mescheder et al. 2018, "Which training methods for GANs do actually converge?".
    """

    def summed(video):
        out = logits(video)
        return mean_over_devices(out.reshape(len(out), -1).mean(axis=1)).sum()

    squares = jnp.square(jax.grad(summed)(video)).sum(axis=(1, 2, 3, 4))
    return 0.5 * sum_over_devices(squares).mean()


def lecam_real(logits_real: Float[Array, "..."], average_fake: Float[Array, ""]):
    """LeCAM's penalty for real logits above the running average of fake ones.

    Tseng et al. 2021, "Regularizing generative adversarial networks under limited data".
    """
    return mean_over_devices(jnp.square(jax.nn.relu(logits_real - average_fake)).mean())


def lecam_fake(logits_fake: Float[Array, "..."], average_real: Float[Array, ""]):
    """LeCAM's penalty for fake logits below the running average of real ones."""
    return mean_over_devices(jnp.square(jax.nn.relu(average_real - logits_fake)).mean())


def lecam_average(average: Float[Array, ""], logits_mean: Float[Array, ""]) -> Float[Array, ""]:
    """The running average of logits after an update of the discriminator with this mean."""
    return _LECAM_DECAY * average + (1 - _LECAM_DECAY) * logits_mean


def draw_offsets(
    key: Key[Array, ""], *, groups: int, temporal_compression: int
) -> Int[Array, " groups"]:
    """The frame that the `random` mapping takes of every group, in [0, k); the same for all clips
    of a batch."""
    return jax.random.randint(key, (groups,), 0, temporal_compression)


def compat_targets(
    video: Float[Array, "b t h w c"],
    *,
    mapping: Mapping,
    temporal_compression: int,
    offsets: Int[Array, " groups"],
) -> Float[Array, "b n h w c"]:
    """The paper's psi: one frame for every latent frame (see `frame_groups`) of a video of 1 + (n -
    1) k frames.

    The first latent frame always gets the first frame. Of every group of k frames after it, `slice`
    takes the last frame, `mean` the average of all, and `random` the frame at the group's offset.
    `first` takes the first frame of the video and nothing else, so that n is 1.
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


def latent_distance(
    ours: DiagonalGaussian, theirs: DiagonalGaussian, *, kind: Literal["l1", "l2", "kl"]
) -> Float[Array, "b n"]:
    """The distance of two posteriors, summed over the latents of every latent frame.

    `l1` and `l2` are the absolute and the squared difference of the means, in the unit of the
    latents. `kl` is the KL divergence of ours to theirs in nats, in which the means' difference is
    measured in their standard deviations.
    """
    if kind == "kl":
        each = ours.kl_of_each(theirs)
    else:
        each = ours.mean - theirs.mean
        each = jnp.abs(each) if kind == "l1" else jnp.square(each)
    return sum_over_devices(each.sum(axis=(2, 3, 4)))


def feature_distance(
    ours: Float[Array, "b n h w c"], theirs: Float[Array, "b n h w c"]
) -> Float[Array, "b n"]:
    """The squared distance of two layers' outputs for every latent frame, relative to the square of
    the length of theirs: 0 for equal ones, 1 where ours are zero. In float32."""
    ours, theirs = ours.astype(jnp.float32), theirs.astype(jnp.float32)
    squares = (jnp.square(ours - theirs), jnp.square(theirs))
    distance, length = (sum_over_devices(x.sum(axis=(2, 3, 4))) for x in squares)
    return distance / (length + 1e-10)


def lpips(
    network: LPIPS | AlexLPIPS,
    video: Float[Array, "b t h w 3"],
    other: Float[Array, "b t h w 3"],
    *,
    remat: Remat = "none",
) -> Float[Array, "b t"]:
    """LPIPS of every frame of two videos in [-1, 1]; 0 for equal frames, without an upper limit.

    The features of every layer are normalized to length 1 over channels. Their squared difference
    is weighted by the layer's head, averaged over the frame and summed over layers (Zhang et al.
    2018, "The Unreasonable Effectiveness of Deep Features"). There is no dropout, not even in
    training. Values of VGG16 (`LPIPS`) and of AlexNet (`AlexLPIPS`) can't be compared with each
    other. Unless `remat` is `none`, only the features are kept for a backward pass.
    """
    features = (network.features(x, remat=remat) for x in (video, other))
    levels = zip(network.heads, *features, strict=True)
    return sum(run(_distance, *level, remat=remat) for level in levels)


def _distance(head, a, b):
    return mean_over_devices(head(jnp.square(_normalized(a) - _normalized(b))).mean(axis=(2, 3, 4)))


def _normalized(features: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
    """Features normalized to length 1 over channels, in float32.

    Both epsilons are from the official code; the first keeps the gradient finite where all features
    are zero.
    """
    features = features.astype(jnp.float32)
    squares = jnp.square(features).sum(axis=-1, keepdims=True)
    return features / (jnp.sqrt(squares + 1e-10) + 1e-10)


def pixel_error(
    recon: Float[Array, "b t h w c"], video: Float[Array, "b t h w c"], *, kind: Literal["l1", "l2"]
) -> Float[Array, "b t"]:
    """Absolute (`l1`) or squared (`l2`) error, summed over the pixels and channels of every frame,
    in float32."""
    error = recon.astype(jnp.float32) - video
    error = jnp.abs(error) if kind == "l1" else jnp.square(error)
    return sum_over_devices(error.sum(axis=(2, 3, 4)))


def difference_errors(
    recon: Float[Array, "b t h w c"], video: Float[Array, "b t h w c"], *, temporal_compression: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The absolute errors of the differences between neighboring frames, summed over their pixels
    and channels and averaged over pairs of frames, in float32: of pairs in one group (see
    `frame_groups`), and of pairs at the boundary of two, where one latent frame ends and the next
    begins. Either is 0 where there are no such pairs."""
    pairs = video.shape[1] - 1
    if not pairs:
        return jnp.zeros(()), jnp.zeros(())
    changes = (jnp.diff(frames.astype(jnp.float32), axis=1) for frames in (recon, video))
    error = pixel_error(*changes, kind="l1")
    at_boundary = np.arange(pairs) % temporal_compression == 0
    inside = error[:, ~at_boundary].mean() if not at_boundary.all() else jnp.zeros(())
    return inside, error[:, at_boundary].mean()


def likelihood_loss(
    error: Float[Array, "b t"], log_scale: Float[Array, ""], *, values: int
) -> Float[Array, ""]:
    """The negative log-likelihood with a learned scale: error / exp(log_scale) + log_scale, summed
    over the values of a frame and averaged over frames.

    At the best log-scale this is the logarithm of the mean error plus a constant, so that the loss
    keeps its weight against the other terms as the error gets small. It is `nll_loss` of the
    official `LPIPSWithDiscriminator3D`.

    Args:
        error: the sum over the values of every frame.
        log_scale: learned.
        values: numbers of a frame, height x width x 3.
    """
    return (error * jnp.exp(-log_scale) + log_scale * values).mean()
