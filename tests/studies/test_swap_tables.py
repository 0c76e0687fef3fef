"""From measured numbers to the verdict and the tables, on numbers made up for it."""

import dataclasses

import numpy as np
import pytest

from studies.swap import rule
from studies.swap.latents import LinearMap, Scale
from studies.swap.measures import _interpolated, _motion
from studies.swap.pieces import all_pieces
from studies.swap.results import Results
from studies.swap.settings import FULL, KINDS, LEVELS, SMOKE, Place
from studies.swap.tables import WAYS, all_tables, interval
from studies.swap.tuning import steps_to
from studies.swap.vaes import vae_config

SETTINGS = dataclasses.replace(FULL, images={0: "a", 1: "a", 2: "b"})
GAPS = {"compatible": 0.05, "encoder": 0.2, "inflated": 0.3, "random": 0.7}
RNG = np.random.default_rng(0)


def shown(distance: float) -> dict:
    accuracy = {"shape": 0.9, "color": 0.8, "motion": 0.7}
    return {"distance": {"frames": distance, "clips": distance}, "accuracy": accuracy}


def motion() -> dict:
    return {"fast_change": 0.3, "tooth": [0.9, 1.0, 1.1, 1.0]}


def of_seed(seed: int) -> dict:
    return {
        "loss": [0.5 + 0.01 * seed] * len(LEVELS),
        "gaussian_velocity": 0.9,
        "floor": shown(0.1),
        "real_motion": motion(),
        "images": shown(1.0),
        "key_frames": shown(1.0),
        "interpolated": shown(1.5) | motion(),
        "halfway": shown(0.8),
    }


def of_vae(seed: int, kind: str) -> dict:
    own = 0.5 + 0.01 * seed
    way = {
        "image_scale": 1.0,
        "own_scale": 0.9,
        "channel_map": 0.85,
        "map": -0.8,
        "rescaled_map": 1.0,
    }
    through = {"images": shown(1.15), "videos": shown(1.2) | motion(), "color_shift": [1.0, 0, -1]}
    names = ("distance", "frechet", "mmd", "principal_angle", "velocity_variance", "fine_detail")
    return {
        "reconstruction": {"Ev-Dv": 30.0, "Ev-Di": 30.0 - 10 * GAPS[kind]},
        "latents": dict.fromkeys(names, GAPS[kind]),
        "loss": {name: [own + GAPS[kind] * way[name]] * len(LEVELS) for name in WAYS},
        "samples": dict.fromkeys(("image_scale", "own_scale", "map"), through),
        "halfway": shown(0.9),
    }


def tuning() -> dict:
    course = {"steps": [0, 10, 20], "loss": [0.9, 0.6, 0.52], "parameters": 100}
    return {"goal": 0.55} | dict.fromkeys(SETTINGS.tuned, course)


@pytest.fixture
def results() -> Results:
    pairs = [(seed, kind) for seed in SETTINGS.images for kind in KINDS]
    return Results(
        settings=SETTINGS,
        of_seed={seed: of_seed(seed) for seed in SETTINGS.images},
        of_vae={pair: of_vae(*pair) for pair in pairs},
        tuning=dict.fromkeys(pairs, tuning()),
        psnr=dict.fromkeys(pairs, [20.0] * 8 + [29.9, 30.0, 30.0, 30.0]),
    )


def test_the_rule_gets_the_better_scale_of_twins_and_the_image_scale_of_the_compatible(results):
    found = results.for_rule(1)
    assert found.gaps == pytest.approx({"compatible": 0.05, "inflated": 0.27, "random": 0.63})
    assert found.mapped_gaps == pytest.approx({"inflated": 0.24, "random": 0.56})
    assert found.floor == pytest.approx(np.std([0.5, 0.51], ddof=1))
    assert (found.distance, found.image_distance, found.distance_floor) == (1.15, 1.0, 0.1)
    assert found.rises["random"] == pytest.approx(0.05)
    assert {judged.verdict for judged in results.judged().values()} == {"holds"}


def test_the_tables_show_every_seed_and_the_verdict(results):
    text = all_tables(results)
    assert text.startswith("### The claim: holds")
    for section in text.split("###")[2:]:
        if "losses by level" not in section and "Which cheap" not in section:
            assert all(f"| {seed} |" in section for seed in SETTINGS.images), section[:60]
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line[:1] == "|"}
    assert rows["distance"].split("|")[2].strip() == "1"  # tells the gap's order exactly
    bad = results.of_vae[2, "compatible"]["loss"] | {"image_scale": [0.9] * len(LEVELS)}
    results.of_vae[2, "compatible"]["loss"] = bad
    assert all_tables(results).startswith("### The claim: fails")


def test_intervals_are_students():
    assert interval([1.0, 2.0, 3.0]) == "2 (± 2.48)"  # 4.303 / sqrt(3)
    assert interval([1.0, 2.0]) == "1.5"


def test_steps_to_a_goal():
    course = {"steps": [0, 10, 20], "loss": [0.9, 0.6, 0.52]}
    assert [steps_to(goal, course) for goal in (1.0, 0.55, 0.6, 0.1)] == [0, 20, 10, None]


