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
    """Numbers are summed in the same order, so that results are equal up to the rounding of a few
    operations."""
    query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 3, 50, 8))

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
        ((1, 2, 64, 4), {"ATTENTION_PIECE": 16}, 16 * 64),
        ((1, 1, 17, 4), {"ATTENTION_PIECE": 16}, 9 * 17),  # even pieces, not 16 and 1
        ((1, 7, 32, 4), {"SCORE_BUDGET": 2100}, 2 * 32 * 32),
        ((1, 2, 32, 4), {"SCORE_BUDGET": 100}, 32 * 32),  # a frame alone is the least
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


def test_attention_in_groups_of_frames_stays_on_the_devices_that_share_the_batch(monkeypatch):
    set_limit(monkeypatch, LIMITS[1])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.P("data"))
    x = jax.ShapeDtypeStruct((8, 3, 50, 8), jnp.float32, sharding=split)

    def gradient(x):
        return jax.grad(lambda q: jnp.sin(blocks.attention(q, x, x)).sum())(x)

    program = jax.jit(gradient, out_shardings=split).lower(x).compile().as_text()
    assert "num_partitions=8" in program and "while" in program
    assert not re.search("all-gather|all-to-all|collective-permute", program)


def set_limit(monkeypatch, limit: dict[str, int]) -> None:
    for name, value in limit.items():
        monkeypatch.setattr(blocks, name, value)


def test_spatial_attention_sees_one_frame_and_temporal_attention_one_position():
    video = jax.random.normal(jax.random.key(0), (1, 3, 4, 4, 4))
    spatial = blocks.SpatialAttention(4, style=style(), rngs=nnx.Rngs(0))
    grads = jax.jit(jax.grad(lambda v: spatial(v)[0, 1, 0, 0].sum()))(video)
    assert jnp.any(grads[0, 1] != 0, axis=-1).all()
    assert not grads[0, jnp.array([0, 2])].any()
    both = blocks.SpatialTemporalAttention(4, style=style(), rngs=nnx.Rngs(0))
    grads = jax.jit(jax.grad(lambda v: both(v)[0, 1, 0, 0].sum()))(video)
    assert grads[0, 0].any() and grads[0, 2].any()
