"""LPIPS in two public files: torchvision's VGG16 or AlexNet, and the heads that the authors of
LPIPS publish."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from cvvae_jax.convert import families
from cvvae_jax.convert.card import stated_license
from cvvae_jax.convert.convert import official_shapes
from cvvae_jax.convert.families import Family
from cvvae_jax.convert.files import WeightFiles, open_weights
from cvvae_jax.convert.parts import select
from cvvae_jax.convert.sizes import Shapes
from cvvae_jax.errors import UserError

Half = Literal["heads", "network"]

_HEAD = re.compile(r"lin\d+\.")
_WHERE_HEADS_ARE = "lpips/weights/v0.1/{} of the Python package lpips"
# The network, torchvision's file with it, and the file with its heads.
_FILES = {
    families.PERCEPTUAL.model_class: ("VGG16", "vgg16-397923af.pth", "vgg.pth"),
    families.PERCEPTUAL_ALEX.model_class: ("AlexNet", "alexnet-owt-7be5be79.pth", "alex.pth"),
}


@dataclasses.dataclass(frozen=True)
class Heads:
    """The heads of LPIPS in a file of their own, not read yet."""

    files: WeightFiles
    names: dict[str, str]
    """The name without prefix, and the name in the file."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The heads' shapes by their names without prefix."""
        return {name: self.files.tensors[stored].shape for name, stored in self.names.items()}

    @property
    def license(self) -> dict[str, str]:
        """As the file, or a model card beside it, states it."""
        return stated_license(self.files.files[0].parent, self.files.metadata)


def open_heads(path: Path | str) -> Heads:
    """The heads in a weight file; only headers are read, and shapes are not checked.

    Raises:
        UserError: the file can't be read, or holds anything but heads.
    """
    files = open_weights(path)
    names = select(files.tensors, prefix=None, source=str(files.path)).names
    heads = [name for name in names if _HEAD.match(name)]
    files.require_readable(names.values())
    if not heads:
        raise UserError(
            f"{files.path} holds no heads of LPIPS; accepted is a file with lin0.model.1.weight to "
            f"lin4.model.1.weight, such as {_WHERE_HEADS_ARE.format('vgg.pth')}."
        )
    if len(heads) < len(names):
        others = [name for name in names if name not in heads]
        raise UserError(
            f"{files.path} holds more than the heads of LPIPS ({others[0]}, ..); accepted as heads "
            "is a file without a network, and a whole LPIPS is read by itself."
        )
    return Heads(files, names)


def missing_half(family: Family, shapes: Shapes) -> Half | None:
    """The half of LPIPS of which a file holds no tensor at all; None for other models."""
    if family.model_class not in _FILES:
        return None
    heads = sum(bool(_HEAD.match(name)) for name in shapes)
    if not heads:
        return "heads"
    return "network" if heads == len(shapes) else None


def shapes_of_half(half: Half, model: Any, family: Family) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a half of LPIPS.

    Args:
        half: which one.
        model: our model, which may be abstract.
        family: whose names the tensors have.
    """
    named = dict(official_shapes(model, family.rows(model.config)).values())
    return {name: x for name, x in named.items() if bool(_HEAD.match(name)) == (half == "heads")}


def remedy(half: Half, family: Family, path: Path) -> str:
    """What a file of this family without this half of LPIPS is, and what makes it whole."""
    network, network_file, heads_file = _FILES[family.model_class]
    if half == "heads":
        return (
            f"{path} is {network}, LPIPS' network without its heads: add --lpips-heads FILE (in "
            f"Python lpips_heads=FILE), where FILE is {_WHERE_HEADS_ARE.format(heads_file)}."
        )
    return (
        f"{path} holds only the heads of LPIPS, not its network: name torchvision's "
        f"{network_file} instead, and this file as its heads, --lpips-heads {path} (in Python "
        "lpips_heads)."
    )
