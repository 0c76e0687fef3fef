"""A model in official weight files: described and checked from headers alone, then read one tensor
at a time."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from cvvae_jax.config import DType
from cvvae_jax.convert.card import stated_license
from cvvae_jax.convert.convert import TensorSlot, abstract_model, fill, slots
from cvvae_jax.convert.families import AUTOENCODER, IMAGE, Family
from cvvae_jax.convert.files import TensorInfo, WeightFiles, open_weights
from cvvae_jax.convert.files.source import read_json
from cvvae_jax.convert.lpips_heads import (
    Half,
    Heads,
    missing_half,
    open_heads,
    remedy,
    shapes_of_half,
)
from cvvae_jax.convert.official_config import norm_groups, with_official_config
from cvvae_jax.convert.parts import ModelTensors, list_parts, select
from cvvae_jax.convert.recognition import recognize, with_usual_scale
from cvvae_jax.convert.sizes import Shapes
from cvvae_jax.errors import UserError

_FLOATS = ("float32", "bfloat16", "float16")
_EIGHT_BITS = ("float8_e4m3fn", "float8_e5m2")
# What programs call the factors that they keep beside weights of 8 bits.
_SCALE = re.compile(r"(^|[._])(scale_(weight|input)|(weight|input)_scale(_inv)?|scaled_fp8)$")


@dataclasses.dataclass(frozen=True)
class OfficialModel:
    """A model in official weight files, not read yet."""

    files: WeightFiles
    part: ModelTensors
    family: Family
    config: Any
    """Our configuration."""

    abstract: Any
    """Our model's shapes and types."""

    slots: dict[str, TensorSlot]
    """The parameter that every tensor fills, by the tensor's name in the file."""

    assumed: tuple[str, ...]
    """Settings that nothing in the files shows, in words."""

    heads: Heads | None = None
    """LPIPS' heads, where they are in a file of their own."""

    incomplete: str | None = None
    """A sentence that says which file completes the model; None for a whole one."""

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
        """The family's name."""
        return self.family.title

    @property
    def format(self) -> str:
        """The format and the number of the files."""
        suffix = "safetensors" if self.files.files[0].suffix == ".safetensors" else "PyTorch pickle"
        return f"{suffix}, {len(self.files.files)} file{'s' * (len(self.files.files) > 1)}"

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold the numbers, but for `heads`."""
        return self.files.files

    @property
    def license(self) -> dict[str, str]:
        """The license that the source states."""
        return stated_license(self.files.files[0].parent, self.files.metadata)

    @property
    def stored_tensors(self) -> dict[str, TensorInfo]:
        """The model's tensors as they are stored, by their names in the file."""
        heads = self.heads.files.tensors if self.heads else {}
        own = set(self.heads.names.values()) if self.heads else set()
        return {name: (heads if name in own else self.files.tensors)[name] for name in self.slots}

    @property
    def left_alone(self) -> tuple[str, ...]:
        """The file's other tensors."""
        return self.part.left_alone

    @property
    def eight_bits(self) -> str | None:
        """Which types of 8 bits weights are stored in, in words; None for others."""
        stored = {tensor.dtype.name for tensor in self.stored_tensors.values()}
        return " and ".join(sorted(stored & set(_EIGHT_BITS))) or None

    @property
    def other_parts(self) -> tuple[str, ...]:
        """The file's other models, in words."""
        parts = list_parts(self.files.tensors)
        return tuple(
            f"{kind} ({count} tensors): --prefix {prefix or repr(prefix)}"
            for prefix, (kind, count) in parts.items()
            if prefix not in self.part.prefixes
        )

    def load(self, shardings: Any, *, not_finite: dict[str, str] | None = None) -> Any:
        """The model, read one tensor at a time straight onto its devices.

        Args:
            shardings: where every parameter lies, a tree like the model; None: numpy arrays, which
                can be written but not computed with.
            not_finite: takes the names of tensors that hold NaN or Inf, and which of them.

        Raises:
            UserError: the model is incomplete, or the files changed.
        """
        if self.incomplete:
            raise UserError(self.incomplete)
        return fill(
            self.abstract, self.read(), self.slots, shardings=shardings, not_finite=not_finite
        )

    def read(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every tensor of the model once, by its name in its file."""
        heads = list(self.heads.names.values()) if self.heads else []
        yield from self.files.read(name for name in self.slots if name not in heads)
        if self.heads:
            yield from self.heads.files.read(heads)


def open_official(
    path: Path | str,
    *,
    prefix: str | None = None,
    config: Path | None = None,
    lpips_heads: Path | str | None = None,
    dtype: DType | None = None,
    param_dtype: DType | None = None,
    whole: bool = True,
) -> OfficialModel:
    """The model of a weight file or of a folder with one; only headers are read.

    Args:
        path: what `convert.files.open_weights` takes.
        prefix: what stands before the model's names, where a file holds several.
        config: a config.json; default: the one beside the weights, if there is one.
        lpips_heads: a file with LPIPS' heads, where `path` holds only its network.
        dtype: type of the computation; default: float32.
        param_dtype: type of the parameters; default: the file's.
        whole: whether an LPIPS without its heads or without its network is refused; False: such a
            file can be described but not loaded.

    Raises:
        UserError: it can't be read, or is not one whole known model.
    """
    files = open_weights(path)
    part = select(files.tensors, prefix=prefix, source=str(files.path))
    files.require_readable(part.names.values())
    _refuse_scales(files, part)
    shapes = {name: files.tensors[stored].shape for name, stored in part.names.items()}
    given, source = _given_config(files, part, config)
    groups = norm_groups(given or {}, source=source)
    family, ours = recognize(shapes, groups=groups, source=str(files.path))
    heads, half = _heads(files, family, shapes, lpips_heads)
    if given is not None:
        ours = with_official_config(family, ours, given, source=source)
    elif family.model_class is IMAGE.model_class:
        ours = with_usual_scale(ours)
    stored = {name: files.tensors[name] for name in part.names.values()}
    source = str(files.path)
    if heads:
        part = dataclasses.replace(part, names=part.names | heads.names)
        stored |= {name: heads.files.tensors[name] for name in heads.names.values()}
        shapes |= heads.shapes
        source += f" with the heads of {heads.files.path}"
    param_dtype = _param_dtype(stored, param_dtype, source)
    ours = dataclasses.replace(ours, param_dtype=param_dtype, dtype=dtype or "float32")
    model = abstract_model(family.model_class, ours)
    try:
        # The half that is there must fit before the other half is asked for.
        absent = shapes_of_half(half, model, family) if half else {}
        found = slots(shapes | absent, model, family.layer_names(ours))
    except UserError as error:
        raise UserError(f"{source} is no whole {family.title}: {error}") from None
    incomplete = remedy(half, family, files.path) if half else None
    if incomplete and whole:
        raise UserError(incomplete)
    by_stored = {stored: found[name] for name, stored in part.names.items()}
    assumed = tuple(family.assumed(ours)) if given is None else ()  # a config.json tells it
    return OfficialModel(files, part, family, ours, model, by_stored, assumed, heads, incomplete)


def _heads(
    files: WeightFiles, family: Family, shapes: Shapes, path: Path | str | None
) -> tuple[Heads | None, Half | None]:
    """The heads at `path`, and the half of LPIPS that is missing all the same."""
    half = missing_half(family, shapes)
    if path is None:
        return None, half
    if half == "network":
        raise UserError(remedy(half, family, files.path))
    if half is None:
        raise UserError(
            f"{path} cannot be added: LPIPS' heads go with torchvision's VGG16 or AlexNet, and "
            f"{files.path} holds another model, whole without them ({family.title})."
        )
    return open_heads(path), None


def _given_config(
    files: WeightFiles, part: ModelTensors, config: Path | None
) -> tuple[dict[str, Any] | None, str]:
    """The config.json that was named, or the one beside the weights, which speaks of the
    autoencoder where the file holds one."""
    if config is None:
        prefixes = [
            p for p, (kind, _) in list_parts(files.tensors).items() if kind == AUTOENCODER.kind
        ]
        speaks_of_it = not prefixes or part.prefix in prefixes
        return (files.config if speaks_of_it else None), f"{files.files[0].parent}/config.json"
    return read_json(config), str(config)


def _refuse_scales(files: WeightFiles, part: ModelTensors) -> None:
    """Weights of 8 bits may be meant times factors, of which every program has its own kind."""
    eight_bits = any(files.tensors[name].dtype.name in _EIGHT_BITS for name in part.names.values())
    scales = [stored for name, stored in part.names.items() if _SCALE.search(name)]
    if eight_bits and scales:
        raise UserError(
            f"{files.path} holds 8-bit weights with factors of their own ({scales[0]}, ..), which "
            "are not read; accepted are weights that stand for themselves."
        )


def _param_dtype(tensors: dict[str, TensorInfo], wanted: DType | None, source: str) -> DType:
    """The type asked for, or the narrowest that holds all tensors exactly; of 8-bit ones float32,
    in which they are no different from others."""
    stored = {}
    for name, tensor in tensors.items():
        stored.setdefault(tensor.dtype.name, name)
    known = (*_FLOATS, *_EIGHT_BITS)
    strange = {t: n for t, n in stored.items() if t not in (*known, "float64")}
    if strange:
        listed = ", ".join(f"{name} is {dtype}" for dtype, name in strange.items())
        raise UserError(f"{source}: weights must be {', '.join(known)}; {listed}.")
    if wanted:
        return wanted
    if "float64" in stored:
        raise UserError(
            f"{source} holds float64 weights ({stored['float64']}, ..), which are not kept; "
            "ask for dtype float32."
        )
    if not stored or set(stored) & set(_EIGHT_BITS):
        return "float32"
    return str(jnp.result_type(*stored))
