"""Whole runs of tiny models on moving photographs."""

import dataclasses
import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from cvvae_jax import parameter_paths
from cvvae_jax.config import (
    Bucket,
    DataConfig,
    DiscriminatorConfig,
    ImageVAEConfig,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
    VideoVAEConfig,
)
from cvvae_jax.config.latent_scale import latent_scale
from cvvae_jax.errors import UserError
from cvvae_jax.loading import load
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.training import loop
from cvvae_jax.training.jobs import plan_run
from cvvae_jax.training.log import StageLog
from cvvae_jax.training.run_folder import write_config
from cvvae_jax.video_io.images import write_image

pytestmark = pytest.mark.usefixtures("with_reference_convolutions")

WIDTHS = {
    "block_channels": (8, 8),
    "blocks_per_level": 1,
    "norm_groups": 2,
    "mid_attention": False,
}


def tiny_run(folder: Path, *, steps: int = 6) -> TrainConfig:
    rhythm = {"log_every": 1, "eval_every": 3, "checkpoint_every": 2}
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=1)
    return TrainConfig(
        image_model=ImageVAEConfig(quant_conv=False, **WIDTHS),
        model=VideoVAEConfig(temporal_strides=(2,), decoder_attention="spatial", **WIDTHS),
        image_train=StageConfig(2, (Bucket(1, 16, 8),), optimizer, **rhythm),
        train=StageConfig(steps, (Bucket(5, 16, 8), Bucket(1, 16, 8)), optimizer, **rhythm),
        data=DataConfig(eval_clips=3),
        discriminator=DiscriminatorConfig(base_channels=8, layers=2, norm_groups=2),
        loss=LossConfig(lpips_weight=0.0, gan="none"),
        workdir=str(folder),
    )


def timeless(folder: Path) -> list[dict]:
    """The lines without what differs from run to run."""
    return [
        {name: value for name, value in line.items() if not name.startswith("throughput/")}
        for line in lines(folder)
    ]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished_and_watched(tmp_path_factory) -> tuple[Path, list[int]]:
    """A run's folder, and how many frames the batches had that it was trained on."""
    folder = tmp_path_factory.mktemp("finished")
    frames, put_batch = [], loop.sharding.put_batch

    def watched(batch, mesh):
        frames.append(batch["video"].shape[1])
        return put_batch(batch, mesh)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.sharding, "put_batch", watched)
        loop.train(tiny_run(folder))
    return folder, frames


@pytest.fixture(scope="module")
def finished(finished_and_watched) -> Path:
    return finished_and_watched[0]


def test_run_folder_holds_all_that_is_promised(finished):
    for name in (
        "config.json",
        "metrics.jsonl",
        "log.txt",
        "samples/contact_sheet.png",
        "samples/0000006.gif",
        "checkpoints/6/weights",
        "image_vae/checkpoints/2/weights",
    ):
        assert (finished / name).exists(), name
    assert list((finished / "tensorboard").iterdir())
    scores = json.loads((finished / "scores.json").read_text())
    names = {"recon", "compat", "image_latents", "image_vae", "bicubic", "bicubic_time"}
    for metric in ("psnr", "ssim", "hue", "chroma", "red", "green", "blue"):
        assert set(scores[metric]) == names
        assert all(np.isfinite(list(scores[metric].values())))
    assert [line["step"] for line in lines(finished) if "loss/total" in line] == [1, 2, 3, 4, 5, 6]


def test_run_may_end_with_the_image_vae_and_goes_on_from_it(tmp_path):
    config = dataclasses.replace(tiny_run(tmp_path, steps=1), image_only=True)
    assert plan_run(config).video is None
    scores = loop.train(config)
    assert {"psnr_recon", "hue_recon", "psnr_bicubic"} <= set(scores)
    assert {path.name for path in tmp_path.iterdir()} >= {"config.json", "image_vae"}
    assert not (tmp_path / "checkpoints").exists()
    written = json.loads((tmp_path / "image_vae/scores.json").read_text())
    assert written["psnr"]["recon"] == scores["psnr_recon"]
    assert loop.train(config) == pytest.approx(scores)  # which are read, not measured again
    before = parameter_paths.flatten(load(tmp_path / "image_vae"))
    assert "psnr_compat" in loop.train(dataclasses.replace(config, image_only=False))
    for path, array in parameter_paths.flatten(load(tmp_path / "image_vae")).items():
        np.testing.assert_array_equal(array, before[path])
    assert (tmp_path / "checkpoints/1").is_dir()


