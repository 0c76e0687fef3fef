"""An encoder without a network, media, and what it makes of them, for the tests of `latents`."""

import numpy as np
from PIL import Image
from prepare_media import pictures, write_video

import cvvae_jax
from cvvae_jax.latents.dataset_clips import ClipLimits
from cvvae_jax.latents.dataset_options import LatentsConfig
from cvvae_jax.latents.dataset_write import UnloadedEncoder, write_latents
from cvvae_jax.resumable.share import Share


class PlainEncoder:
    """Every fourth frame and eighth pixel in place of latents of two channels."""

    limits = ClipLimits(temporal_compression=4, smallest=8)

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
    return UnloadedEncoder(
        weights=weights,
        scaling_factor=0.5,
        shift_factor=0.25,
        settings=settings,
        load=lambda: encoder or PlainEncoder(),
    )


def write(
    source, target, encoder=None, *, by=None, share=(0, 1), exclude=None, track=None, **config
):
    """`write_latents` with two files a shard, by a model or by an encoder."""
    return write_latents(
        str(source),
        str(target),
        config=LatentsConfig(**{"items_per_shard": 2, **config}),
        model=by or model(encoder),
        share=Share(*share),
        exclude=exclude,
        readers=2,
        track=track,
    )


def write_sources(folder):
    """Five videos of 18 to 22 frames of 64x48, two images of 60x40, a damaged one of each."""
    for number in range(5):
        write_video(folder / f"v/{number}.mp4", pictures(18 + number, seed=number))
    (folder / "i").mkdir()
    for number in range(2):
        Image.fromarray(pictures(1, 40, 60, seed=number)[0]).save(folder / f"i/{number}.png")
    (folder / "i/bad.jpg").write_bytes(b"no image")
    write_video(folder / "v/cut.mkv", pictures(60), options={"g": "5"})
    data = (folder / "v/cut.mkv").read_bytes()
    (folder / "v/cut.mkv").write_bytes(data[: len(data) // 2])
    return folder


def records(target):
    dataset = cvvae_jax.LatentsDataset(target)
    return [dataset[number] for number in range(len(dataset))]


def assert_same_records(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], strict=True, err_msg=name)
