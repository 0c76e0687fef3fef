"""Encodes and decodes videos of any length and size as arrays; `stream` does so frame by frame."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from cvvae_jax.codec.choose import CodecOptions, Tile, VideoSize, choose
from cvvae_jax.codec.chunks import pad_to_strides, run_chunks
from cvvae_jax.codec.plan import CHUNK_FRAMES, OVERLAP, Cut, CutPlan
from cvvae_jax.codec.programs import CodecPrograms, Direction, Pieces
from cvvae_jax.codec.values import (
    Latents,
    PixelType,
    checked_latents,
    checked_pixels,
    latents_from_moments,
    require_one_of,
)
from cvvae_jax.errors import UserError
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.models.inputs import KeyLike, LatentsLike, VideoLike, latents_array, one_key

Mode = Literal["video", "image"]
"""Whether latent frames are decoded together, or each one alone, as an image."""


class Codec:
    """A VAE for videos of any frame count and of any size from one latent (8 x 8 pixels) up.

    Time is cut into chunks of 1 + `chunk_frames` frames; neighboring chunks share one frame. Frames
    that don't fit into memory are cut into tiles, which are cross-faded. Both are as in the
    official code. Where the model's strides don't divide a video, its last frame, row and column
    are repeated, and the padding is cropped again after decoding.

    Chunks and tiles of equal shape are spread over all devices; the result does not depend on their
    number. Results are NumPy arrays in the host's memory, since a video may be larger than the
    memory of a device. If the devices belong to several processes, all processes must make the same
    calls.
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
        """Set up a codec. Nothing is compiled before its first use.

        Args:
            vae: a VideoVAE, or an ImageVAE, which encodes every frame alone.
            chunk_frames: frames from the start of a chunk to the start of the next, a multiple of
                the model's temporal compression.
            tile: height and width in pixels of the tiles that larger frames are cut into, a
                multiple of the model's spatial compression (576 in the official code); `whole`
                never cuts frames; `auto` cuts frames that don't fit into the memory of a device,
                or of a few devices that share their rows.
            overlap: fraction of a tile that its neighbor repeats, 0 to 0.5.
            batch: chunks or tiles that a device takes at once; default: as many as keep it busy.
            split_rows: number of devices that share the rows of a chunk, for frames that are too
                large for one device. It must divide the number of devices. Default: 1, or, with
                `tile="auto"` or `"whole"`, as many as the frames need.
            devices: devices to use; default: all.
            memory: bytes that may be used on each device; default: what is free.

        Raises:
            UserError: an argument does not suit the model or the devices.
        """
        self.vae = vae
        self._devices = list(devices or jax.devices())
        self._options = CodecOptions(chunk_frames, tile, overlap, batch, split_rows, memory)
        self._options.check(vae, devices=len(self._devices))
        self._programs = CodecPrograms(vae, self._devices)
        self._plans: dict[tuple[Direction, VideoSize], CutPlan] = {}

    @property
    def chunk_cut(self) -> Cut:
        """How the time of videos is cut, in frames."""
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
        """Plan how videos of one size are encoded or decoded.

        Programs are compiled to learn how much memory they need. A plan is made once per size.

        Args:
            direction: `encode` or `decode`.
            frames: frames of the video; None where they are not known.
            height: height of the video in pixels.
            width: width of the video in pixels.
            pixels: type of the video that is encoded, or that decoding gives.

        Raises:
            UserError: the video has no frame or is smaller than one latent, or no plan fits into
                memory.
        """
        require_one_of("direction", direction, Direction)
        require_one_of("pixels", pixels, PixelType)
        longest = self.chunk_cut.size
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
        """The shape (n, y, x, z) of the latents of a video, whose size is in pixels.

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
        """The posterior over the unscaled latents of a video, float32 (b, n, y, x, z).

        The model's numbers are not checked: they may be NaN or infinity.

        Args:
            video: a video as `encode` takes it.

        Raises:
            UserError: `video` is no video, is smaller than one latent, or holds NaN, infinity or
                floats beyond [-2, 2].
        """
        moments = np.concatenate(list(self._moments_of(checked_pixels(video))), axis=1)
        return DiagonalGaussian.from_moments(jnp.asarray(moments))

    def encode(self, video: VideoLike, *, key: KeyLike | None = None) -> Latents:
        """Encode a video to unscaled latents.

        Args:
            video: (b, t, h, w, 3) of any frame count and size, uint8 in [0, 255] or floats in
                [-1, 1]; or a list of frames or a Pillow image: see `VideoLike`. Floats up to 2 in
                magnitude are accepted, since decoding and resizing overshoot; a video that seems to
                be in [0, 1] gives a warning.
            key: random key that a sample of the posterior is drawn with. Each latent frame of each
                video has noise of its own, which does not depend on the chunks. None gives the
                mode of the posterior.

        Returns:
            `Latents` with float32 values (b, n, y, x, z), where n = 1 + ceil((t - 1) / temporal
            compression), and y and x are h and w over the spatial compression, rounded up.

        Raises:
            UserError: `video` is no video, is smaller than one latent, or holds NaN, infinity or
                floats beyond [-2, 2]; or the model gives latents with NaN or infinity.
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
        """Decode latents to a video.

        Args:
            latents: `Latents`, scaled or not; or an array (b, n, y, x, z) of unscaled latents, or
                another `LatentsLike`, all of whose frames and pixels are decoded.
            mode: `image` decodes each latent frame alone, to one frame.

        Returns:
            The video (b, t, h, w, 3) of the frame count and size that `Latents` state. It is uint8
            if the encoded video was, else float32 of about [-1, 1], not clipped.

        Raises:
            UserError: the latents don't have the shape that their video would have, hold NaN or
                infinity, or there is no such mode.
        """
        cut = self.latent_chunk_cut(mode)
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
        """Encode a video and decode its latents.

        Args:
            video: a video as `encode` takes it.
            key: random key that a sample of the posterior is drawn with; None gives the mode.

        Returns:
            The reconstruction, of the video's shape: uint8 for uint8, else float32 in [-1, 1].

        Raises:
            UserError: for the reasons that `encode` has.
        """
        recon = self.decode(self.encode(video, key=key))
        return recon if recon.dtype == np.uint8 else np.clip(recon, -1.0, 1.0)

    def scale(self, latents: Latents | LatentsLike) -> Latents:
        """Scale latents as the diffusion models of the image VAE expect them.

        Args:
            latents: `Latents`; scaled ones are returned unchanged. For arrays, see `VAE.scale`.

        Raises:
            UserError: `latents` are no `Latents` of this model, or hold NaN or infinity.
        """
        latents = checked_latents(latents, channels=self.vae.config.latent_channels)
        if latents.scaled:
            return latents
        values = np.asarray(self.vae.scale(latents.values))
        return dataclasses.replace(latents, values=values, scaled=True)

    def unscale(self, latents: Latents | LatentsLike) -> Latents:
        """Undo `scale`; unscaled `Latents` are returned unchanged.

        Raises:
            UserError: for the reasons that `scale` has.
        """
        latents = checked_latents(latents, channels=self.vae.config.latent_channels)
        if not latents.scaled:
            return latents
        values = np.asarray(self.vae.unscale(latents.values))
        return dataclasses.replace(latents, values=values, scaled=False)

    def latent_chunk_cut(self, mode: Mode) -> Cut:
        """How the time of latents is cut, in latent frames.

        Raises:
            UserError: there is no such mode.
        """
        require_one_of("mode", mode, Mode)
        return self._options.cuts(self.vae, None).latent_chunks if mode == "video" else Cut(1, 1)

    def moments(
        self, chunks: Iterable[Pieces], plan: CutPlan
    ) -> Iterator[Float[np.ndarray, "b n y x zz"]]:
        """Encode the chunks of a video to moments: means, then log-variances, along channels.

        While the caller uses the moments of a chunk, the devices work on the following chunks,
        which are read ahead.

        Args:
            chunks: pixels (b, t, h, w, 3), cut as `self.chunk_cut` says.
            plan: a plan of `self.plan` to encode.

        Yields:
            The moments that a chunk adds, without the latent frame that it shares with the chunk
            before.
        """
        time, space = self.vae.temporal_compression, self.vae.config.spatial_compression
        padded = (pad_to_strides(chunk, time=time, space=space) for chunk in chunks)
        overlap = self.chunk_cut.overlap
        for i, moments in enumerate(run_chunks(self._programs, "encode", padded, plan)):
            yield moments[:, overlap if i else 0 :]

    def videos(
        self, chunks: Iterable[Float[np.ndarray, "b n y x z"]], plan: CutPlan, *, overlap: int
    ) -> Iterator[UInt8[np.ndarray, "b t h w 3"] | Float[np.ndarray, "b t h w 3"]]:
        """Decode the chunks of latents to frames, which still have their padding.

        While the caller uses the frames of a chunk, the devices work on the following chunks, which
        are read ahead.

        Args:
            chunks: unscaled latents, cut as `self.latent_chunk_cut` says.
            plan: a plan of `self.plan` to decode.
            overlap: latent frames that a chunk shares with the chunk before.

        Yields:
            The frames that a chunk adds, without those that it shares with the chunk before.
        """
        for i, video in enumerate(run_chunks(self._programs, "decode", chunks, plan)):
            # A shared latent frame is the first of its chunk, and decodes to a single frame. So as
            # many frames are shared as latent frames.
            yield video[:, overlap if i else 0 :]

    def _moments_of(self, video: np.ndarray) -> Iterator[np.ndarray]:
        _, frames, height, width, _ = video.shape
        plan = self.plan(
            "encode", frames=frames, height=height, width=width, pixels=video.dtype.name
        )
        return self.moments((video[:, span] for span in self.chunk_cut.spans(frames)), plan)

    def _as_latents(self, given: LatentsLike) -> Latents:
        values = latents_array(given, channels=self.vae.config.latent_channels)
        space, (_, n, y, x, _) = self.vae.config.spatial_compression, values.shape
        return Latents(values, 1 + (n - 1) * self.vae.temporal_compression, y * space, x * space)

    def _check(self, latents: Latents, mode: Mode) -> None:
        """Raise UserError unless the latents have the shape that this model gives their video.

        In mode `image`, there may be any number of latent frames.
        """
        frames, height, width = latents.frames, latents.height, latents.width
        n, *shape = self.latents_shape(frames=frames, height=height, width=width)
        wanted = (n if mode == "video" else latents.values.shape[1], *shape)
        if latents.values.shape[1:] != wanted:
            raise UserError(
                f"latents (n, y, x, z) of {frames} frames of {width} x {height} are {wanted}, "
                f"not {latents.values.shape[1:]}."
            )
