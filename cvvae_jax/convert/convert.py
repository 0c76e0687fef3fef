"""Official tensors into our models."""

from collections.abc import Mapping
from typing import TypeVar

import jax.numpy as jnp
import numpy as np

from cvvae_jax import paths
from cvvae_jax.config import ConfigError
from cvvae_jax.convert import tensors
from cvvae_jax.convert.names import Row, our_path

Model = TypeVar("Model")


def from_official(target: Model, official: Mapping[str, np.ndarray], rows: list[Row]) -> Model:
    """The model `target` (real, or abstract from `jax.eval_shape`) filled with official tensors.

    Parameters take the target's type. Names are translated by `rows`, a table of `convert.names`.

    Raises:
        ConfigError: tensors that no parameter takes, parameters that no tensor fills, or shapes
            that differ;
            the message lists all of them.
    """
    wanted = paths.flatten(target)
    found, problems = {}, []
    for name in official:
        match our_path(rows, name):
            case (path, row) if path in wanted:
                array = tensors.to_ours(np.asarray(official[name]), unit_axes=row.unit_axes)
                if array.shape != wanted[path].shape:
                    problems.append(
                        f"{name} has shape {array.shape}, the model's {path} {wanted[path].shape}"
                    )
                found[path] = array
            case _:
                problems.append(f"{name} has no place in the model")
    problems += [f"{path} is in no tensor" for path in sorted(set(wanted) - set(found))]
    if problems:
        raise ConfigError(f"the weights don't fit the model: {'; '.join(problems)}.")
    leaves = {path: jnp.asarray(array, wanted[path].dtype) for path, array in found.items()}
    return paths.unflatten(target, leaves)
