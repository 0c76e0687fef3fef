"""Latents that are no numbers, in the commands: of a file, and of a model."""

import jax
import numpy as np
import pytest
from tiny_models import TINY, random_model
from tiny_videos import make_video

from cvvae_jax.checkpoint import save_model
from cvvae_jax.cli.main import main
from cvvae_jax.codec.values import Latents
from cvvae_jax.config import VideoVAEConfig
from cvvae_jax.latents.file import save_latents
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.video_io.video import probe


def run(command, source, target, weights) -> int:
    chunks = ["--weights", str(weights), "--chunk-frames", "4"]
    return main([command, str(source), str(target), *chunks])


@pytest.mark.parametrize(("number", "frames"), [(0, 0), (2, 5)])
def test_decode_names_the_latent_frame_of_a_file_and_keeps_what_came_before(
    tmp_path, weights, capsys, number, frames
):
    values = np.zeros((1, 4, 2, 2, 4), np.float32)
    values[0, number, 1, 0, 2] = np.nan
    save_latents(tmp_path / "nan.npz", Latents(values, 13, 16, 16), fps="25")
    assert run("decode", tmp_path / "nan.npz", tmp_path / "out.mp4", weights) == 2
    assert f"the latents' latent frame {number} holds NaN" in capsys.readouterr().err
    assert (tmp_path / "out.mp4").exists() == bool(frames)
    assert len(list(tmp_path.iterdir())) == 1 + bool(frames)
    if frames:
        assert probe(tmp_path / "out.mp4").frames == frames


def test_a_model_whose_latents_are_no_numbers_is_told(tmp_path, capsys):
    model = random_model(VideoVAE, VideoVAEConfig(**TINY))
    save_model(tmp_path / "weights", jax.tree.map(lambda x: np.nan * x, model))
    video = make_video(tmp_path / "in.mp4", frames=1, height=16, width=16)
    for command, name in (("encode", "z.npz"), ("reconstruct", "out.mp4")):
        assert run(command, video, tmp_path / name, tmp_path / "weights") == 2
        assert "the model's latent frame 0 holds NaN" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "weights"]
