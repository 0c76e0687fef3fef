import io

import numpy as np
from PIL import Image

from cvvae_jax.models.pixels import to_float, to_uint8
from cvvae_jax.training.pictures import before_after, contact_sheet, gif


def views(clips: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    frames = {"input": 9, "recon": 9, "compat": 3}
    return {n: rng.uniform(-1, 1, (clips, t, 48, 32, 3)).astype("f") for n, t in frames.items()}


def test_contact_sheet_shows_every_frame_in_its_place():
    shown = views()
    sheet = np.asarray(contact_sheet(shown, temporal_compression=4))
    pitch, row = 2 * 32 + 4, 2 * 48 + 4 + 14
    assert sheet.shape == (6 * row + 4, 9 * pitch + 4, 3)
    for r, (name, columns) in enumerate(
        [("input", range(9)), ("recon", range(9)), ("compat", (0, 4, 8))]
    ):
        for frame, column in zip(to_uint8(shown[name][0]), columns, strict=True):
            top, left = 4 + r * row + 14, 4 + column * pitch
            there = sheet[top : top + 96 : 2, left : left + 64 : 2]
            np.testing.assert_array_equal(there, frame, err_msg=f"{name} {column}")


def test_single_clip_fits_on_a_sheet():
    assert contact_sheet(views(clips=1), temporal_compression=4).height == 3 * (96 + 18) + 4


def test_animation_has_every_frame():
    frames = before_after(views())
    assert frames.shape == (9, 96, 96, 3)
    assert Image.open(io.BytesIO(gif(frames))).n_frames == 9


def test_values_outside_the_range_are_clipped():
    values = np.array([-9, -1, 0, 1, 9], np.float32)
    np.testing.assert_array_equal(to_uint8(values), [0, 0, 128, 255, 255])


def test_pixels_come_back_exactly():
    pixels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(to_float(pixels)), pixels)
