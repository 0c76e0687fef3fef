"""`load(path)`: a model from any checkpoint, ours or PyTorch's; `save(model, path)`."""

import contextlib
import dataclasses
import difflib
import functools
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from cvvae_jax import checkpoint, parameter_paths, sharding
from cvvae_jax.config import DType
from cvvae_jax.config.places import at_home
from cvvae_jax.config.reading import build
from cvvae_jax.convert import convert, sizes
from cvvae_jax.convert.card import stated_license
from cvvae_jax.convert.convert import abstract_model
from cvvae_jax.convert.families import MODELS, Family
from cvvae_jax.convert.files.source import readable
from cvvae_jax.convert.official_config import exportable
from cvvae_jax.convert.official_model import OfficialModel, open_official
from cvvae_jax.errors import UserError


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
    heads = incomplete = None

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
        except UserError:
            return None

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold the numbers."""
        item = self.folder / ("state" if self.raw else "weights")
        return tuple(sorted(path for path in item.rglob("*") if path.is_file()))

    @property
    def license(self) -> dict[str, str]:
        """The license that its model card states."""
        return stated_license(self.folder, {})

    @property
    def stored_tensors(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The parameters as they are stored, by flat path."""
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
            judge = _not_finite_in_memory if shardings is None else _not_finite_on_devices
            not_finite |= judge(parameter_paths.flatten(model))
        return model


def _not_finite_in_memory(leaves: dict[str, np.ndarray]) -> dict[str, str]:
    """Which parameters hold NaN or Inf, and which of them."""
    found = {path: convert.describe_not_finite(array) for path, array in leaves.items()}
    return {path: what for path, what in found.items() if what}


def _not_finite_on_devices(leaves: dict[str, jax.Array]) -> dict[str, str]:
    """Which parameters hold NaN or Inf, found on their devices, which may be other processes'."""

    def judge(leaves):
        return {path: (jnp.isnan(x).any(), jnp.isinf(x).any()) for path, x in leaves.items()}

    found = jax.device_get(jax.jit(judge)(leaves))
    return {p: "NaN" if nan else "Inf" for p, (nan, inf) in found.items() if nan or inf}


