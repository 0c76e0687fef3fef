import io

import numpy as np
from PIL import Image

from cvvae_jax.models.inputs import to_float, to_uint8
from cvvae_jax.training.pictures import contact_sheet, gif, side_by_side


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


def test_contact_sheet_enlarges_no_frame_of_128_rows_and_more():
    large = {name: view.repeat(3, axis=2) for name, view in views().items()}
    sheet = np.asarray(contact_sheet(large, temporal_compression=4))
    assert sheet.shape == (6 * (144 + 4 + 14) + 4, 9 * (32 + 4) + 4, 3)
    np.testing.assert_array_equal(sheet[18:162, 4:36], to_uint8(large["input"][0, 0]))


def test_single_clip_fits_on_a_sheet():
    assert contact_sheet(views(clips=1), temporal_compression=4).height == 3 * (96 + 18) + 4


def test_rows_of_the_animation_run_in_step():
    shown = views()
    frames = side_by_side(shown)
    assert frames.shape == (9, 3 * 48, 3 * 32, 3)
    for t, latent in enumerate([0, 1, 1, 1, 1, 2, 2, 2, 2]):
        for row, (name, index) in enumerate([("input", t), ("recon", t), ("compat", latent)]):
            for clip in range(3):
                there = frames[t, row * 48 : (row + 1) * 48, clip * 32 : (clip + 1) * 32]
                expected = to_uint8(shown[name][clip, index])
                np.testing.assert_array_equal(there, expected, err_msg=f"{name} {t} {clip}")
    assert Image.open(io.BytesIO(gif(frames))).n_frames == 9


def test_animation_without_an_image_vae_and_of_single_frames():
    shown = views()
    del shown["compat"]
    assert side_by_side(shown).shape == (9, 2 * 48, 3 * 32, 3)
    single = {name: view[:, :1] for name, view in views().items()}
    assert side_by_side(single).shape == (1, 3 * 48, 3 * 32, 3)


def test_values_outside_the_range_are_clipped():
    values = np.array([-9, -1, 0, 1, 9], np.float32)
    np.testing.assert_array_equal(to_uint8(values), [0, 0, 128, 255, 255])


def test_pixels_come_back_exactly():
    pixels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(to_float(pixels)), pixels)
