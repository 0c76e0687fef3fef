"""`python eval.py`: what it leaves, that it goes on, and what it says of bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from many_processes import environment, workers
from PIL import Image
from tiny_models import TINY, random_model
from tiny_runs import save_clips, save_models

import cvvae_jax
from cvvae_jax.checkpoint import save_model
from cvvae_jax.cli.main import main
from cvvae_jax.config import I3DConfig, InceptionConfig, LPIPSConfig, SVDVAEConfig
from cvvae_jax.evaluation import contenders, run
from cvvae_jax.evaluation.metrics import METRICS
from cvvae_jax.metrics.image import psnr, ssim
from cvvae_jax.models.feature_networks.alexnet import AlexLPIPS
from cvvae_jax.models.feature_networks.i3d import I3D
from cvvae_jax.models.feature_networks.inception import InceptionV3
from cvvae_jax.models.feature_networks.vgg import LPIPS
from cvvae_jax.models.inputs import to_float
from cvvae_jax.models.svd_vae import SVDVAE
from cvvae_jax.video_io.video import read_frames

ROOT = Path(__file__).parents[2]
PROTOCOL = 'frames = 5\nmetrics = ["psnr", "ssim", "time", "seams"]\nchunk_frames = 2\n'


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return save_clips(tmp_path_factory.mktemp("media") / "clips", count=4, frames=6)


@pytest.fixture(scope="module")
def protocol(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("protocols") / "tiny.toml"
    path.write_text(PROTOCOL)
    return str(path)


@pytest.fixture(scope="module")
def command(models, clips, protocol):
    """The arguments of an evaluation of two video VAEs and an image VAE."""
    names = [f"{name}={models[name]}" for name in ("video", "other", "image")]
    return ["evaluate", *names, "--data", str(clips), "--protocol", protocol]


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory) -> Path:
    """The folder of one."""
    out = tmp_path_factory.mktemp("out") / "whole"
    assert main([*command, "--out", str(out)]) == 0
    return out


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def assert_same(found, expected, *, tolerance: float = 1e-6):
    """All numbers of two results, wherever they are."""
    match expected:
        case dict():
            assert found.keys() == expected.keys()
            for key in expected:
                assert_same(found[key], expected[key], tolerance=tolerance)
        case list():
            assert len(found) == len(expected)
            for pair in zip(found, expected, strict=True):
                assert_same(*pair, tolerance=tolerance)
        case float():
            assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)
        case _:
            assert found == expected


FIGURES = (
    *("protocol", "data", "contenders", "not_measured", "metrics", "scores", "paired", "series"),
    *("compatibility", "flat_fields"),
)


def test_figures_are_those_of_the_models(finished, models, clips):
    found = results(finished)
    assert [clip["name"] for clip in found["data"]["clips"]] == ["0.mp4", "2.mp4", "3.mp4"]
    names = [contender["name"] for contender in found["contenders"]]
    assert names == ["video", "other", "image", "nearest", "linear"]
    codec = cvvae_jax.Codec(cvvae_jax.load(models["other"]), chunk_frames=2)
    for i, name in enumerate(("0.mp4", "2.mp4", "3.mp4")):
        video = np.stack(list(read_frames(clips / name)))[None, :5]
        recon, video = (to_float(x) for x in (codec.reconstruct(video), video))
        for metric, function in (("psnr", psnr), ("ssim", ssim)):
            expected = float(function(recon, video).mean())
            # A pixel in a thousand may round the other way where programs differ: 1e-4.
            value = found["scores"]["other"][metric]["clips"][i]
            assert value == pytest.approx(expected, rel=1e-4)


def test_means_and_differences_are_those_of_the_clips(finished):
    found = results(finished)
    assert found["reference"] == "video"
    for metric in ("psnr", "ssim", "difference_psnr", "flicker", "drift", "chunk_seam"):
        ours, theirs = (found["scores"][name][metric] for name in ("other", "video"))
        assert ours["value"] == pytest.approx(np.mean(ours["clips"]))
        assert ours["low"] is None  # of three clips
        paired = found["paired"]["other"][metric]
        assert paired["difference"] == pytest.approx(
            np.mean(ours["clips"]) - np.mean(theirs["clips"]), abs=1e-9
        )
    assert "video" not in found["paired"]


def test_every_contender_is_measured_on_flat_fields(finished, capsys):
    """Clips have two chunks after the first frame, and 16 of the contender's latents on a side."""
    found = results(finished)["flat_fields"]
    assert list(found) == ["video", "other", "image", "nearest", "linear"]
    assert len(found["video"]["colors"]) == len({*map(tuple, found["video"]["colors"])}) == 17
    for name, side in (("video", 32), ("image", 32), ("nearest", 16)):
        assert (found[name]["frames"], found[name]["side"]) == (5, side)
        assert len(found[name]["by_frame"]) == 5
    for name in ("nearest", "linear"):  # they give such clips back exactly
        assert found[name]["structure"] == found[name]["color"] == 0
    for name in ("video", "image"):  # random networks, whose convolutions see the frame's border
        assert found[name]["structure"] > 1 and found[name]["border"] > 0
    # Every frame of an image VAE is the same, and it has no latent frames.
    assert found["image"]["time"] == pytest.approx(0, abs=1e-4)
    assert found["image"]["group_phase"] is None and found["video"]["group_phase"] is not None
    for picture in found["video"]["pictures"]:
        with Image.open(finished / picture["media"]) as image:
            assert image.size == (32, 32)
    assert "Lattice of latents" in (finished / "report.html").read_text()


