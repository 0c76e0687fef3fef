"""Compatibility of a video VAE with an image VAE: whether each decoder reads the other's latents,
and how far the two encoders' latents are apart.

E_v and D_v are the video VAE's encoder and decoder, E_i and D_i the image VAE's, which see every
frame alone. Latents are the posteriors' modes. A latent frame stands for a group of frames (see
`frame_groups`), whose last one is its key frame.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cvvae_jax.codec.codec import Codec, Mode
from cvvae_jax.codec.values import Latents, Pixels, checked_pixels
from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.compatibility.stretch import stretch
from cvvae_jax.frame_groups import group_means, key_frames, repeat_to_frames
from cvvae_jax.metrics.latents import patches
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.models.image_vae import ImageVAE

ImageMetrics = Callable[[np.ndarray, np.ndarray], dict[str, Array | np.ndarray]]
"""Scores of every frame, {"psnr": (b, t), ..}, of a recon, about [-1, 1] and not clipped, against a
target: both float32 (b, t, h, w, 3)."""

Measured = dict[str, np.ndarray]

PATCH = 2
"""Height and width of a patch of latents: what diffusion transformers take for one token."""
PATCHES = 128
"""Patches of a clip."""
STRETCH_SIZE = 16
"""Height and width in latents, at most, of what the decoder's stretch is measured on: it takes some
hundred passes, and each keeps all activations."""


def check_pair(vae: VAE, image_vae: VAE) -> None:
    """Raise UserError unless one model's latents have the shape of the other's."""
    if not isinstance(image_vae, ImageVAE):
        raise UserError(
            f"compatibility is measured with an image VAE, not with a {type(image_vae).__name__}."
        )
    own, others = (
        (model.config.latent_channels, model.config.spatial_compression)
        for model in (vae, image_vae)
    )
    if own != others:
        raise UserError(
            f"the image VAE's latents have {others[0]} channels for {others[1]} x {others[1]} "
            f"pixels, the model's {own[0]} for {own[1]} x {own[1]}: it is not the image VAE that "
            "the model was trained with."
        )


def measure_compatibility(
    codec: Codec,
    image_codec: Codec,
    video: Pixels,
    *,
    image_metrics: ImageMetrics,
    seeds: Sequence[int],
    posterior: DiagonalGaussian | None = None,
    image_posterior: DiagonalGaussian | None = None,
    recon: np.ndarray | None = None,
) -> Measured:
    """Measures clips for `summarize_compatibility`: float32 arrays with a leading batch axis.

    METRIC stands for every name that `image_metrics` gives. A video has t frames of any size, n
    latent frames, and b clips; what is decoded has the video's size.

    - `matrix/video/CELL/METRIC` (b, t): the clip through an encoder and a decoder by way of n
      latent frames, against every frame. E_i sees the n key frames. D_i shows n images, each of
      them for all frames that its latent frame stands for; Ei-Di, too, is made from key frames
      alone, and so is no ceiling of a video VAE.
    - `matrix/image/CELL/METRIC` (b, n): every key frame as an image of its own, encoded alone and
      decoded alone, against itself.
    - `mapping/PSI/METRIC` (b, n), (b, 1) for `first`: D_i(E_v(clip)), n images, against the one
      frame that the paper's mapping makes of each group's own frames. `random` is the expectation
      over its draws.
    - `mapping_video_decoder/PSI/METRIC`: the same for D_v in image mode, each latent frame alone.
    - `color_shift/CELL` (b, 3): mean of recon - video of `matrix/video` in 8-bit levels; red,
      green, blue.
    - `latents/video/mean`, `latents/video/var` (b, z): each channel of E_v(clip); the same for
      `latents/image`, of E_i on the key frames; `latents/count` (b,): values of a channel.
    - `latents/kl` (b, t): from the posterior of the latent frame that stands for a frame, by E_v,
      to that of the frame itself, by E_i: KL(E_v || E_i) in nats per latent value.
    - `latents/square_distance` (b, t, z): squared difference of the same posteriors' means.
    - `patches/video`, `patches/image` (b, p, d): of E_v(clip) and, at the same places, of E_i on
      the key frames; p is 0 for frames of one row or column of latents.
    - `lipschitz/FIGURE` (b,): of the middle latent frame; see `stretch`.
    - `temporal_compression` (b,).

    Frames that the strides don't divide are padded for both encoders, by repetition: latents of the
    border count as they are, pixels beyond the border and frames after the last never do.

    Args:
        codec: of the model: a video VAE, or another whose latents have the image VAE's shape.
        image_codec: of the image VAE.
        video: clips of one shape.
        image_metrics: scores frames.
        seeds: a number for each clip, such as its number in the data set: draws the patches.
        posterior: E_v's of the video, where it is known already; most of the time goes into models.
        image_posterior: E_i's of every frame, where it is known.
        recon: the video decoded from the mode of E_v's posterior, where it is known.

    Raises:
        UserError: the models don't belong together, or the video is none or too small.
    """
    check_pair(codec.vae, image_codec.vae)
    video = checked_pixels(video)
    pair = _Pair(codec, image_codec, video, image_metrics)
    posterior = posterior or codec.posterior(video)
    of_frames = image_posterior or image_codec.posterior(video)
    latents, own = np.asarray(posterior.mean), np.asarray(of_frames.mean)[:, pair.keys]
    seen = pair.images(latents)
    recon = pair.together(latents) if recon is None else _floats(recon)
    found = _matrices(pair, recon, own, seen=seen)
    found |= _mappings(pair, "mapping", seen, _under(found, "matrix/video/Ev-Di/"))
    alone = pair.alone(latents)
    of_held = pair.scores(pair.held(alone), pair.target)
    found |= _mappings(pair, "mapping_video_decoder", alone, of_held)
    found |= _latent_figures(pair, posterior, of_frames)
    for name, values in (("video", latents), ("image", own)):
        drawn = [
            patches(clip, size=PATCH, count=PATCHES, seed=seed)
            for clip, seed in zip(values, seeds, strict=True)
        ]
        found[f"patches/{name}"] = np.stack(drawn)
    found |= _stretch_figures(pair, latents, own)
    return found | {"temporal_compression": np.full(len(video), pair.time, np.float32)}


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Two models and the clips that they are measured on."""

    codec: Codec
    image_codec: Codec
    video: np.ndarray
    """The clips, uint8 or float32, as they were given."""
    image_metrics: ImageMetrics

    @property
    def time(self) -> int:
        """Frames of a group."""
        return self.codec.vae.temporal_compression

    @property
    def keys(self) -> Int[np.ndarray, " n"]:
        """Numbers of the key frames."""
        return key_frames(self.video.shape[1], temporal_compression=self.time)

    @functools.cached_property
    def target(self) -> Float[np.ndarray, "b t h w 3"]:
        """The video in [-1, 1]."""
        return _floats(self.video)

    def images(self, latents: Float[np.ndarray, "b n y x z"]) -> Float[np.ndarray, "b n h w 3"]:
        """The images that D_i decodes from latents."""
        return self._decoded(self.image_codec, latents, frames=latents.shape[1], mode="video")

    def alone(self, latents: Float[np.ndarray, "b n y x z"]) -> Float[np.ndarray, "b n h w 3"]:
        """The images that D_v decodes from single latent frames."""
        return self._decoded(self.codec, latents, frames=latents.shape[1], mode="image")

    def together(self, latents: Float[np.ndarray, "b n y x z"]) -> Float[np.ndarray, "b t h w 3"]:
        """The videos that D_v decodes from all latent frames together."""
        return self._decoded(self.codec, latents, frames=self.video.shape[1], mode="video")

    def held(
        self, frames: Float[Array | np.ndarray, "b n h w c"]
    ) -> Float[Array | np.ndarray, "b t h w c"]:
        """One image, or latent frame, repeated for every video frame that its latent frame stands
        for."""
        return repeat_to_frames(frames, temporal_compression=self.time)[:, : self.video.shape[1]]

    def scores(self, recon: np.ndarray, target: np.ndarray) -> Measured:
        """Every metric of every frame."""
        found = self.image_metrics(recon, target)
        return {metric: np.asarray(scores, np.float32) for metric, scores in found.items()}

    def _decoded(self, codec: Codec, values: np.ndarray, *, frames: int, mode: Mode) -> np.ndarray:
        _, _, height, width, _ = self.video.shape
        latents = Latents(values, frames, height, width, self.video.dtype.name)
        return _floats(codec.decode(latents, mode=mode))


