"""The encoder of a data set of latents: a codec's posterior, or samples of it."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from cvvae_jax.codec.codec import Codec
from cvvae_jax.data.latents.clips import Limits


class LatentsEncoder:
    """What `data.latents.run` asks of a model."""

    def __init__(self, codec: Codec, *, sample: bool, seed: int):
        """Set up an encoder.

        Args:
            codec: of the model.
            sample: give `latents` drawn from the posterior; else its `mean` and `logvar`.
            seed: of the draw.
        """
        self._codec, self._sample, self._seed = codec, sample, seed
        self.limits = Limits(
            temporal_compression=codec.vae.temporal_compression,
            smallest=codec.vae.config.spatial_compression,
        )

    def __call__(
        self, video: UInt8[np.ndarray, "b t h w 3"], keys: Sequence[tuple[int, int]]
    ) -> dict[str, Float[Array, "b n y x z"]]:
        """Arrays to store, float32, still in the making on the device.

        Args:
            video: clips of one shape.
            keys: the numbers of each clip's file and of the clip in it; a draw depends on them and
                on the seed alone.
        """
        posterior = self._codec.posterior(video)
        if not self._sample:
            return {"mean": posterior.mean, "logvar": posterior.logvar}
        numbers = np.asarray(keys, np.uint32)
        return {"latents": posterior.sample(_clip_keys(self._seed, numbers))}


@jax.jit
def _clip_keys(seed: int, numbers: Array) -> Array:
    """A key for every row of uint32 (b, 2)."""
    key = jax.random.key(seed)
    fold = jax.random.fold_in
    return jax.vmap(lambda row: fold(fold(key, row[0]), row[1]))(numbers)
