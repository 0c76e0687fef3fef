"""The encoder, the decoder and the base class of VAEs, for videos and images alike: those differ in
their kinds of convolution."""

import itertools
from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from cvvae_jax.config import Remat
from cvvae_jax.models.blocks import (
    Downsample,
    GroupNorm,
    MidBlock,
    ResBlock,
    SpatialAttention,
    Style,
    Upsample,
    norm_silu,
)
from cvvae_jax.models.conv import Conv
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.models.inputs import (
    LatentsLike,
    VideoLike,
    latents_array,
    on_device,
    require_strides,
    to_float,
    video_array,
)
from cvvae_jax.models.remat import run, run_block, run_level

LatentsArray = Float[Array | np.ndarray, "b n y x z"]


class Level(nnx.Module):
    """The residual blocks of one resolution, then the resampling to the next one, if any.

    Parameters are named as in diffusers: `resnets`, `downsamplers`, `upsamplers`.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        *,
        down: Downsample | None = None,
        up: Upsample | None = None,
        block: type[nnx.Module] = ResBlock,
        style: Style,
        rngs: nnx.Rngs,
    ):
        pairs = itertools.pairwise(widths)
        self.resnets = nnx.List([block(i, o, style=style, rngs=rngs) for i, o in pairs])
        if down:
            self.downsamplers = nnx.List([down])
        if up:
            self.upsamplers = nnx.List([up])

    def __call__(
        self, video: Float[Array, "b t h w c"], *, remat: Remat = "none"
    ) -> Float[Array, "b t2 h2 w2 d"]:
        resamplers = (*getattr(self, "downsamplers", ()), *getattr(self, "upsamplers", ()))
        for block in (*self.resnets, *resamplers):
            video = run_block(block, video, remat=remat)
        return video


class Encoder(nnx.Module):
    """A video to its moments, means and log-variances: (b, 1 + 4k, 8y, 8x, 3) -> (b, 1 + k, y, x,
    2z) with the official strides."""

    def __init__(
        self,
        *,
        channels: tuple[int, ...],
        blocks: int,
        latent_channels: int,
        temporal_strides: tuple[int, ...],
        downsample_padding: Literal["asymmetric", "symmetric"],
        attention: type[SpatialAttention] | None,
        style: Style,
        rngs: nnx.Rngs,
    ):
        self.conv_in = Conv(3, channels[0], kind=style.conv, **style.dtypes, rngs=rngs)
        self.down_blocks = nnx.List()
        for i, width in enumerate(channels):
            down = None
            if i < len(temporal_strides):
                down = Downsample(
                    width,
                    time_stride=temporal_strides[i],
                    padding=downsample_padding,
                    style=style,
                    rngs=rngs,
                )
            widths = (channels[max(i - 1, 0)], *(width,) * blocks)
            self.down_blocks.append(Level(widths, down=down, style=style, rngs=rngs))
        self.mid_block = MidBlock(channels[-1], attention=attention, style=style, rngs=rngs)
        self.conv_norm_out = GroupNorm(channels[-1], style=style)
        self.conv_out = Conv(
            channels[-1], 2 * latent_channels, kind=style.conv, **style.dtypes, rngs=rngs
        )

    def __call__(
        self, video: Float[Array, "b t h w 3"], *, remat: Remat = "none"
    ) -> Float[Array, "b n y x zz"]:
        hidden = run_block(self.conv_in, video, remat=remat)
        for level in (*self.down_blocks, self.mid_block):
            hidden = run_level(level, hidden, remat=remat)
        hidden = run(norm_silu, self.conv_norm_out, hidden, remat=remat)
        return run_block(self.conv_out, hidden, remat=remat)


class Decoder(nnx.Module):
    """Latents to a video: (b, 1 + k, y, x, z) -> (b, 1 + 4k, 8y, 8x, 3) with the official
    strides."""

    def __init__(
        self,
        *,
        channels: tuple[int, ...],
        blocks: int,
        latent_channels: int,
        temporal_strides: tuple[int, ...],
        attention: type[SpatialAttention] | None,
        style: Style,
        rngs: nnx.Rngs,
    ):
        channels = channels[::-1]
        self.conv_in = Conv(
            latent_channels, channels[0], kind=style.conv, **style.dtypes, rngs=rngs
        )
        self.mid_block = MidBlock(channels[0], attention=attention, style=style, rngs=rngs)
        self.up_blocks = nnx.List()
        for i, width in enumerate(channels):
            up = None
            if i < len(temporal_strides):
                up = Upsample(width, time_stride=temporal_strides[i], style=style, rngs=rngs)
            widths = (channels[max(i - 1, 0)], *(width,) * (blocks + 1))
            self.up_blocks.append(Level(widths, up=up, style=style, rngs=rngs))
        self.conv_norm_out = GroupNorm(channels[-1], style=style)
        self.conv_out = Conv(channels[-1], 3, kind=style.conv, **style.dtypes, rngs=rngs)

    def hidden(
        self, latents: Float[Array, "b n y x z"], *, remat: Remat = "none"
    ) -> Float[Array, "b t h w c"]:
        """The input of `conv_out`, separate since training needs the gradient at that last layer
        alone."""
        hidden = run_block(self.conv_in, latents, remat=remat)
        for level in (self.mid_block, *self.up_blocks):
            hidden = run_level(level, hidden, remat=remat)
        return run(norm_silu, self.conv_norm_out, hidden, remat=remat)

    def layers(self) -> dict[str, nnx.Module]:
        """The layers before the last norm, by their paths and in their order."""
        levels = {f"up_blocks/{i:02d}": level for i, level in enumerate(self.up_blocks)}
        return {"conv_in": self.conv_in, "mid_block": self.mid_block, **levels}

    def outputs_of(
        self, latents: Float[Array, "b n y x z"], names: tuple[str, ...], *, remat: Remat = "none"
    ) -> list[Float[Array, "b t h w c"]]:
        """The outputs of the layers of these names, in the order of `layers`; what is behind the
        last of them isn't computed."""
        hidden, found = latents, []
        for name, layer in self.layers().items():
            if len(found) == len(names):
                break
            call = run_block if name == "conv_in" else run_level
            hidden = call(layer, hidden, remat=remat)
            if name in names:
                found.append(hidden)
        return found


