"""`load(path)`: a model from any checkpoint, ours or PyTorch's."""

import dataclasses
import functools
import json
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cvvae_jax import checkpoint, paths, sharding
from cvvae_jax.config import ConfigError, DType
from cvvae_jax.convert import tensors
from cvvae_jax.convert.card import stated_license
from cvvae_jax.convert.families import MODELS, Family, abstract_model
from cvvae_jax.convert.official_config import exportable
from cvvae_jax.convert.official_model import OfficialModel, open_official
from cvvae_jax.recipe import from_json


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A model in a checkpoint of ours, not read yet."""

    folder: Path
    """The folder of the checkpoint's items."""

    model_class: type
    config: Any
    abstract: Any
    """The model's shapes and types."""

    raw: bool
    """Whether the weights are the optimizer's, not their average."""

    is_ours = True
    format = "checkpoint of cvvae_jax"
    assumed = left_alone = other_parts = ()

    @property
    def path(self) -> Path:
        """The folder of the checkpoint's items."""
        return self.folder

    @property
    def title(self) -> str:
        """The official family where one can hold the model; of a run, which weights these are."""
        family = self.family.title if self.family else "none of the official ones"
        if not (self.folder / "state").is_dir():
            return family
        return f"{family}; {'raw' if self.raw else 'averaged'} weights of step {self.folder.name}"

    @functools.cached_property
    def family(self) -> Family | None:
        """The official family that can hold the model, None without one."""
        try:
            return exportable(self.abstract)[0]
        except ConfigError:
            return None

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold the numbers."""
        item = self.folder / ("state" if self.raw else "weights")
        return tuple(sorted(path for path in item.rglob("*") if path.is_file()))

    @property
    def license(self) -> str | None:
        """As its model card states it."""
        return stated_license(self.folder, {})

    @property
    def stored_tensors(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Its parameters as they are stored, by flat path."""
        return checkpoint.read_shapes(self.folder)

    def load(self, shardings: Any, *, not_finite: dict[str, str] | None = None) -> Any:
        """The model, straight onto its devices.

        Args:
            shardings: where every parameter lies, a tree like the model; None: numpy arrays, which
                can be written but not computed with.
            not_finite: takes the paths of parameters that hold NaN or Inf, and which of them.
        """
        target = self.abstract
        model = checkpoint.restore_model(self.folder, target, shardings=shardings, raw=self.raw)
        if not_finite is not None:
            found = {p: tensors.not_finite(np.asarray(v)) for p, v in paths.flatten(model).items()}
            not_finite |= {path: what for path, what in found.items() if what}
        return model


def load(
    path: Path | str,
    *,
    dtype: DType | None = None,
    mesh: jax.sharding.Mesh | None = None,
    prefix: str | None = None,
    config: Path | str | None = None,
    raw: bool = False,
) -> Any:
    """The model of a run folder, a checkpoint, a saved model, or of PyTorch weights.

    Args:
        path: a run folder (its newest checkpoint), a checkpoint, a saved model; a `.safetensors`
            file, its index, a PyTorch `.ckpt`, `.bin` or `.pt`; or a folder with one of these and a
            config.json, or with a subfolder `vae`.
        dtype: type of parameters and computation; default: parameters as stored, and of PyTorch
            weights the computation in float32.
        mesh: devices to lay the parameters out on, with an axis `fsdp`, as `sharding.make_mesh`
            makes it; default: one device.
        prefix: what stands before the model's names, for PyTorch files that hold several models,
            such as `loss.discriminator.` in CV-VAE's training states.
        config: an official config.json, where it does not lie beside PyTorch weights.
        raw: of a run, the parameters as the optimizer left them rather than their average.

    Returns:
        A VideoVAE, ImageVAE, SVDVAE, Discriminator or LPIPS. Weights that hold NaN or Inf are
        named in a warning.

    Raises:
        ConfigError: there is no whole known model at `path`.
    """
    model = open_model(path, dtype=dtype, prefix=prefix, config=config, raw=raw)
    shardings = _shardings(model.abstract, mesh)
    if isinstance(model, SavedModel):
        return model.load(shardings)
    not_finite = {}
    loaded = model.load(shardings, not_finite=not_finite)
    if not_finite:
        listed = ", ".join(f"{name} ({what})" for name, what in not_finite.items())
        warnings.warn(f"{path} holds weights that are no numbers: {listed}.", stacklevel=2)
    return loaded


def open_model(
    path: Path | str,
    *,
    dtype: DType | None = None,
    prefix: str | None = None,
    config: Path | str | None = None,
    raw: bool = False,
) -> SavedModel | OfficialModel:
    """What `load` would load, checked as far as that goes without reading parameters.

    Raises:
        ConfigError: there is no whole known model at `path`, or an argument does not go with it.
    """
    folder = checkpoint.find_model(path)
    if folder is None:
        if raw:
            raise ConfigError(f"{path} is no run of ours, so it has no raw weights.")
        config = Path(config) if config is not None else None
        return open_official(path, prefix=prefix, config=config, dtype=dtype)
    if prefix is not None or config is not None:
        raise ConfigError(f"{path} is a checkpoint of ours; prefix and config are for PyTorch's.")
    description = checkpoint.read_description(folder)
    if description["model"] not in MODELS:
        raise ConfigError(
            f"{folder} holds a {description['model']}; {', '.join(MODELS)} can be loaded."
        )
    model_class, config_class = MODELS[description["model"]]
    settings = from_json(config_class, json.dumps(description["config"]))
    if dtype is not None:
        settings = dataclasses.replace(settings, dtype=dtype, param_dtype=dtype)
    model = abstract_model(model_class, settings)
    return SavedModel(folder, model_class, settings, model, raw)


def _shardings(model: Any, mesh: jax.sharding.Mesh | None) -> Any:
    if mesh is None:
        return sharding.one_device(model)
    if "fsdp" not in mesh.axis_names:
        raise ConfigError(
            f"the mesh has the axes {', '.join(mesh.axis_names)}; parameters lie along one that is "
            "called fsdp (see cvvae_jax.sharding.make_mesh)."
        )
    return sharding.shardings(model, mesh)
