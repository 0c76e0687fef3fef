import jax
import jax.numpy as jnp
import numpy as np
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


def test_attention_in_pieces_equals_whole_with_gradients(monkeypatch):
    """The same numbers in the same order of summation: equal up to the rounding of a few
    operations."""
    query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 50, 8))

    def run(q, k, v):
        return jnp.sin(blocks.attention(q, k, v)).sum()

    whole = jax.value_and_grad(run, (0, 1, 2))(query, key, value)
    monkeypatch.setattr(blocks, "ATTENTION_PIECE", 16)
    pieces = jax.value_and_grad(run, (0, 1, 2))(query, key, value)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(pieces), strict=True):
        assert jnp.abs(a - b).max() <= 1e-5 * jnp.abs(a).max()


def test_attention_in_pieces_never_builds_the_whole_score_matrix(monkeypatch):
    monkeypatch.setattr(blocks, "ATTENTION_PIECE", 16)
    x = jnp.zeros((1, 64, 8))
    program = jax.make_jaxpr(jax.grad(lambda q: blocks.attention(q, x, x).sum()))(x)
    assert "64,64" not in str(program)


def test_spatial_attention_sees_one_frame_and_temporal_attention_one_position():
    video = jax.random.normal(jax.random.key(0), (1, 3, 4, 4, 4))
    spatial = blocks.SpatialAttention(4, style=style(), rngs=nnx.Rngs(0))
    grads = jax.grad(lambda v: spatial(v)[0, 1, 0, 0].sum())(video)
    assert jnp.any(grads[0, 1] != 0, axis=-1).all()
    assert not grads[0, jnp.array([0, 2])].any()
    both = blocks.SpatialTemporalAttention(4, style=style(), rngs=nnx.Rngs(0))
    grads = jax.grad(lambda v: both(v)[0, 1, 0, 0].sum())(video)
    assert grads[0, 0].any() and grads[0, 2].any()
