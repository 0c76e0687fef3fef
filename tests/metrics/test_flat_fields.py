"""Structure of flat fields: a planted one is seen, and told from every other kind."""

import numpy as np
import pytest

from cvvae_jax.metrics.flat_fields import Grid, frequencies, structure

FRAMES, SIDE = 17, 64
GRID = Grid(lattice=4, group=2, chunk=8, row_borders=(28,), column_borders=(28,))
COLOR = np.array([-0.25, 0.125, 0.5])
RMS = 0.01
PARTS = ("border", "lattice", "tile", "group_phase", "chunk_phase")


def planted() -> dict[str, np.ndarray]:
    """Errors that stand for one kind of structure each, of the root mean square `RMS`."""
    times, rows, columns = np.ogrid[:FRAMES, :SIDE, :SIDE]
    from_border = np.minimum(
        np.minimum(rows, SIDE - 1 - rows), np.minimum(columns, SIDE - 1 - columns)
    )
    pattern = np.random.default_rng(1).normal(size=(SIDE, SIDE))
    checkers = (-1.0) ** (rows + columns)
    shapes = {
        "border": from_border < 3,
        "lattice": (rows % 4 == 0) | (columns % 4 == 0),
        "checkers": checkers,
        "tile": np.sign(columns - 27.5),
        "group_phase": np.where(times % 2 == 0, 1.0, -1.0),
        "first_frame": times == 0,
        "group_phase of a pattern": (times % 2 == 0) * pattern,
        "chunk_phase": (times % 8 == 5) * 1.0,
        "chunk_phase of a pattern": (times % 8 == 5) * pattern,
        "drift": times - times.mean() + 0.0,
        "vignette": np.hypot(rows - 31.5, columns - 31.5),
        "noise": np.random.default_rng(0).normal(size=(FRAMES, SIDE, SIDE, 3)),
    }
    found = {}
    for name, shape in shapes.items():
        shape = np.asarray(shape, np.float64)
        shape = shape if shape.ndim == 4 else shape[..., None]
        errors = np.broadcast_to(shape - shape.mean(), (FRAMES, SIDE, SIDE, 3))
        found[name] = RMS * errors / np.sqrt(np.square(errors).mean())
    return found


PLANTED = planted()


def measured(errors: np.ndarray, *, grid: Grid = GRID) -> dict[str, np.ndarray]:
    return structure(COLOR + errors, COLOR, grid)


@pytest.mark.parametrize("name", PLANTED)
def test_all_structure_is_counted_and_none_is_color(name):
    found = measured(PLANTED[name])
    # Each channel of the noise has a mean of its own, of 70,000 values.
    np.testing.assert_allclose(found["structure"], RMS**2, rtol=1e-4)
    np.testing.assert_allclose(found["by_frame"].mean(), found["structure"], rtol=1e-9)
    np.testing.assert_allclose(found["color"], 0, atol=0.01 * RMS)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("border", "border"),
        ("lattice", "lattice"),
        ("checkers", "lattice"),
        ("group_phase", "group_phase"),
        ("group_phase of a pattern", "group_phase"),
        ("chunk_phase", "chunk_phase"),
        ("chunk_phase of a pattern", "chunk_phase"),
    ],
)
def test_every_kind_is_told_from_the_others(name, part):
    """Most of it, or half where a pattern is there in half of the frames, since its mean stands
    still.

    What happens once a chunk is, by a small part, what happens every second frame: a chunk's eight
    frames are four groups, one of whose first frames differs. The pattern is one of random pixels,
    whose steps are 20 % larger in some columns than in others.
    """
    found = measured(PLANTED[name])
    others = {other: found[other] for other in PARTS if other != part}
    assert found[part] > 0.4 * RMS**2
    bound = 0.3 if "pattern" in name else 0.1 if name == "chunk_phase" else 1e-6
    assert max(others.values()) < bound * RMS**2, others


