"""The model card that goes with every model that is written."""

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any, Literal

from cvvae_jax import paths
from cvvae_jax.convert.families import Family

_OFFICIAL_IMPORTS = {
    "CVVAEModel": "from models.modeling_vae import CVVAEModel  # github.com/AILab-CVC/CV-VAE",
    "CVVAESD3Model": "from models.modeling_vae import CVVAESD3Model  # github.com/AILab-CVC/CV-VAE",
    "AutoencoderKL": "from diffusers import AutoencoderKL",
    "AutoencoderKLTemporalDecoder": "from diffusers import AutoencoderKLTemporalDecoder",
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a model comes from, for its card."""

    name: str
    """Name of the file or folder that was converted."""

    sha256: str
    """Of its weights, from `sha256`."""

    license: str | None
    """As the source states it."""

    weights: str
    """Which weights these are, in words."""

    to: Literal["jax", "torch"]
    """What they were converted to."""


def sha256(files: tuple[Path, ...]) -> str:
    """SHA-256 of a file, the one that `sha256sum` and model hubs show; of several files, that of
    their names and hashes."""
    hashes = []
    for path in files:
        with path.open("rb") as file:
            hashes.append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
    if len(hashes) == 1:
        return hashes[0][1]
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes))
    return hashlib.sha256(listing.encode()).hexdigest()


def stated_license(folder: Path, metadata: dict[str, str]) -> str | None:
    """The license that the weights' own metadata or the model card beside them, or one folder above
    (as in the official repository), states."""
    for key in ("license", "modelspec.license"):
        if key in metadata:
            return metadata[key]
    for card in (folder / "README.md", folder.parent / "README.md"):
        if card.is_file():
            head = re.match(r"---\n(.*?)\n---", card.read_text(errors="replace"), re.DOTALL)
            if head and (stated := re.search(r"^license: *(\S+)", head[1], re.MULTILINE)):
                return stated[1]
    return None


def model_card(origin: Origin, model: Any, family: Family | None, *, name: str) -> str:
    """The card as Markdown, with the head that model hubs read.

    Args:
        origin: where the weights come from.
        model: the model that is written.
        family: the official family that can hold it, None without one.
        name: of the folder that is written.
    """
    license = origin.license or "not stated by the source"
    head = f"license: {origin.license}\n" if origin.license else ""
    return f"""---
{head}tags:
- video
- vae
- cvvae_jax
---
# {name}

| | |
|---|---|
| model | {type(model).__name__}, {paths.count(model):,} parameters in {model.config.param_dtype} |
| family | {family.title if family else "none of the official ones"} |
| converted from | {origin.name} ({origin.weights}) |
| SHA-256 of the source | {origin.sha256} |
| license | {license} |

In JAX, with cvvae_jax:

```python
import cvvae_jax
model = cvvae_jax.load("{name}")
```

In PyTorch: {_in_pytorch(family, name, origin.to)}
"""


def _in_pytorch(family: Family | None, name: str, to: str) -> str:
    if family is None:
        return "no official class computes the same, so the model can't be exported."
    statement = _OFFICIAL_IMPORTS.get(family.official_class)
    if statement is None:
        return (
            f"the tensors have the names of `{family.official_class}` in CV-VAE's training code "
            "(`load_state_dict`)."
        )
    folder = name if to == "torch" else f"{name}-torch"
    first = "" if to == "torch" else f"after `python -m cvvae_jax convert {name} {folder}`,"
    return f"""{first}

```python
{statement}
model = {family.official_class}.from_pretrained("{folder}")
```"""
