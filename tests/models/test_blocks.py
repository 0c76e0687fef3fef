import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvvae_jax.models import blocks
from cvvae_jax.models.conv import ConvKind


def style(groups: int = 2) -> blocks.Style:
    float32 = jnp.dtype("float32")
    kind = ConvKind("centered")
    return blocks.Style(kind, kind, True, groups, 1e-6, float32, float32)


def test_group_norm_is_exact_far_from_zero():
    """A mean of 2000 leaves float32 about 1e-4 of the spread; differences of squares would leave
    nothing."""
    x = 2000 + np.random.default_rng(0).standard_normal((1, 2, 8, 8, 4))
    grouped = x.reshape(1, 2, 8, 8, 2, 2)
    axes = (1, 2, 3, 5)
    expected = (grouped - grouped.mean(axes, keepdims=True)) / grouped.std(axes, keepdims=True)
    ours = blocks.GroupNorm(4, style=style())(jnp.asarray(x, jnp.float32))
    assert np.abs(ours - expected.reshape(x.shape)).max() < 1e-3


# Pieces of one frame; groups of two frames and one that is left over.
LIMITS = [{"ATTENTION_PIECE": 16}, {"SCORE_BUDGET": 2 * 50 * 50}]


@pytest.mark.parametrize("limit", LIMITS)
def test_attention_in_parts_equals_whole_with_gradients(monkeypatch, limit):
    """The same numbers in the same order of summation: equal up to the rounding of a few
    operations."""
    query, key, value = jax.random.normal(jax.random.key(0), (3, 3, 50, 8))

    def run(q, k, v):
        return jnp.sin(blocks.attention(q, k, v)).sum()

    whole = jax.value_and_grad(run, (0, 1, 2))(query, key, value)
    set_limit(monkeypatch, limit)
    parts = jax.value_and_grad(run, (0, 1, 2))(query, key, value)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        assert jnp.abs(a - b).max() <= 1e-5 * jnp.abs(a).max()


@pytest.mark.parametrize(
    ("shape", "limit", "scores"),
    [
        ((2, 64, 4), {"ATTENTION_PIECE": 16}, 16 * 64),
        ((1, 17, 4), {"ATTENTION_PIECE": 16}, 9 * 17),  # even pieces, not 16 and 1
        ((7, 32, 4), {"SCORE_BUDGET": 2100}, 2 * 32 * 32),
        ((2, 32, 4), {"SCORE_BUDGET": 100}, 32 * 32),  # a frame alone is the least
    ],
)
def test_attention_never_builds_more_scores_than_its_limits_allow(
    monkeypatch, shape, limit, scores
):
    set_limit(monkeypatch, limit)
    x = jnp.zeros(shape)
    program = jax.make_jaxpr(jax.grad(lambda q: blocks.attention(q, x, x).sum()))(x)
    arrays = re.findall(r"f32\[([\d,]+)\]", str(program))
    assert max(math.prod(map(int, array.split(","))) for array in arrays) == scores


def set_limit(monkeypatch, limit: dict[str, int]) -> None:
    for name, value in limit.items():
        monkeypatch.setattr(blocks, name, value)


def test_spatial_attention_sees_one_frame_and_temporal_attention_one_position():
    video = jax.random.normal(jax.random.key(0), (1, 3, 4, 4, 4))
    spatial = blocks.SpatialAttention(4, style=style(), rngs=nnx.Rngs(0))
    grads = jax.grad(lambda v: spatial(v)[0, 1, 0, 0].sum())(video)
    assert jnp.any(grads[0, 1] != 0, axis=-1).all()
    assert not grads[0, jnp.array([0, 2])].any()
    both = blocks.SpatialTemporalAttention(4, style=style(), rngs=nnx.Rngs(0))
    grads = jax.grad(lambda v: both(v)[0, 1, 0, 0].sum())(video)
    assert grads[0, 0].any() and grads[0, 2].any()


def test_frames_that_devices_share_are_attended_to_where_they_are(monkeypatch):
    """In groups, a batch would be gathered from all devices."""
    monkeypatch.setattr(blocks, "SCORE_BUDGET", 2 * 16 * 16)  # a device has two frames
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.P("data"))
    tokens = jax.ShapeDtypeStruct((16, 16, 4), jnp.float32, sharding=split)
    with jax.set_mesh(mesh):
        program = jax.jit(blocks.attention).lower(tokens, tokens, tokens).compile().as_text()
    assert "num_partitions=8" in program
    assert "all-gather" not in program and "while" not in program