def test_a_step_between_tiles_is_told():
    """Beside it there is none; it is in one of two directions."""
    found = measured(PLANTED["tile"])
    step = np.ptp(PLANTED["tile"][0, 0, :, 0])
    np.testing.assert_allclose(found["tile"], step**2 / 2, rtol=1e-9)
    for name in ("border", "lattice", "checkers", "group_phase", "chunk_phase"):
        assert measured(PLANTED[name])["tile"] < 1e-9 * RMS**2, name


@pytest.mark.parametrize("name", ["drift", "vignette", "noise"])
def test_what_does_not_repeat_is_none_of_what_does(name):
    """Noise of 17 x 64 x 64 x 3 values repeats by chance, with a share below a thousandth."""
    found = measured(PLANTED[name])
    for part in ("lattice", "group_phase", "chunk_phase"):
        assert found[part] < 0.02 * RMS**2, part


def test_time_is_all_that_changes():
    for name, share in (("drift", 1), ("group_phase", 1), ("lattice", 0), ("border", 0)):
        np.testing.assert_allclose(
            measured(PLANTED[name])["time"], share * RMS**2, rtol=1e-9, atol=1e-12 * RMS**2
        )
    # Sixteen of seventeen parts of noise: one is the mean over time.
    np.testing.assert_allclose(measured(PLANTED["noise"])["time"], RMS**2 * 16 / 17, rtol=0.01)


def test_a_first_frame_that_differs_is_told_and_is_no_phase():
    found = measured(PLANTED["first_frame"])
    step = np.ptp(PLANTED["first_frame"])
    np.testing.assert_allclose(found["first_frame"], step**2, rtol=1e-9)
    assert max(found[part] for part in PARTS) < 1e-9 * RMS**2
    for name in ("border", "lattice"):
        assert measured(PLANTED[name])["first_frame"] < 1e-9 * RMS**2, name


def test_a_shift_of_the_color_is_no_structure():
    shift = np.array([0.03, 0.0, -0.02])
    found = measured(np.broadcast_to(shift, (FRAMES, SIDE, SIDE, 3)))
    np.testing.assert_allclose(found["color"], shift, atol=1e-12)
    for part in (*PARTS, "structure", "time", "spectrum"):
        # Squares of float64's rounding.
        np.testing.assert_allclose(found[part], 0, atol=1e-27)


def test_what_is_given_back_exactly_has_zeros_everywhere():
    found = measured(np.zeros((FRAMES, SIDE, SIDE, 3)))
    for name, values in found.items():
        np.testing.assert_array_equal(values, 0, err_msg=name)


@pytest.mark.parametrize(("period", "name"), [(2, "stripes"), (4, "stripes"), (8, "stripes")])
def test_the_spectrum_has_a_wave_at_its_frequency(period, name):
    errors = RMS * np.cos(2 * np.pi * np.arange(SIDE) / period)[None, None, :, None]
    found = measured(np.broadcast_to(errors, (FRAMES, SIDE, SIDE, 3)))["spectrum"]
    cycles = frequencies(SIDE - 2 * GRID.band)
    assert cycles[found.argmax()] == 1 / period
    np.testing.assert_allclose(found.sum(), np.square(errors).mean(), rtol=1e-9)
    np.testing.assert_allclose(found.max(), found.sum(), rtol=1e-9)


def test_parts_that_are_not_there_are_no_numbers():
    errors = PLANTED["noise"]
    alone = measured(errors, grid=Grid(lattice=1, group=1, chunk=8))
    assert all(np.isnan(alone[part]) for part in ("lattice", "tile", "group_phase"))
    assert not np.isnan(alone["chunk_phase"])
    one_chunk = measured(errors, grid=Grid(lattice=4, group=2, chunk=16))
    assert np.isnan(one_chunk["chunk_phase"]) and not np.isnan(one_chunk["group_phase"])
    image = measured(errors[:1])
    assert np.isnan(image["group_phase"]) and np.isnan(image["chunk_phase"])


@pytest.mark.parametrize("shape", [(16, 16), (66, 66), (64, 32)])
def test_frames_without_an_interior_are_refused(shape):
    with pytest.raises(ValueError, match=f"square of 5 latents .* not {shape[0]} x {shape[1]}"):
        structure(np.zeros((1, *shape, 3)), COLOR, GRID)
