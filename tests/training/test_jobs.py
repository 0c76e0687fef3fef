"""Buckets that are too small for a network, or for the devices that share their frames."""

from pathlib import Path

import pytest

from cvvae_jax import sharding
from cvvae_jax.config import (
    Bucket,
    DiscriminatorConfig,
    LossConfig,
    MeshConfig,
    StageConfig,
    VideoVAEConfig,
)
from cvvae_jax.errors import UserError
from cvvae_jax.training.jobs import Job, _check_job

MODEL = VideoVAEConfig(
    block_channels=(4, 4), blocks_per_level=1, norm_groups=2, temporal_strides=(2,)
)
PLAIN = LossConfig(gan="none", lpips_weight=0.0, compat_mode="none")
WITH_LPIPS = LossConfig(gan="none", lpips_weight=1.0, compat_mode="none")
LAYERS = DiscriminatorConfig(base_channels=4, norm_groups=2, layers=4)


def check(size, *, loss=PLAIN, discriminator=None, space=1) -> None:
    bucket = Bucket(3, size, 8)
    mesh = sharding.make_mesh(MeshConfig(data=1, space=space), batches=(8,))
    stage = StageConfig(1, (bucket,))
    job = Job(
        "video VAE", Path(), stage, loss, lambda *_: None, None, discriminator, mesh, clips=None
    )
    _check_job(job, MODEL)


@pytest.mark.parametrize(
    ("smallest", "networks", "said"),
    [
        (16, {"loss": WITH_LPIPS}, "is too small for LPIPS, which takes 16 x 16 pixels and more"),
        (8, {"discriminator": LAYERS}, "is too small for a discriminator of 4 layers"),
    ],
    ids=["lpips", "discriminator"],
)
def test_frames_have_the_pixels_that_every_network_takes(smallest, networks, said):
    check((smallest, 64), **networks)
    for size in ((smallest - 2, 64), (64, smallest - 2)):
        with pytest.raises(UserError, match=f"frames of {size[0]} x {size[1]} {said}"):
            check(size, **networks)
        check(size)


@pytest.mark.parametrize(
    ("rows", "networks"),
    [(2, {}), (8, {"discriminator": LAYERS}), (16, {"loss": WITH_LPIPS, "discriminator": LAYERS})],
    ids=["model", "discriminator", "lpips"],
)
def test_devices_that_share_frames_have_a_row_of_every_network(rows, networks):
    check((4 * rows, 32), **networks, space=4)
    check((5 * rows, 32), **networks)
    with pytest.raises(
        UserError, match=f"over 4 devices .* heights must be multiples of {4 * rows}"
    ):
        check((5 * rows, 32), **networks, space=4)


def test_one_device_takes_rows_that_not_every_network_divides():
    check((24, 32), loss=WITH_LPIPS)
