"""What Inception networks are built of: a convolution, a batch norm with fixed statistics, ReLU."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from cvvae_jax.models.conv import WindowConv, WindowPadding

_EPS = 1e-3


class FixedBatchNorm(nnx.Module):
    """Normalization of every channel by statistics of the training set, which are parameters like
    any other; in float32."""

    def __init__(self, channels: int, *, param_dtype: jnp.dtype):
        self.scale, self.running_var = (
            nnx.Param(jnp.ones((channels,), param_dtype)) for _ in range(2)
        )
        self.bias, self.running_mean = (
            nnx.Param(jnp.zeros((channels,), param_dtype)) for _ in range(2)
        )

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        scale, bias, mean, var = (
            p[...].astype(jnp.float32).reshape(1, 1, 1, 1, -1)
            for p in (self.scale, self.bias, self.running_mean, self.running_var)
        )
        return (video.astype(jnp.float32) - mean) * (scale * lax.rsqrt(var + _EPS)) + bias


class NormedConv(nnx.Module):
    """A convolution without bias, a `FixedBatchNorm`, ReLU; see `WindowConv` for its window."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        window: tuple[int, ...],
        strides: tuple[int, ...] | None = None,
        padding: WindowPadding,
        dtype: jnp.dtype,
        param_dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.conv = WindowConv(
            inputs,
            outputs,
            window=window,
            strides=strides,
            padding=padding,
            use_bias=False,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.norm = FixedBatchNorm(outputs, param_dtype=param_dtype)

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 d"]:
        return jax.nn.relu(self.norm(self.conv(video)))