def test_image_vae_alone_needs_no_video(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        write_image(tmp_path / f"photos/{number}.png", np.zeros((16, 16, 3), np.uint8))
    data = DataConfig(images=str(tmp_path / "photos"), eval_clips=1)
    config = dataclasses.replace(tiny_run(tmp_path / "run"), data=data)
    assert plan_run(dataclasses.replace(config, image_only=True)).last.title == "image VAE"
    with pytest.raises(UserError, match="cannot be filled from images"):
        plan_run(config)
    with pytest.raises(UserError, match="image_only trains an image VAE, and image_vae names one"):
        dataclasses.replace(config, image_only=True, image_vae="there")


def test_both_kinds_of_batches_are_trained_on(finished_and_watched):
    _, frames = finished_and_watched
    assert frames[:2] == [1, 1]  # stage 1
    assert set(frames[2:]) == {1, 5}


@pytest.mark.parametrize(
    "done",
    [
        pytest.param(4, id="right_after_a_checkpoint"),
        pytest.param(5, id="in_between", marks=pytest.mark.slow),
    ],
)
def test_resumed_run_equals_uninterrupted_run(finished, tmp_path, monkeypatch, done):
    """Both runs have the same programs and numbers, and are equal to the bit."""
    count, put_batch = itertools.count(-2), loop.sharding.put_batch  # stage 1 has two batches

    def interrupted(batch, mesh):
        if next(count) == done:
            raise KeyboardInterrupt
        return put_batch(batch, mesh)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.sharding, "put_batch", interrupted)
        loop.train(tiny_run(tmp_path))
    assert (tmp_path / "checkpoints/4/state").exists()
    assert not (tmp_path / "checkpoints/6").exists()
    loop.train(tiny_run(tmp_path))
    expected = parameter_paths.flatten(load(finished))
    for path, leaf in parameter_paths.flatten(load(tmp_path)).items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)
    assert timeless(tmp_path) == timeless(finished)


def test_line_cut_short_by_a_kill_is_dropped(finished, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    StageLog(tmp_path, title="x", steps=4, start_step=2).close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_changed_settings_are_said(finished, capsys):
    changed = dataclasses.replace(tiny_run(finished), seed=1)
    write_config(finished, changed)
    assert "changed since the last start: seed 0 -> 1" in capsys.readouterr().out
    write_config(finished, tiny_run(finished))


def test_fewer_steps_than_done_are_refused(finished):
    with pytest.raises(UserError, match="has done 6 steps, more than the 3"):
        loop.train(tiny_run(finished, steps=3))


def test_finished_run_says_so_and_ends(finished, monkeypatch, capsys):
    before, scores = lines(finished), (finished / "scores.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "report", pytest.fail)
        again = loop.train(tiny_run(finished))
    assert "video VAE: all 6 steps are done already; scores.json has" in capsys.readouterr().out
    assert lines(finished) == before
    (finished / "scores.json").write_bytes(scores[:20])
    assert loop.train(tiny_run(finished)) == again
    assert (finished / "scores.json").read_bytes() == scores


@pytest.mark.slow
def test_random_start_and_loaded_image_vae(finished, tmp_path):
    config = dataclasses.replace(
        tiny_run(tmp_path, steps=1), init="random", image_vae=str(finished / "image_vae")
    )
    loop.train(config)
    assert not (tmp_path / "image_vae").exists()


def test_video_vae_is_no_image_vae(finished, tmp_path):
    config = dataclasses.replace(tiny_run(tmp_path), image_vae=str(finished))
    with pytest.raises(UserError, match="holds VideoVAE, not ImageVAE"):
        loop.train(config)


def test_latents_of_other_shapes_cannot_be_compatible(finished, tmp_path):
    config = tiny_run(tmp_path)
    model = dataclasses.replace(config.model, latent_channels=8)
    config = dataclasses.replace(config, model=model, image_vae=str(finished / "image_vae"))
    with pytest.raises(UserError, match="latent_channels is 8, the image VAE's 4"):
        loop.train(config)


@pytest.mark.parametrize("bucket", [Bucket(4, 16, 8), Bucket(5, 15, 8)])
def test_misfits_are_found_before_anything_is_written(tmp_path, bucket):
    folder = tmp_path / "run"
    config = tiny_run(folder)
    stage = dataclasses.replace(config.train, buckets=(bucket,))
    with pytest.raises(UserError, match=r"1 \+ 2k frames and multiples of 2 pixels"):
        loop.train(dataclasses.replace(config, train=stage))
    assert not folder.exists()


def test_frames_that_devices_cannot_share_are_found_too(tmp_path):
    config = dataclasses.replace(tiny_run(tmp_path), mesh=MeshConfig(space=8))
    stage = dataclasses.replace(config.train, buckets=(Bucket(5, 24, 8),))
    with pytest.raises(UserError, match=r"over 8 devices .* heights must be multiples of 16"):
        loop.train(dataclasses.replace(config, train=stage))


@pytest.mark.parametrize(
    "scale",
    [
        {"scaling_factor": 1.5, "shift_factor": 0.1},
        {"latents_mean": (1.0, 2.0, 3.0, 4.0), "latents_std": (5.0, 6.0, 7.0, 8.0)},
    ],
)
def test_latents_have_the_scale_of_the_image_vae(finished, tmp_path, scale):
    config = tiny_run(tmp_path)
    image_model = dataclasses.replace(config.image_model, **scale)
    video = plan_run(dataclasses.replace(config, image_model=image_model)).video
    model = jax.eval_shape(
        lambda key: video.create(key, ImageVAE(image_model, rngs=nnx.Rngs(0)), None),
        jax.random.key(0),
    )
    assert latent_scale(model.config).items() >= scale.items()
