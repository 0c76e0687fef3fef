"""Flat fields through contenders: a planted structure is told in levels, apart from the color."""

import numpy as np
import pytest
from tiny_models import random_model
from tiny_runs import WIDTHS

from cvvae_jax.config import VideoVAEConfig
from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.contenders import Baseline, Contender, Model
from cvvae_jax.evaluation.flat_fields import (
    COLORS,
    FLAT_FIELD_FIGURES,
    MIDDLE,
    as_picture,
    measure_flat_fields,
    shape,
    summarize_flat_fields,
)
from cvvae_jax.evaluation.protocol import Protocol
from cvvae_jax.models.video_vae import VideoVAE

PROTOCOL = Protocol(chunk_frames=4)
LEVEL = 1 / 127.5


def contender(opened, *, spatial_compression: int = 2) -> Contender:
    return Contender(
        name="planted",
        kind="VideoVAE",
        description="",
        weights=None,
        sha256=None,
        parameters=None,
        temporal_compression=2,
        spatial_compression=spatial_compression,
        latent_channels=None,
        dtype=None,
        open=lambda protocol: opened,
    )


def told(plant, protocol: Protocol = PROTOCOL) -> dict:
    """What is measured of a model that adds something to videos."""
    opened = Baseline(plant)
    return summarize_flat_fields(measure_flat_fields(opened, contender(opened), protocol))


def test_what_gives_clips_back_exactly_has_zeros():
    found = told(lambda videos: videos)
    assert {found[figure.key] for figure in FLAT_FIELD_FIGURES} == {0.0, None}
    assert [figure.key for figure in FLAT_FIELD_FIGURES if found[figure.key] is None] == ["tile"]
    assert set(found["by_frame"]) == {0.0} and set(found["spectrum"]["power"]) == {0.0}


def test_a_tint_is_no_structure():
    """The tint is two levels in one of three channels, toward the middle, where nothing is
    clipped."""
    found = told(lambda x: x.at[..., 0].add(2 * LEVEL * (1 - 2 * (x[..., 0] > 0))))
    assert found["color"] == pytest.approx(2 / np.sqrt(3), rel=1e-4)
    assert found["structure"] == pytest.approx(0, abs=1e-4)
    shifts = np.array(found["by_color"]["color"])
    np.testing.assert_allclose(np.abs(shifts), np.array([[2, 0, 0]] * 17), atol=1e-4)


def over(length: int, axis: int, values) -> np.ndarray:
    """Values in levels along one axis of videos."""
    found = np.resize(np.asarray(values, np.float32), length) * LEVEL
    return found.reshape([length if i == axis else 1 for i in range(5)])


# The mean of the frames after the first is that of the first, unless this is what is planted.
PLANTED = {
    "border": over(32, 2, [4, 4] + [0] * 30),
    "lattice": over(32, 2, [2, -2]) * over(32, 3, [1, -1]) / LEVEL,
    "group_phase": over(9, 1, [0] + [2, -2] * 4),
    "chunk_phase": over(9, 1, [0] + [-1, -1, 3, -1] * 2),
    "first_frame": over(9, 1, [4] + [0] * 8),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_structure_is_the_first_of_its_kind(kind):
    """On paler colors, so that nothing is clipped. Of what happens in one of a chunk's four frames,
    a third of the power is the latent frames'."""
    found = told(lambda x: 0.9 * x + PLANTED[kind])
    kinds = {other: found[other] for other in PLANTED}
    assert max(kinds, key=kinds.get) == kind and kinds[kind] > 0.8
    others = [value for other, value in kinds.items() if other != kind]
    assert max(others) < (0.75 if kind == "chunk_phase" else 0.01) * kinds[kind]
    assert found["structure"] > 0.5


def test_tiles_are_told_where_the_protocol_names_their_size():
    class Tiled(Baseline):
        def tile_borders(self, videos):
            return [], [videos.shape[3] // 2]

    protocol = Protocol(chunk_frames=4, tile=32)
    assert shape(contender(None), protocol) == (9, 48)
    opened = Tiled(lambda x: 0.9 * x + over(48, 3, [0] * 24 + [6] * 24))
    found = summarize_flat_fields(measure_flat_fields(opened, contender(opened), protocol))
    assert found["tile"] == pytest.approx(6, rel=1e-3)


def test_pictures_are_of_the_middle_and_of_the_worst_color():
    """Only clips whose red is 192 and whose green is 64 have a pattern, of three levels."""

    def plant(x):
        here = (x[..., :1] > 0.4) & (x[..., :1] < 0.6) & (x[..., 1:2] < 0) & (x[..., 1:2] > -0.9)
        return x + here * over(32, 3, [3, -3])

    opened = Baseline(plant)
    arrays = measure_flat_fields(opened, contender(opened), PROTOCOL)
    middle, worst = (COLORS[number] for number in arrays["pictured"])
    assert middle == COLORS[MIDDLE] == (128, 128, 128) and worst[:2] == (192, 64)
    (least, gray), (levels, pattern) = map(as_picture, arrays["picture"])
    assert (least, levels) == (1, 4)
    np.testing.assert_array_equal(gray, 128)
    # 127.5 + 127.5 * 3 / 4, and the same below.
    assert set(pattern.ravel()) == {223, 32}


@pytest.mark.parametrize(
    ("protocol", "frames"),
    [
        (Protocol(), 33),
        (Protocol(frames=17), 17),
        (Protocol(frames=97), 33),
        (Protocol(media="image"), 1),
    ],
)
def test_clips_are_two_chunks_or_as_long_as_the_protocols(protocol, frames):
    assert shape(contender(None, spatial_compression=8), protocol) == (frames, 128)


def test_pixels_that_are_no_numbers_are_refused():
    opened = Baseline(lambda x: x * np.nan)
    with pytest.raises(UserError, match="planted gives pixels that are no numbers of a flat"):
        measure_flat_fields(opened, contender(opened), PROTOCOL)


def test_a_protocol_that_samples_changes_nothing():
    """What a draw of the posterior adds is no structure of the model's."""
    config = VideoVAEConfig(temporal_strides=(2,), decoder_attention="spatial", **WIDTHS)
    opened = Model(random_model(VideoVAE, config), Protocol(latents="sample"), name="a")
    videos = np.full((1, 3, 8, 8, 3), 0.25, np.float32)
    expected = np.clip(opened.codec.decode(opened.codec.encode(videos)), -1, 1)
    np.testing.assert_array_equal(opened.rebuild(videos), expected)
