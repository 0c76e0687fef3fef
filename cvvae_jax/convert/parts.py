"""Which tensors of a file are the model's: training states and pipelines hold others beside it,
and put a prefix before its names."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable

from cvvae_jax.config import ConfigError
from cvvae_jax.convert.names import modern_name

AUTOENCODER = "autoencoder"
IMAGENET = "VGG16 or AlexNet"
_PREFIX = r"((?:[\w-]+\.)*?)"
_PATTERNS = {
    AUTOENCODER: re.compile(
        _PREFIX
        + r"(?:(?:encoder|decoder)\.(?:conv_in|conv_out|conv_norm_out|norm_out|mid|mid_block"
        r"|down|up|down_blocks|up_blocks|time_conv_out)|(?:post_)?quant_conv)\."
    ),
    "discriminator": re.compile(_PREFIX + r"main\.\d+\."),
    "LPIPS": re.compile(_PREFIX + r"(?:net\.slice\d|lin\d)\."),
    IMAGENET: re.compile(_PREFIX + r"features\.\d+\.(?:weight|bias)$"),
    "Inception-I3D": re.compile(
        _PREFIX + r"(?:Conv3d_\w+|Mixed_\w+\.b\d[ab]?|logits)\.(?:conv3d|bn)\."
    ),
    "InceptionV3": re.compile(
        _PREFIX + r"(?:Conv2d_\w+|Mixed_\w+\.branch\w+|AuxLogits\.conv\d)\.(?:conv|bn)\."
    ),
}
# Beside a model without a prefix: CV-VAE's losses and frozen image VAE, averages of parameters, and
# the constants of LPIPS, which are the same in every file, and its heads under a second name.
_COMPANIONS = ("loss.", "model_ema.", "constraint_", "scaling_layer.", "lins.")
# What only classifies images: LPIPS ends before it.
_IMAGENET_COMPANIONS = ("classifier.",)
# How often a batch norm has seen a batch in training; old files don't hold it.
_COUNTER = ".num_batches_tracked"


@dataclasses.dataclass(frozen=True)
class Part:
    """One model among the tensors of a file."""

    prefix: str
    """What stands before its names."""

    names: dict[str, str]
    """Its tensors: the name without prefix, in today's spelling, and the name in the file."""

    left_alone: tuple[str, ...]
    """The file's other tensors."""


def list_parts(names: Iterable[str]) -> dict[str, tuple[str, int]]:
    """The models in a file by their prefix: what each is, and how many tensors show it."""
    found = Counter()
    for name in names:
        for kind, pattern in _PATTERNS.items():
            if match := pattern.match(name):
                found[match[1], kind] += 1
                break
    return {prefix: (kind, count) for (prefix, kind), count in sorted(found.items())}


def select(names: Iterable[str], *, prefix: str | None, source: str) -> Part:
    """The tensors of one model.

    Args:
        names: of all tensors in the file.
        prefix: what stands before the model's names; None: the only autoencoder, or the only model.
        source: what to call the file in messages.

    Raises:
        ConfigError: no model has this prefix, or there are several and none is chosen.
    """
    names = list(names)
    parts = list_parts(names)
    if prefix is None:
        prefix = _only(parts, source)
    elif prefix not in parts:
        raise ConfigError(
            f"{source} has no model with the prefix {prefix!r}; it has: {_listed(parts)}."
        )
    kind, _ = parts.get(prefix, (None, 0))
    companions = _COMPANIONS + (_IMAGENET_COMPANIONS if kind == IMAGENET else ())
    return _cut(names, prefix, companions, source)


def _only(parts: dict[str, tuple[str, int]], source: str) -> str:
    candidates = [prefix for prefix, (kind, _) in parts.items() if kind == AUTOENCODER]
    candidates = candidates or list(parts)
    if len(candidates) > 1:
        raise ConfigError(
            f"{source} holds several models; choose one by its prefix: {_listed(parts)}."
        )
    return candidates[0] if candidates else ""


def _cut(names: list[str], prefix: str, companions: tuple[str, ...], source: str) -> Part:
    own, left_alone = {}, []
    for name in names:
        bare = name.removeprefix(prefix)
        beside = bare.startswith(companions) or bare.endswith(_COUNTER)
        if not name.startswith(prefix) or beside:
            left_alone.append(name)
            continue
        if (modern := modern_name(bare)) in own:
            raise ConfigError(f"{source} holds both {own[modern]} and {name}, which are the same.")
        own[modern] = name
    return Part(prefix, own, tuple(left_alone))


def _listed(parts: dict[str, tuple[str, int]]) -> str:
    return (
        ", ".join(
            f"{prefix!r} ({kind}, {count} tensors)" for prefix, (kind, count) in parts.items()
        )
        or "none that is known"
    )