def test_flat_fields_are_kept_and_measured_again_where_they_are_missing(
    finished, command, models, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "scores" / "other" / "flat_fields.npz").unlink()
    opened, load = [], contenders.load
    monkeypatch.setattr(contenders, "load", lambda path, **_: opened.append(path) or load(path))
    assert main([*command, "--out", str(out)]) == 0
    assert [str(path) for path in opened] == [models["other"]]
    assert_same(results(out)["flat_fields"], results(finished)["flat_fields"])
    said = capsys.readouterr().out
    assert said.index("other  ") < said.index("baselines, which are not ranked:")
    assert said.index("baselines, which") < said.index("nearest")
    assert re.search(r"video    color off by \d+\.\d\d, structure \d+\.\d\d", said)


def test_folder_of_other_definitions_is_refused(finished, command, monkeypatch, capsys):
    """Figures of two kinds of SSIM would stand in one table."""
    monkeypatch.setattr(run, "DEFINITIONS", 1)
    assert main([*command, "--out", str(finished)]) == 2
    assert "was begun with other definitions of metrics" in capsys.readouterr().err


def test_clips_that_cannot_be_measured_are_listed(finished):
    left_out = {clip["name"]: clip["reason"] for clip in results(finished)["data"]["left_out"]}
    assert left_out.keys() == {"1.mp4", "broken.mp4"}
    assert "has 2 frames, and 5 at a stride of 1" in left_out["1.mp4"]
    assert "cannot be read as a video" in left_out["broken.mp4"]
    assert "broken.mp4" in (finished / "report.html").read_text()


def test_report_shows_worst_and_best_clips_of_every_model(finished):
    examples = results(finished)["examples"]
    shown = [(example["contender"], example["why"]) for example in examples]
    assert shown == [(n, why) for n in ("video", "other", "image") for why in ("worst", "best")]
    scores = results(finished)["scores"]
    for example in examples:
        values = scores[example["contender"]]["psnr"]["clips"]
        wanted = {"worst": min, "best": max}[example["why"]](values)
        assert example["psnr"] == wanted
        # Input, reconstruction and error, side by side.
        frame = next(read_frames(finished / example["media"]))
        assert frame.shape[1] > 3 * frame.shape[0]


def test_no_number_is_nan_and_nothing_unfinished_is_left(finished):
    text = (finished / "results.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in results.json"))
    hidden = {path.name for path in finished.rglob("*") if path.name.startswith(".")}
    assert hidden == {".lock-0-of-1"}


