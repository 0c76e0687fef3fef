"""Results don't depend on how many devices there are, or on how they share the work."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from many_processes import workers
from tiny_models import TINY, random_model

from cvvae_jax.codec.codec import Codec
from cvvae_jax.codec.programs import CodecPrograms, DeviceGroups
from cvvae_jax.config import VideoVAEConfig
from cvvae_jax.models.video_vae import PRESETS, VideoVAE

# Numbers and programs are the same, but for another batch: a convolution may add its products in
# another order, a few roundings (6e-8 each) of values of order 1.
CHUNKS_TOLERANCE = 1e-6
# Means over frames and the sums in convolutions are taken in parts, in some thirty layers.
ROWS_TOLERANCE = 1e-5

SIZES = [
    *[(8, 16), (64, 16), (72, 24), (40, 8), (129, 17)],
    *[(16, 40), (200, 8), (57, 33), (128, 16), (97, 9)],
]


def largest(array) -> float:
    return float(np.abs(array).max())


@pytest.fixture(scope="module")
def edge_vae() -> VideoVAE:
    """The SD3 family: borders are the edge again, strides have padding on both sides."""
    preset = PRESETS["sd3"]
    fields = {"block_channels", "blocks_per_level", "norm_groups"}
    kept = {name: value for name, value in vars(preset).items() if name not in fields}
    return random_model(VideoVAE, VideoVAEConfig(**kept, **TINY))


def both_ways(vae, video, codec) -> tuple[np.ndarray, np.ndarray]:
    """Means of the latents, and the frames of one device's latents."""
    one = Codec(vae, chunk_frames=4, devices=jax.devices()[:1])
    return codec.encode(video).values, codec.decode(one.encode(video).values)


@pytest.mark.parametrize(
    ("batch", "tile"),
    [
        pytest.param(1, "whole", marks=pytest.mark.slow),
        pytest.param(2, "whole", marks=pytest.mark.slow),
        (1, 24),
        pytest.param(2, 24, marks=pytest.mark.slow),
    ],
)
def test_chunks_and_tiles_over_devices_equal_one_device(vae, clip, tile, batch):
    """20 frames are two chunks of 9 and one of 5; neither fills 8 devices."""
    video = clip(20, 17, 40)
    options = {"chunk_frames": 8, "tile": tile}
    one = Codec(vae, **options, devices=jax.devices()[:1])
    eight = Codec(vae, **options, batch=batch)
    latents = one.encode(video).values
    assert largest(eight.encode(video).values - latents) <= CHUNKS_TOLERANCE * largest(latents)
    recon = one.decode(latents)
    assert largest(eight.decode(latents) - recon) <= CHUNKS_TOLERANCE * largest(recon)


@pytest.mark.parametrize(("batch", "taken"), [(8, {4}), (2, {2, 1})])
def test_few_pieces_are_filled_up_to_a_power_of_two(vae, clip, batch, taken):
    """Three of them: as four at once, or as two and one."""
    pieces = clip(3, 16, 16).swapaxes(0, 1)

    def run(programs, batch):
        parts = programs.run("encode", pieces, groups=DeviceGroups(), batch=batch, pixels="uint8")
        return np.concatenate([part.on_host() for part in parts])

    one, several = (CodecPrograms(vae, jax.devices()[:1]) for _ in range(2))
    expected, found = run(one, 1), run(several, batch)
    assert found.shape == expected.shape
    assert largest(found - expected) <= CHUNKS_TOLERANCE * largest(expected)
    assert {shape[0] for _, shape, *_ in several._programs} == taken


def test_videos_of_a_batch_are_encoded_alone(vae, clip):
    videos = np.concatenate([clip(6, 16, 24), 255 - clip(6, 16, 24)])
    codec = Codec(vae, chunk_frames=4, devices=jax.devices()[:1])
    together = codec.encode(videos).values
    for i in range(2):
        alone = codec.encode(videos[i : i + 1]).values
        assert largest(together[i : i + 1] - alone) <= CHUNKS_TOLERANCE * largest(alone)


@pytest.mark.parametrize("size", SIZES[:2])
def test_rows_over_devices_equal_one_device(vae, clip, size):
    check_rows(vae, clip(5, *size), split_rows=8)


@pytest.mark.slow
@pytest.mark.parametrize("split_rows", [2, 8])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", ["sd21", "sd3"])
def test_rows_of_any_size_over_devices_equal_one_device(request, family, clip, size, split_rows):
    vae = request.getfixturevalue({"sd21": "vae", "sd3": "edge_vae"}[family])
    check_rows(vae, clip(9, *size), split_rows=split_rows)


def check_rows(vae, video, *, split_rows):
    codec = Codec(vae, chunk_frames=4, split_rows=split_rows)
    one = Codec(vae, chunk_frames=4, devices=jax.devices()[:1])
    latents = one.encode(video).values
    assert largest(codec.encode(video).values - latents) <= ROWS_TOLERANCE * largest(latents)
    recon = one.decode(latents)
    assert largest(codec.decode(latents) - recon) <= ROWS_TOLERANCE * largest(recon)


def test_split_decode_gathers_nothing_but_keys_and_values(vae):
    """Latents of 6 rows over 4 devices, two rows each: keys and values of all 8, of 3 positions
    each."""
    programs = CodecPrograms(vae, jax.devices()[:4])
    program = programs.program("decode", (1, 2, 6, 3, 4), groups=DeviceGroups(1, 4), pixels="uint8")
    text = program.compiled.as_text()
    gathered = re.findall(r"= (\S+?)\{\S* all-gather(?:-start)?\(", text)
    assert gathered == ["f32[1,2,24,8]"] * 2
    assert "collective-permute" in text


@pytest.mark.parametrize("options", [{}, {"split_rows": 8}, {"memory": 10**9, "tile": 24}])
@pytest.mark.slow
def test_processes_that_share_a_video_all_have_what_one_device_gives(vae, clip, tmp_path, options):
    one = Codec(vae, chunk_frames=4, devices=jax.devices()[:1], tile=options.get("tile", "auto"))
    video = clip(14, 29, 40)
    latents = one.encode(video).values
    recon = one.decode(latents)
    np.savez(tmp_path / "given.npz", video=video, latents=latents)
    arguments = [str(tmp_path), json.dumps(options)]
    script = Path(__file__).parents[1] / "coding_process.py"
    with workers(tmp_path, arguments, arguments, devices=4, script=script) as running:
        assert running.wait(timeout=300) == [0, 0], running.said(0) + running.said(1)
    for i in range(2):
        with np.load(tmp_path / f"made-{i}.npz") as made:
            assert largest(made["latents"] - latents) <= ROWS_TOLERANCE * largest(latents)
            assert largest(made["video"] - recon) <= ROWS_TOLERANCE * largest(recon)


def test_devices_with_a_piece_each_need_the_memory_of_one(vae):
    def memory(groups, devices):
        programs = CodecPrograms(vae, jax.devices()[:devices])
        shape = (groups.count, 5, 16, 16, 3)
        return programs.program("encode", shape, groups=groups, pixels="uint8").memory

    assert memory(DeviceGroups(8), 8) == memory(DeviceGroups(1), 1)
