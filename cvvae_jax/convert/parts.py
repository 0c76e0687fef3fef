"""Finds the tensors of one model in a file: training states and pipelines hold further tensors, and
put a prefix before the model's names."""

import dataclasses
import difflib
import functools
import re
from collections import Counter
from collections.abc import Iterable

from cvvae_jax.convert.families import AUTOENCODER, FAMILIES, IMAGENET
from cvvae_jax.convert.names import modern_name, without_wrappers
from cvvae_jax.errors import UserError

_PREFIX = r"((?:[\w-]+\.)*?)"
_PATTERNS = {
    family.signature.kind: re.compile(_PREFIX + family.signature.pattern) for family in FAMILIES
}
# What an autoencoder consists of.
_PARTS = ("encoder", "decoder", "quant_conv", "post_quant_conv")
_LONGEST_PART = 3 * max(map(len, _PARTS))  # what is much longer resembles none
_MOST_TENSORS = 10_000  # ten times those of the largest known model
# Beside a model without a prefix: CV-VAE's losses and frozen image VAE, averages of parameters, and
# the constants of LPIPS, which are the same in every file, and its heads under a second name.
_COMPANIONS = ("loss.", "model_ema.", "constraint_", "scaling_layer.", "lins.")
# What only classifies images: LPIPS ends before it.
_IMAGENET_COMPANIONS = ("classifier.",)
# How often a batch norm has seen a batch in training; old files don't hold it.
_COUNTER = ".num_batches_tracked"


@dataclasses.dataclass(frozen=True)
class ModelTensors:
    """One model among the tensors of a file."""

    prefixes: tuple[str, ...]
    """The prefixes of its names; several only where they differ by wrappers of modules."""

    names: dict[str, str]
    """The model's tensors: the name without prefix and wrappers, in today's spelling, and the name
    in the file."""

    left_alone: tuple[str, ...]
    """The file's other tensors."""

    @property
    def prefix(self) -> str:
        """The prefix of most of its tensors."""
        return self.prefixes[0]


def list_parts(names: Iterable[str]) -> dict[str, tuple[str, int]]:
    """The models in a file by their prefix: what each is, and how many tensors show it."""
    found = Counter()
    for name in names:
        unwrapped = without_wrappers(name)
        for kind, pattern in _PATTERNS.items():
            if match := pattern.match(unwrapped):
                found[_as_written(match[1], name), kind] += 1
                break
    return {prefix: (kind, count) for (prefix, kind), count in sorted(found.items())}


def _as_written(prefix: str, name: str) -> str:
    """A prefix of a name without wrappers as it stands in the name: with those before the model."""
    left, parts = prefix.count("."), []
    for part in name.split("."):
        wraps = not without_wrappers(part)
        if not left and not wraps:
            break
        left -= not wraps
        parts.append(part + ".")
    return "".join(parts)


def select(names: Iterable[str], *, prefix: str | None, source: str) -> ModelTensors:
    """The tensors of one model.

    Args:
        names: of all tensors in the file.
        prefix: what stands before the model's names; None: the only autoencoder, or the only model.
        source: what to call the file in messages.

    Raises:
        UserError: no model has this prefix, or there are several and none is chosen.
    """
    names = list(names)
    parts = list_parts(names)
    if prefix is None:
        prefixes = _only(parts, source)
    elif prefix in parts:
        prefixes = (prefix,)
    else:
        raise UserError(
            f"{source} has no model with the prefix {prefix!r}; it has: {_listed(parts)}."
        )
    kind, _ = parts.get(prefixes[0], (None, 0))
    part = _cut(names, prefixes, kind, source)
    if len(part.names) > _MOST_TENSORS:
        raise UserError(
            f"{source} holds no model that is known: {len(part.names):,} tensors are called as if "
            f"they were of one, and none has {_MOST_TENSORS:,}."
        )
    return part


def _only(parts: dict[str, tuple[str, int]], source: str) -> tuple[str, ...]:
    """The prefixes of the only model, the one of most tensors first."""
    candidates = [prefix for prefix, (kind, _) in parts.items() if kind == AUTOENCODER.kind]
    candidates = sorted(candidates or parts, key=lambda prefix: -parts[prefix][1])
    if len({without_wrappers(prefix) for prefix in candidates}) > 1:
        raise UserError(
            f"{source} holds several models; choose one by its prefix: {_listed(parts)}."
        )
    return tuple(candidates) or ("",)


def _cut(
    names: list[str], prefixes: tuple[str, ...], kind: str | None, source: str
) -> ModelTensors:
    own, left_alone = {}, []
    longest_first = sorted(prefixes, key=len, reverse=True)
    for name in names:
        prefix = next((prefix for prefix in longest_first if name.startswith(prefix)), None)
        bare = None if prefix is None else without_wrappers(name.removeprefix(prefix))
        if bare is None or _is_beside(bare, kind):
            left_alone.append(name)
            continue
        if (modern := modern_name(bare)) in own:
            raise UserError(f"{source} holds both {own[modern]} and {name}, which are the same.")
        own[modern] = name
    return ModelTensors(prefixes, own, tuple(left_alone))


def _is_beside(name: str, kind: str | None) -> bool:
    """Whether a tensor is none of a model's, by its name without the model's prefix.

    What is called nearly as a part of an autoencoder counts as its own, to be reported: a
    misspelled name must not go unnoticed.
    """
    if kind == AUTOENCODER.kind and not _resembles_a_part(name.partition(".")[0]):
        return True
    companions = _COMPANIONS + (_IMAGENET_COMPANIONS if kind == IMAGENET.kind else ())
    return name.startswith(companions) or name.endswith(_COUNTER)


@functools.lru_cache(maxsize=1000)  # names begin alike, hundreds of thousands of them at times
def _resembles_a_part(word: str) -> bool:
    return len(word) < _LONGEST_PART and bool(difflib.get_close_matches(word, _PARTS, cutoff=0.75))


def _listed(parts: dict[str, tuple[str, int]]) -> str:
    return (
        ", ".join(
            f"{prefix!r} ({kind}, {count} tensors)" for prefix, (kind, count) in parts.items()
        )
        or "none that is known"
    )
