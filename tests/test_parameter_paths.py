import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvvae_jax import parameter_paths


class Stack(nnx.Module):
    def __init__(self, layers: int):
        self.layers = nnx.List([nnx.Linear(1, 1, rngs=nnx.Rngs(i)) for i in range(layers)])


def test_names_are_flat_and_positions_zero_padded():
    names = list(parameter_paths.flatten(Stack(2)))
    assert names == ["layers/00/bias", "layers/00/kernel", "layers/01/bias", "layers/01/kernel"]


def test_more_than_ten_layers_keep_their_order():
    stack = Stack(12)
    shuffled = dict(sorted(parameter_paths.flatten(stack).items(), reverse=True))
    restored = parameter_paths.unflatten(stack, shuffled)
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(stack), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert sorted(parameter_paths.flatten(stack)) == list(parameter_paths.flatten(stack))


def test_missing_and_extra_leaves_are_all_named():
    leaves = parameter_paths.flatten(Stack(2))
    leaves["surprise"] = leaves.pop("layers/00/bias")
    leaves["another"] = jnp.zeros(1)
    with pytest.raises(ValueError, match=r"missing: \['layers/00/bias'\].*'another', 'surprise'"):
        parameter_paths.unflatten(Stack(2), leaves)


def test_count_is_the_number_of_numbers():
    assert parameter_paths.count(Stack(3)) == 6
