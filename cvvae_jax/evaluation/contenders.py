"""Contenders of an evaluation: models, and baselines that any model must beat."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt32

from cvvae_jax import parameter_paths
from cvvae_jax.codec.codec import Codec
from cvvae_jax.codec.values import Latents, Pixels
from cvvae_jax.config import DType
from cvvae_jax.config.places import at_home
from cvvae_jax.convert.card import sha256
from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.protocol import Protocol
from cvvae_jax.loading import load, open_model
from cvvae_jax.metrics import baselines
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.models.inputs import to_float, to_uint8
from cvvae_jax.recipe import load_recipe, recipe_names

BaselineName = Literal["nearest", "linear", "bicubic"]
"""Every k-th frame kept and the others filled in, k the temporal compression of the first model:
the nearest kept frame, or linear between two; or every frame bicubically down to the height and
width of its latents, and up."""

_DESCRIPTIONS = {
    "VideoVAE": "video VAE",
    "ImageVAE": "image VAE, frame by frame",
    "SVDVAE": "image encoder with a temporal decoder, a latent frame for every frame",
    "nearest": "one frame in {k} kept, the nearest one repeated",
    "linear": "one frame in {k} kept, linear between",
    "bicubic": "every frame bicubically down by {s} and up",
}


@dataclasses.dataclass(frozen=True)
class Contender:
    """A model, not loaded yet, or a baseline, which reconstructs videos."""

    name: str
    kind: str
    """Class of the model, or `baseline`."""
    description: str
    weights: str | None
    """Path of the weights, None without any."""
    sha256: str | None
    """Hash of the weights."""
    parameters: int | None
    temporal_compression: int
    spatial_compression: int
    latent_channels: int | None
    dtype: str | None
    """Type of the computation."""
    open: Callable[[Protocol], "Model | Baseline"] = dataclasses.field(compare=False)
    """Loads the model."""

    @property
    def latents(self) -> str:
        """The shape of a latent frame, in words."""
        side = self.spatial_compression
        return f"{self.latent_channels} channels for {side} x {side} pixels"

    def record(self) -> dict[str, Any]:
        """The contender's entry in results.json."""
        fields = {field.name for field in dataclasses.fields(self)} - {"open"}
        return {name: getattr(self, name) for name in sorted(fields)}


class Model:
    """A loaded model: videos through its latents and back."""

    def __init__(self, vae: VAE, protocol: Protocol, *, name: str):
        self._protocol, self._name = protocol, name
        self.codec = Codec(
            vae,
            chunk_frames=protocol.chunk_frames,
            tile=protocol.tile,
            devices=jax.local_devices(),
        )

    def decode(
        self, posterior: DiagonalGaussian, videos: Pixels, numbers: UInt32[np.ndarray, " b"]
    ) -> Pixels:
        """Decodes the mode or a sample of the videos' posterior, as the protocol says.

        Raises:
            UserError: latents are no numbers.
        """
        match self._protocol.latents:
            case "mode":
                values = posterior.mode()
            case "sample":
                keys = _clip_keys(jax.random.key(self._protocol.seed), numbers)
                values = posterior.sample(keys)
        # Checked here, since NaN can't be seen once pixels are 8-bit.
        if not jnp.isfinite(values).all():
            raise UserError(f"{self._name} gives latents that are no numbers.")
        _, frames, height, width, _ = videos.shape
        return self.codec.decode(Latents(values, frames, height, width, videos.dtype.name))

    def rebuild(self, videos: Pixels) -> Pixels:
        """Videos of the same type and shape, by the posterior's mode, whatever the protocol
        takes."""
        return self.codec.reconstruct(videos)

    def tile_borders(self, videos: Pixels) -> tuple[list[int], list[int]]:
        """Rows and columns of pixels that tiles begin or end before when videos are decoded."""
        _, frames, height, width, _ = videos.shape
        plan = self.codec.plan(
            "decode", frames=frames, height=height, width=width, pixels=videos.dtype.name
        )
        spans = (plan.cuts.pixel_tiles.spans(length) for length in (plan.height, plan.width))
        return tuple(
            _inside({end for span in own for end in (span.start, span.stop)}, length)
            for own, length in zip(spans, (height, width), strict=True)
        )