def test_scales_and_maps_are_inverted_by_what_made_them():
    latents = RNG.normal(3, 2, (6, 2, 4, 4, 3)).astype(np.float32)
    scale = Scale.of(latents)
    scaled = scale.apply(latents)
    np.testing.assert_allclose(scaled.std(axis=(0, 1, 2, 3)), 1, rtol=1e-4)
    np.testing.assert_allclose(scale.undo(scaled), latents, atol=1e-5)
    matrix, constant = RNG.normal(size=(3, 3)), RNG.normal(size=3)
    moved = (latents @ matrix + constant).astype(np.float32)
    np.testing.assert_allclose(LinearMap.fit(moved, latents)(moved), latents, atol=1e-3)
    # Half of the variance is noise that isn't told; rescaling gives it back.
    targets = latents + RNG.normal(0, 2, latents.shape).astype(np.float32)
    plain = LinearMap.fit(latents, targets)
    back, wanted = Scale.of(plain.rescaled(latents, targets)(latents)), Scale.of(targets)
    assert plain(latents).std() < 0.8 * targets.std()
    np.testing.assert_allclose(back.std, wanted.std, rtol=1e-3)
    np.testing.assert_allclose(back.mean, wanted.mean, atol=1e-3)
    # A map of single channels can't undo a mixture, but a factor and a constant.
    stretched = latents * np.float32([2, -1, 0.5]) + 1
    single = LinearMap.fit_channels(stretched, latents)
    np.testing.assert_allclose(single(stretched), latents, atol=1e-4)
    mixed = LinearMap.fit_channels(moved, latents)(moved)
    assert np.abs(mixed - latents).max() > 0.5


def test_video_vaes_differ_in_their_start_and_their_loss_alone(tmp_path):
    configs = {kind: vae_config(FULL, Place(tmp_path), kind, 5) for kind in KINDS}
    assert {kind: (c.init, c.loss.compat_mode) for kind, c in configs.items()} == {
        "compatible": ("inflate", "decoder"),
        "encoder": ("inflate", "encoder"),
        "inflated": ("inflate", "none"),
        "random": ("random", "none"),
    }
    same = {"init": "inflate", "loss": FULL.loss("compatible"), "workdir": "run"}
    assert len({dataclasses.replace(config, **same) for config in configs.values()}) == 1
    config = configs["random"]
    assert config.image_vae == str(tmp_path / "image_vae" / "b" / "image_vae")
    assert config.seed == 5 and config.train.optimizer.schedule == "constant"
    assert config.train.steps == 12 * config.train.eval_every


def test_interpolation_fills_three_frames_between_two():
    keys = np.zeros((1, 3, 1, 1, 1), np.float32)
    keys[0, :, 0, 0, 0] = [0, 4, 0]
    assert _interpolated(keys)[0, :, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1, 0]
    assert _interpolated(keys).dtype == np.float32


def test_a_tooth_of_four_is_seen():
    steps = np.tile([1.0, 1.0, 1.0, 5.0], 4)
    video = np.concatenate([[0.0], np.cumsum(steps)]).reshape(1, 17, 1, 1, 1)
    np.testing.assert_allclose(_motion(video)["tooth"], [0.5, 0.5, 0.5, 2.5])
    smooth = np.arange(17.0).reshape(1, 17, 1, 1, 1)
    np.testing.assert_allclose(_motion(smooth)["tooth"], np.ones(4))
    assert _motion(smooth)["fast_change"] < 0.02


@pytest.mark.parametrize("settings", [FULL, SMOKE], ids=["full", "smoke"])
def test_pieces_leave_files_of_their_own(settings, tmp_path):
    pieces = all_pieces(settings, Place(tmp_path))
    assert len({piece.left for piece in pieces}) == len({piece.name for piece in pieces})
    seeds, images = len(settings.images), len(set(settings.images.values()))
    vaes = 2 if settings is SMOKE else 4 * seeds
    assert len(pieces) == 2 + 2 * images + vaes + 11 * seeds
    assert not any(piece.done for piece in pieces)
    first = pieces[0]
    first.left.parent.mkdir(parents=True)
    first.left.touch()
    assert [piece.done for piece in pieces[:2]] == [True, False]


def test_the_study_has_the_seeds_that_its_rule_speaks_of():
    images = list(FULL.images.values())
    assert images.count("a") == 5 and images.count("b") == 1
    pairs = [(kind, seed) for kind in KINDS for seed in FULL.images]
    assert [FULL.vae_of(*pair) for pair in pairs] == pairs
    assert FULL.tests == 512 and FULL.samples == 1000 and FULL.sample_steps == 25
    assert LEVELS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    constants = (rule.RANDOM_RATIO, rule.INFLATED_RATIO, rule.FLOORS, rule.DISTANCE_RATIO)
    assert (*constants, rule.PLATEAU, rule.EQUAL) == (0.25, 0.5, 3.0, 1.1, 0.2, 0.5)
