"""Every metric of training is described, in TensorBoard as in docs/training.md."""

import re
from pathlib import Path

import numpy as np
from tensorboardX.proto.event_pb2 import Event

from cvvae_jax.training.evaluate import _LABELS
from cvvae_jax.training.metric_names import DESCRIPTIONS, describe
from cvvae_jax.training.pictures import rows_shown
from cvvae_jax.training.trackers import TensorBoard

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


def values(folder):
    """The values of all events."""
    [path] = folder.iterdir()
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        found += Event.FromString(data[at + 12 : at + 12 + length]).summary.value
        at += 16 + length
    return found


def test_documented_metrics_are_described_and_no_others():
    rows = re.findall(r"^\| (`[a-z_]+/.*?) \|", PAGE, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z_]+/[a-z_]+)`", row)}
    assert named == set(DESCRIPTIONS)


def test_scores_are_described():
    for rival in _LABELS:
        assert describe(f"eval/psnr_{rival}").startswith("On unseen clips, PSNR in dB of ")
        assert describe(f"eval/red_{rival}").startswith("On unseen clips, mean error of red in ")
        assert describe(f"eval/hue_{rival}").startswith("On a test chart, largest turn of a hue ")
    assert describe("loss/edges").startswith("A term that was added")
    assert describe("eval/other_recon") == describe("something") == ""


def test_tensorboard_shows_what_a_plot_is_of(tmp_path):
    board = TensorBoard(tmp_path / "board", first_step=1)
    board.scalars(1, {"loss/kl": 1.0})
    board.animation(1, "input, reconstruction", b"GIF", height=8, width=8)
    board.close()
    scalar, picture = values(tmp_path / "board")
    assert scalar.metadata.summary_description == DESCRIPTIONS["loss/kl"]
    assert picture.tag == "input, reconstruction"
    assert picture.metadata.summary_description.endswith("rows, from above: input, reconstruction.")


def test_an_animation_names_the_rows_that_it_has():
    frames = np.zeros((1, 1, 8, 8, 3))
    assert rows_shown({"input": frames, "recon": frames}) == "input, reconstruction"
    assert rows_shown({"input": frames, "compat": frames}).startswith("input, image decoder's view")