class Baseline:
    """A function of videos in [-1, 1], for videos of either type."""

    def __init__(self, function: Callable[[Array], Array]):
        self._function = jax.jit(function)

    def rebuild(self, videos: Pixels) -> Pixels:
        """Videos of the same type and shape."""
        if videos.dtype != np.uint8:
            return np.asarray(self._function(videos))
        return np.asarray(to_uint8(self._function(to_float(videos))))

    def tile_borders(self, videos: Pixels) -> tuple[list[int], list[int]]:
        """No borders: a baseline cuts no tiles."""
        return [], []


def _inside(borders: set[int], length: int) -> list[int]:
    return sorted(border for border in borders if 0 < border < length)


@jax.jit
def _clip_keys(key: Key[Array, ""], numbers: UInt32[Array | np.ndarray, " b"]) -> Key[Array, " b"]:
    return jax.vmap(functools.partial(jax.random.fold_in, key))(numbers)


def model_contender(argument: str, *, dtype: DType | None = None) -> Contender:
    """The contender that a command line names: `PATH` or `NAME=PATH`.

    Args:
        argument: the path is a recipe, which stands for its run folder, a run folder, checkpoint,
            saved model or PyTorch weights.
        dtype: type of parameters and computation; default: as stored.

    Raises:
        UserError: there is no VAE at the path.
    """
    name, path = named_path(argument)
    found = open_model(path, dtype=dtype, param_dtype=dtype)
    if not issubclass(found.model_class, VAE):
        raise UserError(f"{path} holds {found.model_class.__name__}, not {' or '.join(_vaes())}.")
    config, kind = found.config, found.model_class.__name__
    return Contender(
        name=name,
        kind=kind,
        description=_DESCRIPTIONS[kind],
        weights=str(path),
        sha256=sha256(found.weight_files),
        parameters=parameter_paths.count(found.abstract),
        temporal_compression=getattr(config, "temporal_compression", 1),
        spatial_compression=config.spatial_compression,
        latent_channels=config.latent_channels,
        dtype=config.dtype,
        # A run that goes on may have another newest checkpoint by now than the one hashed.
        open=lambda protocol: Model(
            load(found.path if found.is_ours else path, dtype=dtype), protocol, name=name
        ),
    )


def _vaes() -> list[str]:
    return [kind for kind in _DESCRIPTIONS if kind not in get_args(BaselineName)]


def named_path(argument: str) -> tuple[str, Path]:
    """Name and path of `PATH` or `NAME=PATH`; a recipe's path is that of its run folder."""
    name, equals, rest = argument.partition("=")
    if not equals or "/" in name or Path(argument).exists():
        name, rest = "", argument
    path = Path(at_home(rest))
    if path.suffix == ".py" or (not path.exists() and rest in recipe_names()):
        path = Path(load_recipe(rest).workdir)
        if not path.is_dir():
            raise UserError(f"{rest} has not been run: there is no folder {path}.")
    resolved = path.resolve()
    return name or (resolved.name if resolved.is_dir() else resolved.stem), path


def baseline_contender(kind: BaselineName, like: Contender) -> Contender:
    """A baseline that resamples to the latent grid of a model."""
    time, space = like.temporal_compression, like.spatial_compression
    functions = {
        "nearest": functools.partial(baselines.nearest_in_time, temporal_compression=time),
        "linear": functools.partial(baselines.linear_in_time, temporal_compression=time),
        "bicubic": functools.partial(baselines.bicubic_in_space, spatial_compression=space),
    }
    return Contender(
        name=kind,
        kind="baseline",
        description=_DESCRIPTIONS[kind].format(k=time, s=space),
        weights=None,
        sha256=None,
        parameters=None,
        temporal_compression=1 if kind == "bicubic" else time,
        spatial_compression=space if kind == "bicubic" else 1,
        latent_channels=None,
        dtype=None,
        open=lambda protocol: Baseline(functions[kind]),
    )


def image_vae_of(path: Path) -> Path | None:
    """The image VAE that a run was trained against, as its folder says; None without one.

    Raises:
        UserError: the folder names one that isn't there.
    """
    inside = path / "image_vae"
    if inside.is_dir():
        return inside
    try:
        said = json.loads((path / "config.json").read_text(encoding="utf-8")).get("image_vae")
    except (OSError, ValueError):
        return None
    if not isinstance(said, str):
        return None
    said = at_home(said)
    if not Path(said).exists():
        raise UserError(
            f"{path} was trained with the image VAE {said}, which is not there: name it with "
            "--image-vae, or say --image-vae none."
        )
    return Path(said)
