"""The decision rule on numbers whose verdict is known."""

import dataclasses

import numpy as np
import pytest

from studies.swap.rule import Seed, claim, floor_of_gaps, judge, rise

FOUR = ("compatible", "encoder", "inflated", "random")
HOLDS = Seed(
    gaps={"compatible": 0.1, "inflated": 0.3, "random": 0.6},
    mapped_gaps={"inflated": 0.25, "random": 0.5},
    floor=0.02,
    distance=1.2,
    image_distance=1.0,
    distance_floor=0.15,
    rises=dict.fromkeys(FOUR, 0.1),
    reconstructions=dict(zip(FOUR, (30.0, 30.1, 30.2, 29.8), strict=True)),
)


def test_a_seed_that_fulfils_everything_holds():
    found = judge(HOLDS)
    assert found.verdict == "holds" and set(found.conditions.values()) == {"true"}
    assert len(found.conditions) == 5


@pytest.mark.parametrize(
    ("change", "condition"),
    [
        ({"gaps": {"compatible": 0.1, "inflated": 0.2, "random": 0.6}}, "gap below 0.5 x inflated"),
        ({"gaps": {"compatible": 0.1, "inflated": 0.3, "random": 0.4}}, "gap below 0.25 x random"),
        ({"mapped_gaps": {"inflated": 0.1, "random": 0.5}}, "mapped gap below 0.5 x inflated"),
        ({"mapped_gaps": {"inflated": 0.25, "random": 0.39}}, "mapped gap below 0.25 x random"),
        ({"distance": 1.26}, "distance"),
    ],
)
def test_each_condition_can_fail_by_itself(change, condition):
    found = judge(dataclasses.replace(HOLDS, **change))
    assert found.verdict == "fails"
    assert [name for name, truth in found.conditions.items() if truth == "false"] == [condition]


def test_gaps_near_the_floor_are_void_and_no_success():
    found = judge(dataclasses.replace(HOLDS, floor=0.0999))
    assert found.verdict == "void"
    assert found.conditions["gap below 0.5 x inflated"] == "true"  # just above three floors
    assert found.conditions["mapped gap below 0.5 x inflated"] == "void"
    assert judge(dataclasses.replace(HOLDS, floor=0.1, distance=9.0)).verdict == "fails"


def test_unequal_models_decide_nothing():
    far = HOLDS.reconstructions | {"random": 29.6}
    assert judge(dataclasses.replace(HOLDS, reconstructions=far)).verdict == "unequal"
    rising = HOLDS.rises | {"encoder": 0.2}
    found = judge(dataclasses.replace(HOLDS, rises=rising, distance=9.0))
    assert found.verdict == "unequal" and not found.plateau and found.equal


def test_the_claim_needs_all_seeds():
    assert claim(["holds"] * 6) == "holds"
    assert claim(["holds"] * 5 + ["void"]) == claim(["holds"] * 5 + ["unequal"]) == "open"
    assert claim(["holds", "unequal", "fails"]) == "fails"


def test_a_rise_is_that_of_the_last_third():
    assert rise([20, 25, 26, 27, 28, 28, 28, 28, 29, 29, 30, 30]) == pytest.approx(1)
    assert rise([20, 21, 22, 23, 30, 30]) == 0
    with pytest.raises(ValueError, match="six"):
        rise([1, 2, 3])


def test_the_floor_is_of_seeds_with_one_image_vae():
    losses, images = {0: 1.0, 1: 1.2, 5: 9.0}, {0: "a", 1: "a", 5: "b"}
    wanted = np.std([1.0, 1.2], ddof=1)
    assert floor_of_gaps(losses, images, 0) == floor_of_gaps(losses, images, 5) == wanted
    with pytest.raises(ValueError, match="two seeds"):
        floor_of_gaps({5: 1.0}, images, 5)