def _floats(video: np.ndarray) -> np.ndarray:
    return video.astype(np.float32) / 127.5 - 1 if video.dtype == np.uint8 else video


def _matrices(pair: _Pair, recon: np.ndarray, own: np.ndarray, *, seen: np.ndarray) -> Measured:
    """`matrix` and `color_shift`; `recon` and `seen` are what D_v and D_i show of E_v's latents."""
    shown, singles = pair.images(own), _encoded_alone(pair)
    # One after the other: each is as large as the video in float32.
    of_video = {
        "Ei-Di": lambda: pair.held(shown),
        "Ei-Dv": lambda: pair.together(own),
        "Ev-Di": lambda: pair.held(seen),
        "Ev-Dv": lambda: recon,
    }
    of_images = {
        "Ei-Di": lambda: shown,
        "Ei-Dv": lambda: pair.alone(own),
        "Ev-Di": lambda: pair.images(singles),
        "Ev-Dv": lambda: pair.alone(singles),
    }
    found = {}
    for cell, make in of_video.items():
        shown_video = make()
        found |= _named(f"matrix/video/{cell}", pair.scores(shown_video, pair.target))
        shift = (np.clip(shown_video, -1, 1) - pair.target).mean(axis=(1, 2, 3), dtype=np.float64)
        found[f"color_shift/{cell}"] = (127.5 * shift).astype(np.float32)
    for cell, make in of_images.items():
        scores = pair.scores(make(), pair.target[:, pair.keys])
        found |= _named(f"matrix/image/{cell}", scores)
    return found