def load(
    path: Path | str,
    *,
    dtype: DType | None = None,
    mesh: jax.sharding.Mesh | None = None,
    prefix: str | None = None,
    config: Path | str | None = None,
    lpips_heads: Path | str | None = None,
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
        lpips_heads: a file with LPIPS' heads, where `path` is torchvision's VGG16 or
            AlexNet.
        raw: of a run, the parameters as the optimizer left them rather than their average.

    Returns:
        A VideoVAE, ImageVAE, SVDVAE, Discriminator, LPIPS, AlexLPIPS, I3D or InceptionV3. A warning
        names PyTorch weights that hold NaN or Inf, or have 8 bits, and settings that had to be
        assumed for want of a config.json.

    Raises:
        UserError: there is no whole known model at `path`.
    """
    model = open_model(
        path,
        dtype=dtype,
        param_dtype=dtype,
        prefix=prefix,
        config=config,
        lpips_heads=lpips_heads,
        raw=raw,
    )
    shardings = _shardings(model.abstract, mesh)
    if isinstance(model, SavedModel):
        return model.load(shardings)
    not_finite = {}
    loaded = model.load(shardings, not_finite=not_finite)
    for assumed in model.assumed:
        warnings.warn(f"{path} has no config.json; assumed: {assumed}.", stacklevel=2)
    if model.eight_bits:
        warnings.warn(
            f"{path} holds weights of 8 bits ({model.eight_bits}), which are far from the original "
            f"ones; they were loaded as {model.config.param_dtype}.",
            stacklevel=2,
        )
    if not_finite:
        listed = ", ".join(f"{name} ({what})" for name, what in not_finite.items())
        warnings.warn(f"{path} holds weights that are no numbers: {listed}.", stacklevel=2)
    return loaded


def save(model: Any, path: Path | str) -> None:
    """Saves a model with its configuration, so that `load` and all commands read it.

    The folder gets its name when it is complete. Of several processes, all must save, to a folder
    that they share.

    Args:
        model: what `load` returns, such as a VideoVAE; after training, the state's `averaged` or
            `model`. Its parameters keep their types.
        path: a folder that does not exist yet.

    Raises:
        UserError: `model` is something else, or `path` exists.
        OSError: the folder can't be written.
    """
    kinds = tuple(model_class for model_class, _ in MODELS.values())
    if not isinstance(model, kinds):
        advice = ": its `averaged` is one" if hasattr(model, "averaged") else ""
        raise UserError(
            f"a model must be one of {', '.join(MODELS)}, not {type(model).__name__}{advice}."
        )
    checkpoint.save_model(path, model)


def open_model(
    path: Path | str,
    *,
    dtype: DType | None = None,
    param_dtype: DType | None = None,
    prefix: str | None = None,
    config: Path | str | None = None,
    lpips_heads: Path | str | None = None,
    raw: bool = False,
    whole: bool = True,
) -> SavedModel | OfficialModel:
    """Opens what `load` would load: checks all that can be checked without reading parameters.

    Args:
        path, prefix, config, lpips_heads, raw: as in `load`.
        dtype: type of the computation; default: the checkpoint's, of PyTorch weights float32.
        param_dtype: type of the parameters; default: as stored.
        whole: whether an LPIPS without its heads or without its network is refused; False: such a
            file can be described but not loaded.

    Raises:
        UserError: there is no whole known model at `path`, or an argument does not go with it.
    """
    for wanted in (dtype, param_dtype):
        if wanted not in (None, *get_args(DType)):
            raise UserError(f"dtype must be one of {', '.join(get_args(DType))}, not {wanted!r}.")
    path = Path(at_home(path))
    with readable(path):
        folder = checkpoint.find_model(path)
    if folder is None:
        if raw:
            raise UserError(f"{path} is no run of ours, so it has no raw weights.")
        config = Path(at_home(config)) if config is not None else None
        with _models_nearby(path):
            return open_official(
                path,
                prefix=prefix,
                config=config,
                lpips_heads=lpips_heads,
                dtype=dtype,
                param_dtype=param_dtype,
                whole=whole,
            )
    if any(value is not None for value in (prefix, config, lpips_heads)):
        raise UserError(
            f"{path} is a checkpoint of ours; LPIPS' heads, prefix and config are for PyTorch's."
        )
    model_class, settings = _described(folder)
    sizes.require_depth(settings, checkpoint.read_shapes(folder), source=folder)
    settings = _with_types(settings, dtype, param_dtype)
    return SavedModel(folder, model_class, settings, abstract_model(model_class, settings), raw)


@contextlib.contextmanager
def _models_nearby(path: Path) -> Iterator[None]:
    """Adds to the error that there is no model at a path where there are models beside it, under a
    similar name, or in it."""
    try:
        yield
    except UserError as error:
        with contextlib.suppress(OSError):
            if path.is_dir() and (inside := _models_in(path)):
                raise UserError(
                    f"{error} Models are in {' and '.join(map(str, inside))}."
                ) from error
            if not path.exists():
                names = [each.name for each in path.parent.iterdir()]
                if meant := difflib.get_close_matches(path.name, names, n=1):
                    meant = path.parent / meant[0]
                    raise UserError(f"{error} Did you mean {meant}?") from error
        raise


def _models_in(folder: Path, most: int = 4) -> list[Path]:
    """The first run folders, checkpoints and saved models in a folder."""
    inside = sorted(each for each in folder.iterdir() if each.is_dir())
    return list(itertools.islice(filter(checkpoint.find_model, inside), most))


def _described(folder: Path) -> tuple[type, Any]:
    """Class and configuration of the model in a folder of items."""
    description = checkpoint.read_description(folder)
    try:
        said = build(_Description, description)
        if said.model not in MODELS:
            raise UserError(f"it is a {said.model!r}; {', '.join(MODELS)} can be loaded.")
        model_class, config_class = MODELS[said.model]
        return model_class, build(config_class, said.config)
    except UserError as error:
        raise UserError(f"{folder}: the description of the model is damaged: {error}") from error


@dataclasses.dataclass(frozen=True)
class _Description:
    """The description of a model, as `checkpoint.read_description` gives it."""

    model: str
    """The class."""
    config: dict[str, Any]
    """The settings of its configuration."""


def _with_types(settings: Any, dtype: DType | None, param_dtype: DType | None) -> Any:
    types = {"dtype": dtype, "param_dtype": param_dtype}
    types = {name: value for name, value in types.items() if value is not None}
    if "dtype" in types and hasattr(settings, "decoder_dtype"):
        types["decoder_dtype"] = None  # who asks for a type means all of the model
    return dataclasses.replace(settings, **types)


def _shardings(model: Any, mesh: jax.sharding.Mesh | None) -> Any:
    if mesh is None:
        return sharding.one_device(model)
    if "fsdp" not in mesh.axis_names:
        raise UserError(
            f"the mesh has the axes {', '.join(mesh.axis_names)}; parameters lie along one that is "
            "called fsdp."
        )
    if set(mesh.axis_types) != {AxisType.Auto}:
        raise UserError(
            "the mesh must leave it to the compiler where arrays lie: jax.make_mesh((8,), "
            "('fsdp',), axis_types=(jax.sharding.AxisType.Auto,))."
        )
    return sharding.shardings(model, mesh)
