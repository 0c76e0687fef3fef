"""Videos of any length and size through a VAE, as arrays; `stream.py` does so frame by frame."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from cvvae_jax.codec import chunks
from cvvae_jax.codec.chunks import Video
from cvvae_jax.codec.plan import CHUNK_FRAMES, OVERLAP, TILE, make_plan
from cvvae_jax.config import ConfigError
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.models.pixels import to_uint8


class Codec:
    """A VAE for videos of any frame count and of any size from one latent (8 x 8 pixels) up.

    Time is cut into chunks of 1 + `chunk_frames` frames that share one frame, height and width into
    tiles that are cross-faded, all as in the official code. A video is padded at its end, bottom
    and right by repeating what is there, and the reconstruction cropped to what was given.
    """

    def __init__(
        self,
        vae: VAE,
        *,
        chunk_frames: int = CHUNK_FRAMES,
        tile: int = TILE,
        overlap: float = OVERLAP,
    ):
        """Set up a codec.

        Args:
            vae: a VideoVAE, or an ImageVAE (which sees every frame alone).
            chunk_frames: frames from a chunk to the next, a multiple of the temporal compression.
            tile: height and width of a tile in pixels, a multiple of the spatial compression.
            overlap: the part of a tile that its neighbor shares, 0 to 0.5.

        Raises:
            ConfigError: a number does not suit the model.
        """
        self.vae = vae
        self.plan = make_plan(
            temporal_compression=vae.temporal_compression,
            spatial_compression=vae.config.spatial_compression,
            chunk_frames=chunk_frames,
            tile=tile,
            overlap=overlap,
        )

    def latents_shape(self, *, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(n, y, x, z) of the latents of a video.

        Raises:
            ConfigError: the video has no frame, or is smaller than one latent.
        """
        space = self.vae.config.spatial_compression
        if frames < 1 or min(height, width) < space:
            raise ConfigError(
                f"a video must have 1 frame and {space} x {space} pixels at least, "
                f"not {frames} of {width} x {height}."
            )
        n = 1 + math.ceil((frames - 1) / self.vae.temporal_compression)
        y, x = math.ceil(height / space), math.ceil(width / space)
        return n, y, x, self.vae.config.latent_channels

    def posterior(self, video: Video) -> DiagonalGaussian:
        """The posterior over the latents of a video, uint8 in [0, 255] or float in [-1, 1].

        Raises:
            ConfigError: the video has no frame, or is smaller than one latent.
        """
        parts = [self.chunk_posterior(part, index=i) for i, part in enumerate(self._chunks(video))]
        return jax.tree.map(lambda *arrays: jnp.concatenate(arrays, axis=1), *parts)

    def encode(
        self, video: Video, *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "b n y x z"]:
        """Unscaled latents of a video, uint8 in [0, 255] or float in [-1, 1].

        Args:
            video: of any frame count and size.
            key: draws a sample of the posterior, chunk by chunk; None takes its mode.

        Raises:
            ConfigError: the video has no frame, or is smaller than one latent.
        """
        pieces = enumerate(self._chunks(video))
        return jnp.concatenate([self.encode_chunk(p, index=i, key=key) for i, p in pieces], axis=1)

    def decode(
        self,
        latents: Float[Array | np.ndarray, "b n y x z"],
        *,
        frames: int,
        height: int,
        width: int,
    ) -> Float[Array, "b t h w 3"]:
        """The video of unscaled latents: float32, about [-1, 1], not clipped.

        Args:
            latents: as `encode` gives them.
            frames: frames of the video that was encoded; likewise `height` and `width`.
            height: in pixels.
            width: in pixels.

        Raises:
            ConfigError: no such video has latents of this shape.
        """
        expected = self.latents_shape(frames=frames, height=height, width=width)
        if latents.shape[1:] != expected:
            raise ConfigError(
                f"latents (n, y, x, z) of {frames} frames of {width} x {height} are {expected}, "
                f"not {latents.shape[1:]}."
            )
        spans = self.plan.latent_chunks.spans(latents.shape[1])
        pieces = [self.decode_chunk(latents[:, span], index=i) for i, span in enumerate(spans)]
        return jnp.concatenate(pieces, axis=1)[:, :frames, :height, :width]

    def reconstruct(self, video: Video, *, key: Key[Array, ""] | None = None) -> Video:
        """A video, encoded and decoded: same shape; uint8 for uint8, else float32 in [-1, 1].

        Args:
            video: of any frame count and size.
            key: draws a sample of the posterior; None takes its mode.

        Raises:
            ConfigError: the video has no frame, or is smaller than one latent.
        """
        _, frames, height, width, _ = video.shape
        latents = self.encode(video, key=key)
        recon = self.decode(latents, frames=frames, height=height, width=width)
        return to_uint8(recon) if video.dtype == np.uint8 else jnp.clip(recon, -1.0, 1.0)

    def chunk_posterior(self, chunk: Video, *, index: int) -> DiagonalGaussian:
        """The posterior over the latents that chunk `index` adds: all but the first, which every
        chunk except chunk 0 shares with the one before."""
        moments = chunks.encode_chunk(self.vae, self._padded(chunk), self.plan)
        return DiagonalGaussian.from_moments(moments[:, index > 0 :])

    def encode_chunk(
        self, chunk: Video, *, index: int, key: Key[Array, ""] | None = None
    ) -> Float[Array, "b n y x z"]:
        """The latents that chunk `index` adds; a sample depends on the key and on the index."""
        posterior = self.chunk_posterior(chunk, index=index)
        return posterior.mode() if key is None else posterior.sample(jax.random.fold_in(key, index))

    def decode_chunk(
        self, latents: Float[Array | np.ndarray, "b n y x z"], *, index: int
    ) -> Float[Array, "b t h w 3"]:
        """The frames that chunk `index` adds, with their padding; `latents` begin with the last of
        the chunk before."""
        return chunks.decode_chunk(self.vae, latents, self.plan)[:, index > 0 :]

    def _chunks(self, video: Video) -> list:
        _, frames, height, width, _ = video.shape
        self.latents_shape(frames=frames, height=height, width=width)
        return [video[:, span] for span in self.plan.frame_chunks.spans(frames)]

    def _padded(self, chunk: Video) -> Array | np.ndarray:
        """The last frame, row and column repeated up to what the strides divide."""
        time, space = self.vae.temporal_compression, self.vae.config.spatial_compression
        _, frames, height, width, _ = chunk.shape
        ends = (-(frames - 1) % time, -height % space, -width % space)
        pad = np.pad if isinstance(chunk, np.ndarray) else jnp.pad
        return pad(chunk, ((0, 0), *((0, end) for end in ends), (0, 0)), mode="edge")
