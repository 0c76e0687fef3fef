"""The encoder of a data set of latents: a codec's posterior, or samples of it."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Key, UInt8, UInt32

from cvvae_jax.codec.codec import Codec
from cvvae_jax.latents.clips import Limits


class LatentsEncoder:
    """What `data.latents.run` asks of a model."""

    def __init__(self, codec: Codec, *, sample: bool, seed: int):
        """Set up an encoder.

        Args:
            codec: of the model.
            sample: give `latents` drawn from the posterior; else its `mean` and `logvar`.
            seed: of the draw.
        """
        self._codec, self._sample, self._key = codec, sample, jax.random.key(seed)
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
        return {"latents": posterior.sample(_clip_keys(self._key, numbers))}


@jax.jit
def _clip_keys(key: Key[Array, ""], numbers: UInt32[Array | np.ndarray, "b 2"]) -> Key[Array, " b"]:
    """A key for every row: a number of a file, and that of a clip in it."""
    fold = jax.random.fold_in
    return jax.vmap(lambda row: fold(fold(key, row[0]), row[1]))(numbers)