class VAE(nnx.Module):
    """The base class of image and video VAEs: encode, decode, and latents scaled for diffusion
    models.

    A subclass sets `encoder`, `decoder` and `config`, and may override what stands between them and
    the latents. `remat` is what is kept for a backward pass (see `models.remat`); results don't
    depend on it. Types and shapes of arguments are checked, also while a program is traced; values
    aren't: `Codec` checks them.
    """

    @property
    def temporal_compression(self) -> int:
        """Frames that a latent frame after the first stands for: see `frame_groups`."""
        return self.config.temporal_compression

    def encode(self, video: VideoLike, *, remat: Remat = "none") -> DiagonalGaussian:
        """The posterior over the latents of a video; an image is a video of one frame.

        Args:
            video: (b, t, h, w, 3), floats in [-1, 1] or uint8 in [0, 255], or another
                `VideoLike`.
            remat: see the class.

        Raises:
            UserError: it isn't a video, or its dtype, frame count or size isn't accepted.
        """
        return DiagonalGaussian.from_moments(self.moments(video, remat=remat))

    def moments(self, video: VideoLike, *, remat: Remat = "none") -> Float[Array, "b n y x zz"]:
        """The encoder's output: means, then log-variances before they are clamped.

        Args:
            video: as for `encode`.
            remat: see the class.

        Raises:
            UserError: as for `encode`.
        """
        video = video_array(video)
        space, time = self.config.spatial_compression, self.temporal_compression
        require_strides(video.shape, space=space, time=time)
        video = to_float(video) if video.dtype == jnp.uint8 else on_device(video)
        return self._moments(video, remat=remat)

    def decode(self, latents: LatentsLike, *, remat: Remat = "none") -> Float[Array, "b t h w 3"]:
        """The video of unscaled latents, about in [-1, 1], not clipped.

        Args:
            latents: (b, n, y, x, z), any floats, or another `LatentsLike`.
            remat: see the class.

        Raises:
            UserError: they aren't latents of this model, or their dtype isn't accepted.
        """
        hidden = self.decode_hidden(latents, remat=remat)
        return run_block(self.decoder.conv_out, hidden, remat=remat)

    def decode_hidden(
        self, latents: LatentsLike, *, remat: Remat = "none"
    ) -> Float[Array, "b t h w c"]:
        """The input of `decoder.conv_out`, after norm and SiLU, with the size of the video.

        Args:
            latents: as for `decode`.
            remat: see the class.

        Raises:
            UserError: as for `decode`.
        """
        return self._hidden(on_device(self._latents(latents)), remat=remat)

    def scale(self, latents: LatentsLike) -> LatentsArray:
        """Latents scaled for a diffusion model; a NumPy array, or a JAX array if given one.

        Raises:
            UserError: they aren't latents of this model, or their dtype isn't accepted.
        """
        latents = self._latents(latents)
        factor = self.config.scaling_factor
        if self.config.latents_mean is None:
            return (latents - self.config.shift_factor) * factor
        mean, std = self._mean_and_std(latents)
        return (latents - mean) * factor / std

    def unscale(self, latents: LatentsLike) -> LatentsArray:
        """The inverse of `scale`: what `decode` takes.

        Raises:
            UserError: they aren't latents of this model, or their dtype isn't accepted.
        """
        latents = self._latents(latents)
        factor = self.config.scaling_factor
        if self.config.latents_mean is None:
            return latents / factor + self.config.shift_factor
        mean, std = self._mean_and_std(latents)
        return latents * std / factor + mean

    def _mean_and_std(self, latents: LatentsArray) -> tuple[np.ndarray, np.ndarray]:
        given = self.config.latents_mean, self.config.latents_std
        channels = (1,) * (latents.ndim - 1) + (-1,)
        return tuple(np.asarray(values, latents.dtype).reshape(channels) for values in given)

    def _moments(self, video: Float[Array, "b t h w 3"], *, remat: Remat) -> Array:
        return self.encoder(video, remat=remat)

    def _hidden(self, latents: Float[Array, "b n y x z"], *, remat: Remat) -> Array:
        return self.decoder.hidden(latents, remat=remat)

    def _latents(self, given: LatentsLike) -> LatentsArray:
        return latents_array(given, channels=self.config.latent_channels)