def _encoded_alone(pair: _Pair) -> Float[np.ndarray, "b n y x z"]:
    """E_v's latents of every key frame as an image of its own."""
    frames = pair.video[:, pair.keys]
    b, n, *size = frames.shape
    latents = np.asarray(pair.codec.posterior(frames.reshape(b * n, 1, *size)).mean)
    return latents.reshape(b, n, *latents.shape[2:])


def _mappings(pair: _Pair, name: str, images: np.ndarray, of_held: Measured) -> Measured:
    """`name`/PSI/METRIC of n images: all but those of `mean` follow from `of_held`, the scores of
    the images against every frame that they stand for."""
    means = group_means(pair.target, temporal_compression=pair.time)
    found = _named(f"{name}/mean", pair.scores(images, means))
    for metric, scores in of_held.items():
        found[f"{name}/first/{metric}"] = scores[:, :1]
        found[f"{name}/slice/{metric}"] = scores[:, pair.keys]
        found[f"{name}/random/{metric}"] = group_means(scores, temporal_compression=pair.time)
    return found


def _named(name: str, scores: Measured) -> Measured:
    return {f"{name}/{metric}": values for metric, values in scores.items()}


def _under(found: Measured, name: str) -> Measured:
    return {key.removeprefix(name): x for key, x in found.items() if key.startswith(name)}


def _latent_figures(
    pair: _Pair, posterior: DiagonalGaussian, of_frames: DiagonalGaussian
) -> Measured:
    """The arrays `latents/..`: divergence and distance of posteriors, and means and variances of
    channels."""
    kl, distance = _apart(jax.tree.map(pair.held, posterior), of_frames)
    found = {"latents/kl": np.asarray(kl), "latents/square_distance": np.asarray(distance)}
    for name, values in (("video", posterior.mean), ("image", of_frames.mean[:, pair.keys])):
        values = np.asarray(values, np.float64)
        found[f"latents/{name}/mean"] = values.mean(axis=(1, 2, 3)).astype(np.float32)
        found[f"latents/{name}/var"] = values.var(axis=(1, 2, 3)).astype(np.float32)
    b, n, y, x, _ = posterior.mean.shape
    return found | {"latents/count": np.full(b, n * y * x, np.float32)}


@jax.jit
def _apart(a: DiagonalGaussian, b: DiagonalGaussian) -> tuple[Array, Array]:
    """KL divergence of every frame, (b, t), and squared distance of means, (b, t, z)."""
    return a.kl_of_each(b).mean(axis=(2, 3, 4)), jnp.square(a.mean - b.mean).mean(axis=(2, 3))


def _stretch_figures(pair: _Pair, latents: np.ndarray, own: np.ndarray) -> Measured:
    """`lipschitz`, of a square in the middle of the middle latent frame."""
    space = pair.codec.vae.config.spatial_compression
    frame = latents.shape[1] // 2
    # Only latents all of whose pixels are there.
    whole = [pixels // space for pixels in pair.video.shape[2:4]]
    sizes = [min(STRETCH_SIZE, length) for length in whole]
    starts = [(length - size) // 2 for length, size in zip(whole, sizes, strict=True)]
    rows, columns = (slice(i, i + size) for i, size in zip(starts, sizes, strict=True))
    pixels = [slice(cut.start * space, cut.stop * space) for cut in (rows, columns)]
    target = pair.target[:, pair.keys[frame], *pixels]
    figures = [
        stretch(pair.image_codec.vae, a, b, x)
        for a, b, x in zip(
            own[:, frame, rows, columns], latents[:, frame, rows, columns], target, strict=True
        )
    ]
    return {
        f"lipschitz/{name}": np.asarray([clip[name] for clip in figures], np.float32)
        for name in figures[0]
    }