def test_finished_folder_measures_nothing_again(finished, command, monkeypatch, capsys):
    before = results(finished)
    monkeypatch.setattr("cvvae_jax.evaluation.contenders.load", lambda *_, **__: 1 / 0)
    assert main([*command, "--out", str(finished)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert_same({k: results(finished)[k] for k in FIGURES}, {k: before[k] for k in FIGURES})


def test_two_processes_and_a_restart_give_the_figures_of_one(finished, command, tmp_path, capsys):
    """A file that is missing, as after a kill, is measured again; the other process's clips are
    waited for. Batches of other clips may be summed in another order: 1e-6."""
    out = str(tmp_path / "out")
    assert main([*command, "--out", out, "--process-index", "1", "--process-count", "2"]) == 0
    assert "other processes have not finished theirs" in capsys.readouterr().out
    assert not (tmp_path / "out" / "results.json").exists()
    some = next((tmp_path / "out" / "scores" / "other").glob("*.npz"))
    some.unlink()
    assert main([*command, "--out", out, "--process-index", "0", "--process-count", "2"]) == 0
    assert "other processes have not finished theirs" in capsys.readouterr().out
    assert main([*command, "--out", out]) == 0
    found, expected = results(tmp_path / "out"), results(finished)
    assert_same({k: found[k] for k in FIGURES}, {k: expected[k] for k in FIGURES})


def test_contender_can_be_added_to_a_folder(finished, command, models, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "scores" / "other" / "contender.json").unlink()
    for path in (out / "scores" / "other").glob("*.npz"):
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in (out / "scores" / "video").glob("*.npz")}
    assert main([*command, "--out", str(out)]) == 0
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert_same(results(out)["scores"], results(finished)["scores"])


def bad_inputs(tmp_path: Path, models: dict[str, str]) -> dict[str, tuple[dict, str]]:
    """What is changed in the command, and what is said."""
    empty, texts, short = (tmp_path / name for name in ("empty", "texts", "short"))
    for folder in (empty, texts):
        folder.mkdir()
    (texts / "notes.txt").write_text("no video")
    save_clips(short, count=2, frames=3)
    unknown, wrong = tmp_path / "unknown.toml", tmp_path / "wrong.toml"
    unknown.write_text("framse = 5")
    wrong.write_text('size = "big"')
    no_model = tmp_path / "no_model"
    no_model.mkdir()
    return {
        "no-clips": ({"data": empty}, "empty holds no video file"),
        "text": ({"data": texts}, "texts holds no video file"),
        "no-folder": ({"data": tmp_path / "nowhere"}, "nowhere"),
        "short": ({"data": short}, "none of the 3 files of .*short can be measured; the first: "),
        "unknown-field": ({"protocol": unknown}, "unknown.toml: a protocol has no field framse"),
        "wrong-field": ({"protocol": wrong}, "wrong.toml: size must be a whole number"),
        "no-protocol": ({"protocol": "papers"}, "there is no protocol papers; there are "),
        "no-model": ({"contenders": [str(no_model)]}, "no_model"),
        "twice": ({"contenders": [models["video"]] * 2}, "several contenders are called video"),
        "no-image-vae": ({"image-vae": models["video"]}, "holds VideoVAE, not ImageVAE"),
        "mismatched": (
            {"image-vae": models["wide"]},
            "the image VAE .*wide has 16 channels for 2 x 2 pixels, video 4 channels for 2 x 2",
        ),
        "no-lpips": ({"lpips": models["video"]}, "holds VideoVAE, not LPIPS"),
    }


CASES = [
    *("no-clips", "text", "no-folder", "short", "unknown-field", "wrong-field", "no-protocol"),
    *("no-model", "twice", "no-image-vae", "mismatched", "no-lpips"),
]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_clear_sentence(case, models, clips, tmp_path, capsys):
    text = tmp_path / "tiny.toml"
    text.write_text('frames = 5\nmetrics = ["psnr", "lpips_vgg"]\n')
    cases = bad_inputs(tmp_path, models)
    assert cases.keys() == set(CASES)
    change, said = cases[case]
    values = {"data": clips, "protocol": text, "out": tmp_path / "out"} | change
    contenders = values.pop("contenders", [models["video"]])
    options = [str(x) for name, value in values.items() for x in (f"--{name}", value)]
    assert main(["evaluate", *contenders, *options]) == 2
    error = capsys.readouterr().err.splitlines()
    errors = [line for line in error if line.startswith("error: ")]
    assert len(errors) == 1 and re.search(said, errors[0])
    assert "Traceback" not in "".join(error)


def test_folder_of_something_other_is_refused(finished, command, models, tmp_path, capsys):
    before = (finished / "results.json").read_bytes()
    other = tmp_path / "tiny.toml"
    other.write_text(PROTOCOL + "seed = 1\n")
    clips = save_clips(tmp_path / "clips", count=2, frames=6)
    for name, value, said in (
        ("--protocol", str(other), "was begun with other protocol"),
        ("--data", str(clips), "was begun with other data"),
        (None, ["--matmul-precision", "default"], "was begun with other matmul precision"),
        (None, ["--dtype", "bfloat16"], "video had other dtype when"),
        (f"other={models['other']}", f"other={models['video']}", "other had other sha256 when"),
    ):
        arguments = list(command)
        if name is None:
            arguments += value
        elif name in ("--protocol", "--data"):
            arguments[arguments.index(name) + 1] = value
        else:
            arguments[arguments.index(name)] = value
        assert main([*arguments, "--out", str(finished)]) == 2
        assert said in capsys.readouterr().err
    assert (finished / "results.json").read_bytes() == before


def test_changed_clip_is_noticed(finished, command, clips, tmp_path, capsys):
    """Figures of two files would be compared under one name."""
    out, data = tmp_path / "out", tmp_path / "clips"
    shutil.copytree(finished, out)
    shutil.copytree(clips, data)
    shutil.copy(data / "2.mp4", data / "0.mp4")
    for path in (out / "scores" / "other").glob("*.npz"):
        path.unlink()
    arguments = [str(data) if argument == str(clips) else argument for argument in command]
    assert main([*arguments, "--out", str(out)]) == 2
    assert re.search(r"error: 0\.mp4: not the file that it was when", capsys.readouterr().err)


def test_corrected_command_goes_on_where_a_wrong_one_failed(command, tmp_path, capsys):
    wrong, right = (tmp_path / name / "tiny.toml" for name in ("wrong", "right"))
    for path, frames in ((wrong, 500), (right, 5)):
        path.parent.mkdir()
        path.write_text(f'frames = {frames}\nmetrics = ["psnr"]\n')
    out = tmp_path / "out"
    arguments = [*command[:2], "--image-vae", "none", "--baselines", "--data"]
    arguments += [command[command.index("--data") + 1], "--out", str(out), "--protocol"]
    assert main([*arguments, str(wrong)]) == 2
    assert "none of the 5 files" in capsys.readouterr().err
    assert main([*arguments, str(right)]) == 0
    assert len(results(out)["data"]["clips"]) == 3


def test_clip_that_is_too_small_for_a_model_is_listed(command, clips, tmp_path):
    data, out = tmp_path / "clips", tmp_path / "out"
    shutil.copytree(clips, data)
    tiny = save_clips(tmp_path / "tiny", count=1, frames=6, height=1, width=20)
    shutil.copy(tiny / "0.mp4", data / "9.mp4")
    arguments = [*command[:2], "--image-vae", "none", "--baselines", "--data", str(data)]
    assert main([*arguments, *command[-2:], "--out", str(out)]) == 0
    left_out = {clip["name"]: clip["reason"] for clip in results(out)["data"]["left_out"]}
    assert "9.mp4 has 20x1 pixels; these models need 2x2 at least" in left_out["9.mp4"]


def test_image_vae_of_a_run_that_has_moved_is_named(models, clips, protocol, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(models["video"], run)
    (run / "config.json").write_text('{"image_vae": "/nowhere/image_vae"}')
    command = ["evaluate", str(run), "--data", str(clips), "--protocol", protocol]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "was trained with the image VAE /nowhere/image_vae, which is not there" in error


def test_folder_of_something_else_is_refused(command, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main([*command, "--out", str(tmp_path)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_killed_at_any_moment_and_restarted_it_gives_the_same_figures(finished, command, tmp_path):
    out, rng = tmp_path / "out", np.random.default_rng(0)
    script = [sys.executable, str(ROOT / "eval.py"), *command[1:], "--out", str(out)]
    for _ in range(6):
        process = subprocess.Popen(script, env=environment(devices=8), start_new_session=True)
        time.sleep(rng.uniform(4, 25))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(script, env=environment(devices=8)).returncode == 0
    assert_same({k: results(out)[k] for k in FIGURES}, {k: results(finished)[k] for k in FIGURES})


@pytest.mark.slow
def test_processes_of_a_cluster_share_the_clips_and_wait_for_each_other(
    finished, command, tmp_path
):
    out = tmp_path / "out"
    arguments = [*command[1:], "--out", str(out)]
    script = Path(__file__).parent / "late_process.py"
    with workers(tmp_path / "said", arguments, arguments, script=script) as both:
        assert both.wait(300) == [0, 0], both.said(0) + both.said(1)
        assert "report.html shows the rest" in both.said(0)  # the first one prints the table
    found, expected = results(out), results(finished)
    assert_same({k: found[k] for k in FIGURES}, {k: expected[k] for k in FIGURES})


@pytest.mark.slow
def test_every_metric_of_every_kind_of_model(models, tmp_path):
    """Networks are random; whole videos of two lengths, at a size that no stride divides."""
    networks = {
        "lpips": random_model(LPIPS, LPIPSConfig()),
        "lpips-alex": random_model(AlexLPIPS, LPIPSConfig()),
        "i3d": I3D(I3DConfig(), rngs=nnx.Rngs(0)),
        "inception": InceptionV3(InceptionConfig(), rngs=nnx.Rngs(0)),
    }
    svd = random_model(SVDVAE, SVDVAEConfig(**TINY))
    for name, network in (networks | {"svd": svd}).items():
        save_model(tmp_path / name, network)
    data = save_clips(tmp_path / "clips", count=1, frames=11, height=35, width=41)
    more = save_clips(tmp_path / "more", count=1, frames=14, height=35, width=41)
    (more / "0.mp4").rename(data / "longer.mp4")
    protocol = tmp_path / "all.toml"
    protocol.write_text(f"metrics = {json.dumps(tuple(METRICS))}\nlatents = 'sample'\n")
    out = tmp_path / "out"
    command = [f"{name}={models[name]}" for name in ("video", "wide")]
    command += [f"svd={tmp_path / 'svd'}", "--image-vae", f"image={models['image']}"]
    command += ["--baselines", "nearest", "linear", "bicubic"]
    for name in networks:
        command += [f"--{name}", str(tmp_path / name)]
    command += ["--data", str(data), "--protocol", str(protocol), "--out", str(out)]
    assert main(["evaluate", *command]) == 0
    found = results(out)
    names = ["video", "wide", "svd", "image", "nearest", "linear", "bicubic"]
    assert [contender["name"] for contender in found["contenders"]] == names
    shown = {metric["key"] for metric in found["metrics"]}
    assert shown >= {"psnr", "ssim", "lpips_vgg", "lpips_alex", "warping", "fvd", "fid", "drift"}
    latents = {metric["key"] for metric in found["metrics"] if metric["group"] == "latents"}
    assert latents >= {"latent_spectrum", "velocity_variance"}
    for name in names:
        without = latents if name in ("nearest", "linear", "bicubic") else set()
        for key in shown - {"chunk_seam", "tile_seam"} - without:
            assert found["scores"][name][key]["value"] is not None, (name, key)
    assert found["compatibility"].keys() == {"video"}
    assert [each["metric"] for each in found["not_measured"]] == ["MS-SSIM"]  # takes 176 pixels
    assert len(found["series"]["video"]["psnr_over_time"]) == 13  # half of the clips last longer


def test_bad_clip_with_a_name_of_any_bytes_is_named_in_the_report(models, clips, tmp_path):
    shutil.copytree(clips, tmp_path / "clips")
    (tmp_path / "clips" / os.fsdecode(b"odd\xff\x1b[2J\n.mp4")).write_bytes(b"nothing that plays")
    text, out = tmp_path / "tiny.toml", tmp_path / "out"
    text.write_text('frames = 5\nmetrics = ["psnr"]\n')
    data = ["--data", str(tmp_path / "clips"), "--protocol", str(text), "--out", str(out)]
    assert main(["evaluate", models["image"], *data, "--image-vae", "none"]) == 0
    for name in ("results.json", "report.html"):
        page = (out / name).read_bytes()
        assert b"udcff" in page and b"\x1b" not in page
