"""An encoder without a network, and the folders that it fills, for the tests of `latents`."""

import numpy as np

from cvvae_jax.data.latents.clips import Limits
from cvvae_jax.data.latents.options import LatentsConfig, Share
from cvvae_jax.data.latents.run import Model, write_latents


class PlainEncoder:
    """Every fourth frame and eighth pixel in place of latents of two channels."""

    limits = Limits(temporal_compression=4, smallest=8)

    def __init__(self, *, sample=False, fails_at=None, error=KeyboardInterrupt):
        self.calls, self._sample = 0, sample
        self._fails_at, self._error = fails_at, error

    def __call__(self, video, keys):
        self.calls += 1
        if self.calls == self._fails_at:
            raise self._error
        frames = np.pad(video, ((0, 0), (0, 3), (0, 0), (0, 0), (0, 0)), mode="edge")
        mean = frames[:, ::4, ::8, ::8, :2][:, : 1 + -(-(video.shape[1] - 1) // 4)] / 32 - 4
        mean = mean.astype(np.float32)
        if not self._sample:
            return {"mean": mean, "logvar": -mean / 2}
        noise = [np.random.default_rng(key).standard_normal(mean.shape[1:]) for key in keys]
        return {"latents": mean + np.float32(noise)}


def model(encoder=None, *, weights="0" * 64, **settings):
    return Model(
        weights=weights,
        scaling_factor=0.5,
        shift_factor=0.25,
        settings=settings,
        load=lambda: encoder or PlainEncoder(),
    )


def write(source, target, encoder=None, *, share=(0, 1), exclude=None, track=None, **config):
    """`write_latents` with two files a shard."""
    return write_latents(
        str(source),
        str(target),
        config=LatentsConfig(**{"items_per_shard": 2, **config}),
        model=model(encoder),
        share=Share(*share),
        exclude=exclude,
        readers=2,
        track=track,
    )
