"""Videos of any length and size through a VAE, as arrays; `stream.py` does so frame by frame."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from cvvae_jax.codec.choose import CodecOptions, Tile, VideoSize, choose
from cvvae_jax.codec.chunks import run_chunks
from cvvae_jax.codec.plan import CHUNK_FRAMES, OVERLAP, Cut, CutPlan
from cvvae_jax.codec.programs import CodecPrograms, Direction, Pieces
from cvvae_jax.codec.values import (
    Latents,
    PixelType,
    checked_latents,
    checked_pixels,
    latents_from_moments,
)
from cvvae_jax.errors import UserError
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.models.inputs import KeyLike, LatentsLike, VideoLike, latents_array, one_key

Mode = Literal["video", "image"]
"""All latent frames together, or each one alone, as an image."""


class Codec:
    """A VAE for videos of any frame count and of any size from one latent (8 x 8 pixels) up.

    Time is cut into chunks of 1 + `chunk_frames` frames that share one frame, and frames that don't
    fit into memory into tiles that are cross-faded, all as in the official code. A video is padded
    at its end, bottom and right by repeating what is there, and what comes back is cropped to what
    was given. Chunks and tiles of a shape are spread over all devices; what comes out doesn't
    depend on how many there are. Arrays come back in the host's memory, since a video may be larger
    than a device's.

    Where devices are those of several processes, all of them must make the same calls.
    """

    def __init__(
        self,
        vae: VAE,
        *,
        chunk_frames: int = CHUNK_FRAMES,
        tile: Tile = "auto",
        overlap: float = OVERLAP,
        batch: int | None = None,
        split_rows: int | None = None,
        devices: list | None = None,
        memory: int | None = None,
    ):
        """Set up a codec; programs are compiled at their first use.

        Args:
            vae: a VideoVAE, or an ImageVAE (which sees every frame alone).
            chunk_frames: frames from a chunk to the next, a multiple of the temporal compression.
            tile: height and width in pixels of the tiles that larger frames are cut into, a
                multiple of the spatial compression, 576 in the official code; `whole`: frames are
                never cut; `auto`: they are where they wouldn't fit into a device's memory, even if
                devices share their rows.
            overlap: the part of a tile that its neighbor shares, 0 to 0.5.
            batch: chunks or tiles that a device takes at once; default: as many as keep it busy.
            split_rows: devices that share the rows of a chunk, for frames that one device has no
                room for; default: 1, or what `tile` asks for.
            devices: those to use; default: all.
            memory: bytes of each that may be used; default: what is free.

        Raises:
            UserError: a number does not suit the model or the devices.
        """
        self.vae = vae
        self._devices = list(devices or jax.devices())
        self._options = CodecOptions(chunk_frames, tile, overlap, batch, split_rows, memory)
        self._options.check(vae, devices=len(self._devices))
        self._programs = CodecPrograms(vae, self._devices)
        self._plans: dict[tuple[Direction, VideoSize], CutPlan] = {}

    @property
    def chunks(self) -> Cut:
        """How time is cut, in frames."""
        return self._options.cuts(self.vae, None).frame_chunks

    def plan(
        self,
        direction: Direction,
        *,
        frames: int | None,
        height: int,
        width: int,
        pixels: PixelType = "uint8",
    ) -> CutPlan:
        """How videos of a size are encoded or decoded.

        Where memory has to decide, programs are compiled to see what they need.

        Args:
            direction: which of the two.
            frames: of the video; None: not known.
            height: in pixels.
            width: in pixels.
            pixels: what is encoded, or wanted of what is decoded.

        Raises:
            UserError: the video has no frame or is smaller than one latent, or no plan fits into
                memory.
        """
        _require_one_of("direction", direction, Direction)
        _require_one_of("pixels", pixels, PixelType)
        longest = self.chunks.size
        n, y, x, _ = self.latents_shape(
            frames=longest if frames is None else min(frames, longest),
            height=height,
            width=width,
        )
        space, time = self.vae.config.spatial_compression, self.vae.temporal_compression
        video = VideoSize(1 + (n - 1) * time, y * space, x * space, pixels)
        if (direction, video) not in self._plans:
            self._plans[direction, video] = choose(
                self.vae,
                self._programs,
                direction,
                video,
                devices=self._devices,
                options=self._options,
            )
        return self._plans[direction, video]

    def latents_shape(self, *, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(n, y, x, z) of the latents of a video.

        Raises:
            UserError: the video has no frame, or is smaller than one latent.
        """
        space = self.vae.config.spatial_compression
        if frames < 1 or min(height, width) < space:
            raise UserError(
                f"a video must have 1 frame and {space} x {space} pixels at least, "
                f"not {frames} of {width} x {height}."
            )
        n = 1 + math.ceil((frames - 1) / self.vae.temporal_compression)
        y, x = math.ceil(height / space), math.ceil(width / space)
        return n, y, x, self.vae.config.latent_channels

    def posterior(self, video: VideoLike) -> DiagonalGaussian:
        """The posterior over the latents of a video; its numbers are what the model gave, NaN too.

        Args:
            video: as of `encode`.

        Raises:
            UserError: it is no video or smaller than one latent, or its values are no pixels'.
        """
        moments = np.concatenate(list(self._moments_of(checked_pixels(video))), axis=1)
        return DiagonalGaussian.from_moments(jnp.asarray(moments))

    def encode(self, video: VideoLike, *, key: KeyLike | None = None) -> Latents:
        """Unscaled latents of a video.

        Args:
            video: (b, t, h, w, 3) of any frame count and size, uint8 in [0, 255] or floats in
                [-1, 1]; or a list of frames or a Pillow image: see `VideoLike`. Floats may go as
                far beyond as decoding and resizing do, up to 2; those that seem to be in [0, 1]
                are warned of.
            key: draws a sample of the posterior: each latent frame of each video has noise of its
                own, whatever the chunks; None takes its mode.

        Raises:
            UserError: it is no video or smaller than one latent; it holds NaN, infinity or
                floats beyond 2; or the model gives latents with NaN or infinity.
        """
        video, key = checked_pixels(video), one_key(key)
        parts, start = [], 0
        for moments in self._moments_of(video):
            parts.append(latents_from_moments(moments, key, start=start))
            start += moments.shape[1]
        _, frames, height, width, _ = video.shape
        values = np.concatenate(parts, axis=1)
        return Latents(values, frames, height, width, video.dtype.name)

    def decode(
        self, latents: Latents | LatentsLike, *, mode: Mode = "video"
    ) -> UInt8[np.ndarray, "b t h w 3"] | Float[np.ndarray, "b t h w 3"]:
        """The video of latents: of its frame count and size, uint8 if it was, else float32, about
        [-1, 1], not clipped.

        Args:
            latents: as `encode` gives them; an array (b, n, y, x, z), or what else is a
                `LatentsLike`, holds unscaled ones, all of whose frames and pixels are wanted.
            mode: `image` decodes each latent frame alone, to one frame.

        Raises:
            UserError: no such video has latents of this shape, they hold NaN or infinity, or the
                mode is none.
        """
        cut = self.latent_chunks(mode)
        latents = latents if isinstance(latents, Latents) else self._as_latents(latents)
        latents = self.unscale(latents)
        self._check(latents, mode)
        values = latents.values
        frames = latents.frames if mode == "video" else values.shape[1]
        plan = self.plan(
            "decode",
            frames=latents.frames if mode == "video" else 1,
            height=latents.height,
            width=latents.width,
            pixels=latents.pixels,
        )
        pieces = (values[:, span] for span in cut.spans(values.shape[1]))
        parts = self.videos(pieces, plan, overlap=cut.overlap)
        video = np.concatenate(list(parts), axis=1)
        return video[:, :frames, : latents.height, : latents.width]

    def reconstruct(
        self, video: VideoLike, *, key: KeyLike | None = None
    ) -> UInt8[np.ndarray, "b t h w 3"] | Float[np.ndarray, "b t h w 3"]:
        """A video, encoded and decoded: same shape; uint8 for uint8, else float32 in [-1, 1].

        Args:
            video: as of `encode`.
            key: draws a sample of the posterior; None takes its mode.

        Raises:
            UserError: as of `encode`.
        """
        recon = self.decode(self.encode(video, key=key))
        return recon if recon.dtype == np.uint8 else np.clip(recon, -1.0, 1.0)

    def scale(self, latents: Latents | LatentsLike) -> Latents:
        """Latents as the image VAE's diffusion models see them.

        Args:
            latents: as `encode` gives them; `VAE.scale` takes arrays.

        Raises:
            UserError: they are no `Latents` of this model, or hold NaN or infinity.
        """
        latents = checked_latents(latents, channels=self.vae.config.latent_channels)
        if latents.scaled:
            return latents
        values = np.asarray(self.vae.scale(latents.values))
        return dataclasses.replace(latents, values=values, scaled=True)

    def unscale(self, latents: Latents | LatentsLike) -> Latents:
        """The inverse of `scale`; raises what `scale` does."""
        latents = checked_latents(latents, channels=self.vae.config.latent_channels)
        if not latents.scaled:
            return latents
        values = np.asarray(self.vae.unscale(latents.values))
        return dataclasses.replace(latents, values=values, scaled=False)

    def latent_chunks(self, mode: Mode) -> Cut:
        """How the time of latents is cut, in latent frames.

        Raises:
            UserError: the mode is none.
        """
        _require_one_of("mode", mode, Mode)
        return self._options.cuts(self.vae, None).latent_chunks if mode == "video" else Cut(1, 1)

    def moments(
        self, chunks: Iterable[Pieces], plan: CutPlan
    ) -> Iterator[Float[np.ndarray, "b n y x zz"]]:
        """The moments that each chunk of a video adds, in order: means, then log-variances.

        The devices work on the chunks after it meanwhile: as many are read ahead.

        Args:
            chunks: (b, t, h, w, 3), by `self.chunks`, with the frame that each shares with the one
                before.
            plan: as `self.plan` gives it.
        """
        padded = (self._padded(chunk) for chunk in chunks)
        overlap = self.chunks.overlap
        for i, moments in enumerate(run_chunks(self._programs, "encode", padded, plan)):
            yield moments[:, overlap if i else 0 :]

    def videos(
        self, chunks: Iterable[Float[np.ndarray, "b n y x z"]], plan: CutPlan, *, overlap: int
    ) -> Iterator[UInt8[np.ndarray, "b t h w 3"] | Float[np.ndarray, "b t h w 3"]]:
        """The frames that each chunk of latents adds, in order, with their padding.

        The devices work on the chunks after it meanwhile: as many are read ahead.

        Args:
            chunks: unscaled, by `self.latent_chunks`.
            plan: as `self.plan` gives it.
            overlap: latent frames that a chunk shares with the one before.
        """
        for i, video in enumerate(run_chunks(self._programs, "decode", chunks, plan)):
            # Every latent frame that is shared was the first of its chunk, of one frame.
            yield video[:, overlap if i else 0 :]

    def _moments_of(self, video: np.ndarray) -> Iterator[np.ndarray]:
        _, frames, height, width, _ = video.shape
        plan = self.plan(
            "encode", frames=frames, height=height, width=width, pixels=video.dtype.name
        )
        return self.moments((video[:, span] for span in self.chunks.spans(frames)), plan)

    def _as_latents(self, given: LatentsLike) -> Latents:
        values = latents_array(given, channels=self.vae.config.latent_channels)
        space, (_, n, y, x, _) = self.vae.config.spatial_compression, values.shape
        return Latents(values, 1 + (n - 1) * self.vae.temporal_compression, y * space, x * space)

    def _check(self, latents: Latents, mode: Mode) -> None:
        """Raise UserError unless this model can have such latents; images may be of any video."""
        frames, height, width = latents.frames, latents.height, latents.width
        n, *shape = self.latents_shape(frames=frames, height=height, width=width)
        wanted = (n if mode == "video" else latents.values.shape[1], *shape)
        if latents.values.shape[1:] != wanted:
            raise UserError(
                f"latents (n, y, x, z) of {frames} frames of {width} x {height} are {wanted}, "
                f"not {latents.values.shape[1:]}."
            )

    def _padded(self, chunk: np.ndarray) -> np.ndarray:
        """The last frame, row and column repeated up to what the strides divide."""
        time, space = self.vae.temporal_compression, self.vae.config.spatial_compression
        _, frames, height, width, _ = chunk.shape
        ends = (-(frames - 1) % time, -height % space, -width % space)
        if not any(ends):
            return chunk
        return np.pad(chunk, ((0, 0), *((0, end) for end in ends), (0, 0)), mode="edge")


def _require_one_of(name: str, value: Any, words: Any) -> None:
    """Raise UserError unless a value is one of a Literal's."""
    if value not in get_args(words):
        raise UserError(f"{name} must be {' or '.join(get_args(words))}, not {value!r}.")
