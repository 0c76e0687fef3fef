"""`~` is the home folder in every path that a user gives."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tiny_models import random_model, save_tiny_vae
from tiny_videos import make_video

import cvvae_jax
from cvvae_jax.checkpoint import find_model, save_model
from cvvae_jax.cli import main as cli
from cvvae_jax.cli.main import main
from cvvae_jax.codec.values import Latents
from cvvae_jax.config import DataConfig, ImageVAEConfig
from cvvae_jax.config.places import argument_at_home, at_home
from cvvae_jax.data.sources import open_source, open_sources
from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.protocol import load_protocol
from cvvae_jax.loading import open_model
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.recipe import from_json, load_recipe, parse_train_config, to_json
from cvvae_jax.resumable.target import absolute
from cvvae_jax.video_io import video
from cvvae_jax.video_io.frame_index import frame_times
from cvvae_jax.video_io.images import write_image
from cvvae_jax.video_io.video_writer import VideoWriter

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """Another home, and an empty folder to work in, where nothing may be left."""
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path / "work")
    yield folder
    assert os.listdir() == []


@pytest.mark.parametrize(
    "kept",
    [
        *("gs://bucket/~/x", "s3://~/x", "tfds:name?data_dir=/x", "/a/~/b", "a~", "./~/x", ""),
        *("~nobody-of-this-name/x", "file~", "{000..123}.tar"),
    ],
)
def test_what_is_no_home_stays(kept):
    assert at_home(kept) == kept and argument_at_home(kept) == kept


def test_models_of_the_package_are_found_from_anywhere():
    folder = Path(cvvae_jax.__file__).parent / "pretrained" / "image_vae"
    assert at_home("pretrained:image_vae") == str(folder)
    assert argument_at_home("--image-vae=pretrained:image_vae") == f"--image-vae={folder}"
    assert at_home("./pretrained:image_vae") == "./pretrained:image_vae"
    assert isinstance(cvvae_jax.load("pretrained:image_vae"), ImageVAE)


def test_homes_of_others_and_patterns_behind_a_home(home):
    assert at_home("~/clips/**/*.mp4") == f"{home}/clips/**/*.mp4"
    assert at_home("~") == str(home)
    assert at_home("~root/x") == os.path.expanduser("~root/x") != "~root/x"


def test_arguments_of_a_command(home):
    for given, meant in (
        ("~/x", f"{home}/x"),
        ("--workdir=~/x", f"--workdir={home}/x"),
        ("name=~/x", f"name={home}/x"),
        ("--data.videos", "--data.videos"),
        ("a=b=~/x", "a=b=~/x"),
        ("x\n~", "x\n~"),
    ):
        assert argument_at_home(given) == meant


def test_every_command_gets_them(home, monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "_run", lambda name, arguments: seen.append(arguments) or 0)
    for command in cli.COMMANDS.keys() - {"train"}:
        assert main([command, "~/a", "--out=~/b", "c=~/d"]) == 0
    wanted = [f"{home}/a", f"--out={home}/b", f"c={home}/d"]
    assert seen == [wanted] * (len(cli.COMMANDS) - 1)


def test_settings_of_a_recipe(home):
    (home / "mine.py").write_text((CONFIGS / "quickstart.py").read_text())
    places = {
        "workdir": "~/runs/x",
        "image-vae": "~/a",
        "init-weights": "~/b",
        "lpips": "~/c",
        "data.videos": "~/clips/*.mp4",
        "data.images": "~/i",
        "data.photos": "~/p",
        "data.eval-videos": "~/e",
        "data.exclude": "~/bad.txt",
    }
    given = [part for name, place in places.items() for part in (f"--{name}", place)]
    for config in (
        parse_train_config(["~/mine.py", *given]),
        parse_train_config(["~/mine.py", *(f"--{name}={p}" for name, p in places.items())]),
    ):
        config = from_json(type(config), to_json(config))
        assert (config.workdir, config.image_vae) == (f"{home}/runs/x", f"{home}/a")
        assert (config.init_weights, config.lpips) == (f"{home}/b", f"{home}/c")
        data = config.data
        assert (data.videos, data.images) == (f"{home}/clips/*.mp4", f"{home}/i")
        assert data.photos == f"{home}/p"
        assert (data.eval_videos, data.exclude) == (f"{home}/e", f"{home}/bad.txt")
    assert DataConfig(videos="gs://x/~/y").videos == "gs://x/~/y"
    assert load_recipe("~/mine.py")


def test_sources_lists_and_exclusions(home):
    (home / "clips").mkdir()
    make_video(home / "clips/a.mp4", frames=2, height=8, width=8)
    write_image("~/clips/b.png", np.zeros((4, 4, 3), np.uint8))
    (home / "list.csv").write_text("path\n~/clips/a.mp4\nclips/a.mp4\n")
    (home / "list.jsonl").write_text(json.dumps({"path": "~/clips/b.png"}))
    clip = str(home / "clips/a.mp4")
    for place in ("~/clips", "~/clips/*.mp4", "~/clips/a.mp4"):
        assert open_source(place, "video").name(0) == clip
    listed = open_source("~/list.csv", "video")
    assert [listed.name(number) for number in range(2)] == [clip, clip]
    assert open_source("~/list.jsonl", "image")[0] == home / "clips/b.png"
    (home / "bad.txt").write_text("~/clips/a.mp4\n")
    assert list(open_sources("~/clips", exclude="~/bad.txt")) == ["image"]
    assert absolute("~/shards") == f"{home}/shards"
    assert absolute("gs://x/~") == "gs://x/~"
    with pytest.raises(UserError, match=rf"{home}/none: no such file"):
        open_source("~/none", "video")


def test_files_of_media(home):
    frame = np.full((8, 8, 3), 100, np.uint8)
    with VideoWriter("~/a.mp4", fps=25, height=8, width=8) as writer:
        writer.write(frame)
    write_image("~/a.png", frame)
    for name in ("~/a.mp4", "~/a.png"):
        assert len(list(video.read_frames(name))) == 1
        assert len(video.read_clip(name, [0])) == len(frame_times(name)) == 1
        assert video.probe(name).height == 8
    assert sorted(os.listdir(home)) == ["a.mp4", "a.png"]


def test_models_and_latents(home):
    config = ImageVAEConfig(block_channels=(4,), norm_groups=2, blocks_per_level=1)
    save_model("~/vae", random_model(ImageVAE, config))
    assert find_model("~/vae") == home / "vae"
    assert cvvae_jax.load("~/vae").config == open_model("~/vae").config == config
    latents = Latents(np.zeros((1, 1, 2, 2, 4), np.float32), 1, 2, 2)
    cvvae_jax.save_latents("~/z.npz", latents)
    assert cvvae_jax.load_latents("~/z.npz").frames == 1
    with pytest.raises(UserError, match=rf"{home}/none is no folder that `latents` wrote"):
        cvvae_jax.LatentsDataset("~/none")
    (home / "mine.toml").write_text('media = "image"\nmetrics = ["psnr"]\n')
    assert load_protocol("~/mine.toml", folder=CONFIGS / "protocols")[0] == "mine"


def test_inspect_of_a_run_at_home(home, capsys):
    save_tiny_vae(home / "vae")
    assert main(["inspect", "~/vae"]) == 0
    assert str(home / "vae") in capsys.readouterr().out
