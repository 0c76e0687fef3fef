"""A model in official weight files: everything that can be said and checked before a number is
read, then its parameters, one tensor at a time."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from cvvae_jax.config import ConfigError, DType
from cvvae_jax.convert import families
from cvvae_jax.convert.card import stated_license
from cvvae_jax.convert.convert import Place, fill, places
from cvvae_jax.convert.families import Family, abstract_model
from cvvae_jax.convert.files import TensorInfo, WeightFiles, open_weights
from cvvae_jax.convert.files.source import read_json
from cvvae_jax.convert.official_config import norm_groups, with_official_config
from cvvae_jax.convert.parts import AUTOENCODER, Part, list_parts, select

_FLOATS = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class OfficialModel:
    """A model in official weight files, not read yet."""

    files: WeightFiles
    part: Part
    family: Family
    config: Any
    """Our configuration."""

    abstract: Any
    """Our model's shapes and types."""

    places: dict[str, Place]
    """Where every tensor goes, by its name in the file."""

    assumed: tuple[str, ...]
    """Settings that nothing in the files shows, in words."""

    is_ours = False

    @property
    def path(self) -> Path:
        """The file or folder that holds the weights."""
        return self.files.path

    @property
    def model_class(self) -> type:
        """Our model."""
        return self.family.model_class

    @property
    def title(self) -> str:
        """What people call the family."""
        return self.family.title

    @property
    def format(self) -> str:
        """What kind of file it is."""
        suffix = "safetensors" if self.files.files[0].suffix == ".safetensors" else "PyTorch pickle"
        return f"{suffix}, {len(self.files.files)} file{'s' * (len(self.files.files) > 1)}"

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold the numbers."""
        return self.files.files

    @property
    def license(self) -> dict[str, str]:
        """As the source states it."""
        return stated_license(self.files.files[0].parent, self.files.metadata)

    @property
    def stored_tensors(self) -> dict[str, TensorInfo]:
        """The model's tensors as they are stored, by their names in the file."""
        return {name: self.files.tensors[name] for name in self.places}

    @property
    def left_alone(self) -> tuple[str, ...]:
        """The file's other tensors."""
        return self.part.left_alone

    @property
    def other_parts(self) -> tuple[str, ...]:
        """The file's other models, in words."""
        parts = list_parts(self.files.tensors)
        return tuple(
            f"{kind} ({count} tensors): --prefix {prefix or repr(prefix)}"
            for prefix, (kind, count) in parts.items()
            if prefix != self.part.prefix
        )

    def load(self, shardings: Any, *, not_finite: dict[str, str] | None = None) -> Any:
        """The model, read one tensor at a time straight onto its devices.

        Args:
            shardings: where every parameter lies, a tree like the model; None: numpy arrays, which
                can be written but not computed with.
            not_finite: takes the names of tensors that hold NaN or Inf, and which of them.
        """
        official = self.files.read(self.places)
        return fill(
            self.abstract, official, self.places, shardings=shardings, not_finite=not_finite
        )


def open_official(
    path: Path | str,
    *,
    prefix: str | None = None,
    config: Path | None = None,
    dtype: DType | None = None,
    param_dtype: DType | None = None,
) -> OfficialModel:
    """The model of a weight file or of a folder with one; only headers are read.

    Args:
        path: what `files.open_weights` takes.
        prefix: what stands before the model's names, where a file holds several.
        config: a config.json; default: the one beside the weights, if there is one.
        dtype: type of the computation; default: float32.
        param_dtype: type of the parameters; default: the file's.

    Raises:
        ConfigError: it can't be read, or is not one whole known model.
    """
    files = open_weights(path)
    part = select(files.tensors, prefix=prefix, source=str(files.path))
    shapes = {name: files.tensors[stored].shape for name, stored in part.names.items()}
    given, source = _given_config(files, part, config)
    groups = norm_groups(given or {}, source=source)
    family, ours = families.recognize(shapes, groups=groups, source=str(files.path))
    if given is not None:
        ours = with_official_config(family, ours, given, source=source)
    elif family.model_class is families.IMAGE.model_class:
        ours = families.with_usual_scale(ours)
    param_dtype = _param_dtype(files, part, param_dtype)
    ours = dataclasses.replace(ours, param_dtype=param_dtype, dtype=dtype or "float32")
    model = abstract_model(family.model_class, ours)
    try:
        found = places(shapes, model, family.rows(ours))
    except ConfigError as error:
        raise ConfigError(f"{files.path} is no whole {family.title}: {error}") from None
    by_stored = {part.names[name]: place for name, place in found.items()}
    return OfficialModel(files, part, family, ours, model, by_stored, _assumed(family, ours, given))


def _given_config(
    files: WeightFiles, part: Part, config: Path | None
) -> tuple[dict[str, Any] | None, str]:
    """The config.json that was named, or the one beside the weights, which speaks of the
    autoencoder where the file holds one."""
    if config is None:
        prefixes = [p for p, (kind, _) in list_parts(files.tensors).items() if kind == AUTOENCODER]
        speaks_of_it = not prefixes or part.prefix in prefixes
        return (files.config if speaks_of_it else None), f"{files.files[0].parent}/config.json"
    return read_json(config), str(config)


def _param_dtype(files: WeightFiles, part: Part, wanted: DType | None) -> DType:
    """The type asked for, or the narrowest that holds all tensors exactly."""
    stored = {}
    for name in part.names.values():
        stored.setdefault(files.tensors[name].dtype.name, name)
    strange = {t: n for t, n in stored.items() if t not in (*_FLOATS, "float64")}
    if strange:
        listed = ", ".join(f"{name} is {dtype}" for dtype, name in strange.items())
        raise ConfigError(f"{files.path}: weights must be {', '.join(_FLOATS)}; {listed}.")
    if wanted:
        return wanted
    if "float64" in stored:
        raise ConfigError(
            f"{files.path} holds float64 weights ({stored['float64']}, ..), which are not kept; "
            "ask for dtype float32."
        )
    return str(jnp.result_type(*stored)) if stored else "float32"


def _assumed(family: Family, config: Any, given: dict[str, Any] | None) -> tuple[str, ...]:
    """What only a config.json could tell, where there is none."""
    if given is not None:
        return ()
    assumed = []
    if family.model_class is families.IMAGE.model_class:
        scale, shift = config.scaling_factor, config.shift_factor
        other = "SDXL's is 0.13025" if config.latent_channels == 4 else "FLUX's are 0.3611, 0.1159"
        assumed.append(f"scaling factor {scale}, shift {shift} ({other})")
    if family in (families.SD3, families.IMAGE, families.IMAGE_LDM):
        assumed.append(f"{config.norm_groups} groups in every norm")
    if family in (families.SD21, families.SD3):
        assumed.append("the encoder is causal, the decoder is not")
    return tuple(assumed)
