"""Several processes compute what one does, and stop as one."""

import dataclasses
import re
import types
from pathlib import Path

import numpy as np
import pytest
from many_processes import workers, write_recipe
from tiny_training import logged_lines, short_run

from cvvae_jax import parameter_paths, sharding
from cvvae_jax.config import TrainConfig
from cvvae_jax.errors import UserError
from cvvae_jax.loading import load
from cvvae_jax.training import loop


def assert_runs_equal(ours: TrainConfig, theirs: TrainConfig, *, tolerance: float) -> None:
    """All that is logged of steps, relatively, and the final weights, averaged and as they are."""
    for line, expected in zip(logged_lines(ours), logged_lines(theirs), strict=True):
        for name, value in expected.items():
            if not name.startswith("throughput/"):
                np.testing.assert_allclose(line[name], value, rtol=tolerance, err_msg=name)
    for raw in (False, True):
        found, expected = (
            parameter_paths.flatten(load(c.workdir, raw=raw)) for c in (ours, theirs)
        )
        assert found.keys() == expected.keys()
        for path, leaf in found.items():
            largest = np.abs(expected[path]).max()
            np.testing.assert_allclose(
                leaf, expected[path], rtol=0, atol=tolerance * max(largest, 1e-3), err_msg=path
            )


def short_and_seldom_saved(folder: Path, image_vae: str) -> TrainConfig:
    """A run of five steps."""
    config = short_run(folder, image_vae, gan="none")
    stage = dataclasses.replace(config.train, steps=5, checkpoint_every=100)
    return dataclasses.replace(config, train=stage, matmul_precision="highest")


def test_stopped_run_of_two_processes_goes_on_in_one_and_equals_that_of_one(
    image_vae, no_evaluations, tmp_path
):
    """With the same eight devices. SIGTERM comes to process 1 when the first batch has been marked:
    the second one carries the request, and both stop after the step that follows its own. Sums over
    devices are taken in another order: 1e-5."""
    in_one = short_and_seldom_saved(tmp_path / "one", image_vae)
    loop.train(in_one)
    config = dataclasses.replace(in_one, workdir=str(tmp_path / "two"))
    recipe = str(write_recipe(tmp_path, config))
    with workers(tmp_path / "said", [recipe], [recipe], fault="stop 1") as both:
        assert both.wait() == [0, 0], both.said(0) + both.said(1)
    sentence = "process 0 of 2 on .*: stopped by SIGTERM after step 3; .* goes on from step 3"
    assert re.search(sentence, both.said(0))
    assert [line["step"] for line in logged_lines(config)] == [1, 2, 3]
    for index in range(2):
        log = (Path(config.workdir) / "logs" / f"process_00{index}.log").read_text()
        assert f"process {index} of 2 starts on" in log
        assert "stopped by SIGTERM after step 3" in log
    loop.train(config)
    assert_runs_equal(config, in_one, tolerance=1e-5)


def devices_of(*counts: int) -> list:
    """Stand-ins, so many of every process."""
    return [
        types.SimpleNamespace(process_index=process, number=number)
        for process, count in enumerate(counts)
        for number in range(count)
    ]


def test_devices_are_left_out_of_every_process_alike():
    used = sharding.of_every_process(devices_of(4, 4), 4)
    assert [(device.process_index, device.number) for device in used] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    whole = devices_of(4, 4)[::-1]
    assert sharding.of_every_process(whole, 8) is whole  # in the order that jax has them


@pytest.mark.parametrize(("counts", "wanted"), [((4, 4), 3), ((1, 4), 4)])
def test_devices_that_processes_do_not_share_equally_are_refused(counts, wanted):
    with pytest.raises(UserError, match="equally from 2 processes; batches, and a mesh, of mult"):
        sharding.of_every_process(devices_of(*counts), wanted)
