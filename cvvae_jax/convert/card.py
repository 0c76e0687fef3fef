"""The model card that goes with every model that is written."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from cvvae_jax import parameter_paths
from cvvae_jax.config.latent_scale import in_words
from cvvae_jax.convert.families import Family
from cvvae_jax.convert.files.source import readable
from cvvae_jax.resumable.files import file_sha256

# Licenses of files that state none themselves, by SHA-256, as their publishers' projects word them.
_PUBLISHED = {
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0": (
        "not stated for these weights; torchvision, which publishes them, is BSD-3-Clause and says "
        "that pre-trained models may have terms of their own"
    ),
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868": (
        "BSD-2-Clause, the license of the Python package lpips, which this file is part of"
    ),
}


@dataclasses.dataclass(frozen=True)
class HeadsOrigin:
    """The origin of LPIPS' heads, where the file with its network lacks them; see `Origin`."""

    name: str
    sha256: str
    license: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Origin:
    """The origin of a model, as its card states it."""

    name: str
    """Name of the file or folder that was converted."""

    sha256: str
    """Hash of its weights, from `sha256`."""

    license: dict[str, str]
    """The license that the source states, from `stated_license`."""

    weights: str
    """Which weights these are, in words."""

    to: Literal["jax", "torch"]
    """The format that the weights were converted to."""

    heads: HeadsOrigin | None = None
    """The second source of LPIPS, where there are two."""

    @property
    def licenses(self) -> str:
        """The licenses of all sources, in words."""
        network = _license_of(self)
        return f"network: {network}; heads: {_license_of(self.heads)}" if self.heads else network


def sha256(files: tuple[Path, ...]) -> str:
    """SHA-256 of a file, the one that `sha256sum` and model hubs show; of several files, that of
    their names and hashes."""
    hashes = [(path.name, file_sha256(path)) for path in files]
    if len(hashes) == 1:
        return hashes[0][1]
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes))
    return hashlib.sha256(listing.encode()).hexdigest()


def stated_license(folder: Path, metadata: dict[str, str]) -> dict[str, str]:
    """The license that the weights' own metadata or the model card beside them state, by the names
    that model hubs use: `license`, and where that is `other`, `license_name` and `license_link`.

    Without a card beside them, the one a folder above counts, as in the official repository.

    Raises:
        UserError: the card can't be read.
    """
    for key in ("license", "modelspec.license"):
        if metadata.get(key, "").strip():
            return {"license": " ".join(metadata[key].split())}
    for card in (folder / "README.md", folder.parent / "README.md"):
        with readable(card):
            if card.is_file():
                text = card.read_text("utf-8-sig", errors="replace")
                head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
                stated = r"^(license(?:_name|_link)?): *(\S.*?) *$"
                return dict(re.findall(stated, head[1], re.MULTILINE)) if head else {}
    return {}


def license_name(stated: dict[str, str]) -> str:
    """A stated license in a few words."""
    if not stated:
        return "not stated"
    return ", ".join(value.strip("\"'") for value in stated.values())


def _license_of(origin: Origin | HeadsOrigin) -> str:
    """The license that the source states, else that which a published file is known to have."""
    if origin.license:
        return license_name(origin.license)
    return _PUBLISHED.get(origin.sha256, license_name({}))


def model_card(origin: Origin, model: Any, family: Family | None, *, name: str) -> str:
    """The card as Markdown, with the head that model hubs read.

    Args:
        origin: where the weights come from.
        model: the model that is written.
        family: the official family that can hold it, None without one.
        name: of the folder that is written.
    """
    license = origin.licenses.replace("|", "\\|")
    # One license can't stand for two sources that state different ones.
    one = origin.heads is None or origin.heads.license == origin.license
    stated = origin.license if one else {}
    head = "".join(f"{key}: {_yaml(value)}\n" for key, value in stated.items())
    size = parameter_paths.count(model)
    return f"""---
{head}tags:
- video
- vae
- cvvae_jax
---
# {name}

| | |
|---|---|
| model | {type(model).__name__}, {size:,} parameters in {model.config.param_dtype} |
| family | {family.title if family else "none of the official ones"} |
{_latents_row(model.config)}| converted from | {origin.name} ({origin.weights}) |
| SHA-256 of the source | {origin.sha256} |
{_heads_rows(origin.heads)}| license | {license} |

In JAX, with cvvae_jax:

```python
import cvvae_jax
model = cvvae_jax.load("{name}")
```

{_in_pytorch(family, name, origin.to)}
"""


def _latents_row(config: Any) -> str:
    if not hasattr(config, "scaling_factor"):
        return ""
    return f"| latents as diffusion models see them | {in_words(config)} |\n"


def _heads_rows(heads: HeadsOrigin | None) -> str:
    if heads is None:
        return ""
    return f"| heads from | {heads.name} |\n| SHA-256 of the heads | {heads.sha256} |\n"


def _yaml(value: str) -> str:
    """A value as YAML takes it: plain where that is safe, else in quotes."""
    plain = re.fullmatch(r"[\w./:+-]+(?<!:)", value) or value[0] in "\"'"
    return value if plain else json.dumps(value)


def _in_pytorch(family: Family | None, name: str, to: str) -> str:
    if family is None:
        return "No official PyTorch class computes the same, so the model can't be exported."
    folder = name if to == "torch" else f"{name}-torch"
    first = f"after `python -m cvvae_jax convert {name} {folder}`" if to == "jax" else "as it is"
    if family.imported_by is None:
        return (
            f"In PyTorch, {first}: the tensors have the names of `{family.official_class}` in "
            f"{family.defined_in} (`load_state_dict`)."
        )
    return f"""In PyTorch, {first}:

```python
{family.imported_by}
model = {family.official_class}.from_pretrained("{folder}")
```"""
