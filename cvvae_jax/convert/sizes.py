"""Sizes of networks, read from the names and shapes of their tensors."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from cvvae_jax.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name."""

_NORMED = re.compile(
    r"(encoder/down|decoder/up)_blocks/(\d+)/resnets/\d+/(?:spatial_res_block/)?"
    r"(?:conv1/bias|norm2/scale|norm2/bias|conv2/bias)"
)
# Digits of the numbers of levels, blocks and layers; what has more is named as unexpected.
_DIGITS = 2


def sizes_of(ours: Shapes, *, groups: int, source: str) -> dict[str, Any]:
    """Widths, depth and latent channels, from the shapes of official tensors by our paths.

    Raises:
        UserError: they are no whole autoencoder.
    """
    levels, blocks = levels_and_blocks(ours)
    widths: list[list[int]] = [[] for _ in range(levels)]
    for path, shape in ours.items():
        match = _NORMED.fullmatch(path) if len(shape) == 1 else None
        if match and len(match[2]) <= _DIGITS and int(match[2]) < levels:
            level = int(match[2])
            widths[level if match[1] == "encoder/down" else levels - 1 - level].append(shape[0])
    channels = list(map(most, widths))
    latents = most(_latent_channels(ours))
    if not levels or not blocks or not latents or not all(channels):
        raise UserError(f"{source} holds no whole autoencoder: its levels can't be made out.")
    return {
        "block_channels": tuple(channels),
        "blocks_per_level": blocks,
        "latent_channels": latents,
        "norm_groups": groups,
    }


def _latent_channels(ours: Shapes) -> Iterable[int]:
    for path, shape in ours.items():
        match path, shape:
            case (
                ("encoder/conv_out/kernel" | "encoder/conv_out/bias" | "quant_conv/bias"),
                (n, *_),
            ):
                yield n // 2
            case "decoder/conv_in/kernel", (_, n, *_):
                yield n
            case "post_quant_conv/bias", (n, *_):
                yield n


def levels_and_blocks(ours: Iterable[str]) -> tuple[int, int]:
    """Levels of an autoencoder and blocks of each level of its encoder, by our paths."""
    paths = list(ours)
    levels = 1 + max(numbers(paths, r"encoder/down_blocks/(\d+)/.*"), default=-1)
    blocks = 1 + max(numbers(paths, r"encoder/down_blocks/\d+/resnets/(\d+)/.*"), default=-1)
    return levels, blocks


def require_depth(config: Any, stored: Iterable[str], *, source: Any) -> None:
    """Refuses a configuration of more than twice the levels, blocks or layers that are stored,
    before a network of that depth is set up, which may take long. What differs less is listed, name
    by name, once it is.

    Args:
        config: of a network of ours.
        stored: the flat paths of its parameters.
        source: where both lie, for messages.

    Raises:
        UserError: it is that deep.
    """
    paths = list(stored)
    levels, blocks = levels_and_blocks(paths)
    layers = 1 + max(numbers(paths, r"blocks/(\d+)/.*"), default=-1)
    for name, found in (
        ("block_channels", levels),
        ("blocks_per_level", blocks),
        ("layers", layers),
    ):
        value = getattr(config, name, 0)
        wanted = value if isinstance(value, int) else len(value)
        if wanted > 2 * found:
            raise UserError(
                f"{source}: the weights don't fit their config: {name} is {value}, but the "
                f"parameters have {found}."
            )


def levels_of(shapes: Shapes) -> int:
    """Levels of an autoencoder, by latent-diffusion names."""
    return 1 + max(numbers(shapes, r"(?:en|de)coder\.(?:down|up)\.(\d+)\..*"), default=0)


def numbers(names: Iterable[str], pattern: str) -> list[int]:
    """What the group of a pattern matches in the names that it fits."""
    matches = map(re.compile(pattern).fullmatch, names)
    return [int(match[1]) for match in matches if match and len(match[1]) <= _DIGITS]


def most(values: Iterable[int]) -> int:
    """The value seen most often, 0 where there is none."""
    common = Counter(values).most_common(1)
    return common[0][0] if common else 0


def discriminator_sizes(shapes: Shapes) -> dict[str, Any]:
    """Width, depth and kind of convolutions of a discriminator, from its official tensors."""
    layers = (max(numbers(shapes, r"main\.(\d+)\..*"), default=0) - 2) // 3
    ranks = (len(shape) for name, shape in shapes.items() if name.endswith("conv2.weight"))
    base = most(shapes[n][0] for n in ("main.0.weight", "main.0.bias") if shapes.get(n))
    return {"base_channels": base or 64, "layers": max(layers, 2), "half_3d": most(ranks) == 4}


def is_alexnet(shapes: Shapes) -> bool:
    """Whether the network of LPIPS is AlexNet rather than VGG16: by the positions of layers that
    only one of them has, and by the heads' inputs where they differ."""
    positions = numbers(shapes, r"(?:features|net\.slice\d)\.(\d+)\..*")
    alexnet = sum(position in (3, 6, 8) for position in positions)
    vgg16 = sum(position in (2, 5, 7, *range(12, 30)) for position in positions)
    for name, widths in {"lin1": (192, 128), "lin2": (384, 256), "lin3": (256, 512)}.items():
        inputs = shapes.get(f"{name}.model.1.weight", (0, 0))[1:2]
        alexnet, vgg16 = alexnet + (inputs == widths[:1]), vgg16 + (inputs == widths[1:])
    return alexnet > vgg16
