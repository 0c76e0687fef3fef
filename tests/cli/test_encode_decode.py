"""`encode` and `decode`: latents as files, from and to videos."""

import io
import itertools
import logging
from fractions import Fraction

import jax
import numpy as np
import pytest
from flax import nnx
from many_processes import ROOT, workers
from packets import MEDIA, shown
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny_videos import RATE, make_video

from cvvae_jax.checkpoint import save_model
from cvvae_jax.cli import encode
from cvvae_jax.cli.main import main
from cvvae_jax.codec import stream
from cvvae_jax.codec.codec import Codec
from cvvae_jax.codec.values import Latents
from cvvae_jax.config import ImageVAEConfig
from cvvae_jax.errors import UserError
from cvvae_jax.latents.file import (
    LatentsMetadata,
    LatentsWriter,
    load_latents,
    open_latents,
    save_latents,
)
from cvvae_jax.loading import load
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.video_io.display import Display
from cvvae_jax.video_io.frame_index import read_times
from cvvae_jax.video_io.video import probe, read_frames
from cvvae_jax.video_io.video_writer import VideoWriter

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    return make_video(tmp_path_factory.mktemp("video") / "in.mp4", frames=11, height=37, width=51)


def run(command, source, target, weights, *options) -> int:
    chunks = ["--weights", weights, "--chunk-frames", "4"]
    return main([command, str(source), str(target), *chunks, *options])


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_encode_writes_what_the_codec_gives_and_decode_its_video(tmp_path, weights, source, suffix):
    latents, out = tmp_path / f"latents.{suffix}", tmp_path / "out.mp4"
    assert run("encode", source, latents, weights) == 0
    codec = Codec(load(weights), chunk_frames=4, devices=jax.devices()[:1])
    video = np.stack(list(read_frames(source)))[None]
    expected = codec.encode(video)
    written = load_latents(latents)
    # Eight devices take another batch than one: some roundings of values of order 1.
    np.testing.assert_allclose(written.values, expected.values, atol=1e-5)
    assert (written.frames, written.height, written.width) == (11, 37, 51)
    assert open_latents(latents).metadata.fps == "30000/1001"

    assert run("decode", latents, out, weights) == 0
    recon = np.stack(list(read_frames(out))).astype(int)
    assert recon.shape == (11, 37, 51, 3)
    assert probe(out).fps == RATE
    # H.264 at this quality is some levels off.
    assert np.abs(recon - codec.decode(expected)[0]).mean() < 4


def test_latents_keep_times_and_the_shape_of_pixels(tmp_path, weights):
    """25 frames a second for 1 s, then 5; and a video of which half is written."""
    latents, out = tmp_path / "latents.safetensors", tmp_path / "out.mp4"
    source = tmp_path / "in.mp4"
    times = read_times(MEDIA / "vfr_with_sound.mp4")
    wide = Display(Fraction(2, 1))
    with VideoWriter(source, times=times, height=16, width=24, display=wide) as writer:
        for level in range(45):
            writer.write(np.full((16, 24, 3), 5 * level, np.uint8))
    assert run("encode", source, latents, weights) == 0
    assert run("decode", latents, out, weights) == 0
    assert shown(out, "video") == shown(source, "video")
    assert probe(out).display == wide
    alone = tmp_path / "alone.mp4"
    assert run("decode", latents, alone, weights, "--mode", "image") == 0
    assert shown(alone, "video") == shown(source, "video")[::4]
    even = tmp_path / "even.mp4"
    assert run("decode", latents, even, weights, "--fps", "10") == 0
    assert shown(even, "video") == [k / 10 for k in range(45)]


def test_what_is_there_is_replaced_only_on_request(tmp_path, weights, source, capsys):
    latents, out = tmp_path / "latents.npz", tmp_path / "out.mp4"
    for command, given, target in [("encode", source, latents), ("decode", latents, out)]:
        target.write_text("mine")
        assert run(command, given, target, weights) == 2
        assert f"{target} exists; --overwrite replaces it." in capsys.readouterr().err
        assert run(command, given, target, weights, "--plan") == 0
        assert target.read_text() == "mine"
        assert run(command, given, target, weights, "--overwrite") == 0
        assert target.read_bytes() != b"mine"


@pytest.mark.parametrize(
    "facts",
    [
        {"times": "{}"},
        {"times": '{"rate": "25", "count": 3}'},
        {"times": '{"rate": "25", "ticks": [0, 0], "count": 2}'},
        {"pixel_aspect": "0"},
        {"pixel_aspect": "wide"},
    ],
)
def test_times_of_another_video_are_refused(tmp_path, weights, facts, capsys):
    latents = Latents(np.zeros((1, 1, 2, 2, 4), np.float32), 1, 16, 16)
    save_latents(tmp_path / "latents.safetensors", latents, fps="25", **facts)
    assert run("decode", tmp_path / "latents.safetensors", tmp_path / "out.mp4", weights) == 2
    assert "its metadata is damaged" in capsys.readouterr().err


def test_image_mode_gives_a_frame_for_every_latent_frame_in_the_same_time(
    tmp_path, weights, source
):
    latents, out = tmp_path / "latents.npz", tmp_path / "out.mp4"
    assert run("encode", source, latents, weights) == 0
    assert run("decode", latents, out, weights, "--mode", "image") == 0
    frames = np.stack(list(read_frames(out))).astype(int)
    assert frames.shape == (4, 37, 51, 3)
    assert probe(out).fps == RATE / 4
    codec = Codec(load(weights), devices=jax.devices()[:1])
    whole = load_latents(latents)
    alone = [codec.decode(whole.values[:, i : i + 1])[0, 0, :37, :51] for i in range(4)]
    assert np.abs(frames - (np.clip(alone, -1, 1) + 1) * 127.5).mean() < 4


def test_image_vae_decodes_the_latent_frames_of_a_video(tmp_path, source):
    """It would have made eleven of eleven frames, not four."""
    config = ImageVAEConfig(block_channels=(8, 8, 8, 8), blocks_per_level=1, norm_groups=4)
    shapes = jax.eval_shape(lambda: ImageVAE(config, rngs=nnx.Rngs(0)))
    model = jax.tree.map(lambda x: jax.numpy.full(x.shape, 0.01, x.dtype), shapes)
    save_model(tmp_path / "image_vae", model)
    values = np.random.default_rng(0).standard_normal((1, 4, 5, 7, 4)).astype(np.float32)
    save_latents(tmp_path / "z.npz", Latents(values, 11, 37, 51), fps="22")
    out, image_vae = tmp_path / "out.mp4", str(tmp_path / "image_vae")
    assert run("decode", tmp_path / "z.npz", out, image_vae, "--mode", "image") == 0
    assert [frame.shape for frame in read_frames(out)] == [(37, 51, 3)] * 4
    assert probe(out).fps == Fraction(22 * 4, 11)
    assert run("decode", tmp_path / "z.npz", tmp_path / "no.mp4", image_vae) == 2


def test_scaled_latents_are_the_diffusion_models_and_come_back_unscaled(tmp_path, weights, source):
    plain, scaled = tmp_path / "plain.safetensors", tmp_path / "scaled.safetensors"
    assert run("encode", source, plain, weights) == 0
    assert run("encode", source, scaled, weights, "--scaled") == 0
    np.testing.assert_allclose(
        load_latents(scaled).values, load_latents(plain).values * 0.18215, rtol=1e-6
    )
    codec = Codec(load(weights), chunk_frames=4, devices=jax.devices()[:1])
    back = codec.unscale(load_latents(scaled))
    np.testing.assert_allclose(back.values, load_latents(plain).values, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        codec.scale(back).values, load_latents(scaled).values, rtol=1e-6, atol=1e-6
    )


def test_latents_from_elsewhere_need_their_rate_only(tmp_path, weights, capsys):
    latents = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float16)
    save_file({"latents": latents}, tmp_path / "z.safetensors")
    out = tmp_path / "out.mp4"
    assert run("decode", tmp_path / "z.safetensors", out, weights) == 2
    assert "give --fps" in capsys.readouterr().err
    assert run("decode", tmp_path / "z.safetensors", out, weights, "--fps", "12.5") == 0
    assert [f.shape for f in read_frames(out)] == [(24, 32, 3)] * 5
    assert probe(out).fps == Fraction(25, 2)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_file_keeps_latents_and_what_is_known_of_them(tmp_path, suffix):
    values = np.random.default_rng(0).standard_normal((1, 3, 2, 5, 4)).astype(np.float32)
    latents = Latents(values, 9, 16, 37, "uint8", scaled=True)
    save_latents(tmp_path / f"z.{suffix}", latents, fps="25", source="a.mp4")
    back = load_latents(tmp_path / f"z.{suffix}")
    np.testing.assert_array_equal(back.values, values)
    assert (back.frames, back.height, back.width) == (9, 16, 37)
    assert back.pixels == "uint8"
    assert back.scaled
    assert open_latents(tmp_path / f"z.{suffix}").metadata.source == "a.mp4"


def test_written_files_are_those_of_the_formats(tmp_path):
    """Read without this package."""
    values = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 2, 2)
    for suffix in ("safetensors", "npz"):
        save_latents(tmp_path / f"z.{suffix}", Latents(values, 5, 24, 16))
    with safe_open(tmp_path / "z.safetensors", framework="numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("latents"), values[0])
        assert file.metadata()["height"] == "24"
    with np.load(tmp_path / "z.npz") as arrays:
        np.testing.assert_array_equal(arrays["latents"], values[0])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("z.npz", b"text", "holds no latents"),
        ("z.safetensors", b"text", "holds no latents"),
        ("z.bin", b"", "ends in .safetensors or .npz"),
    ],
)
def test_files_without_latents_are_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        open_latents(tmp_path / name)


def test_what_is_compiled_is_said_once(tmp_path, monkeypatch, weights, source):
    """The root logger has a handler, too, as Orbax' libraries give it one."""
    roots = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(roots)])
    assert run("encode", source, tmp_path / "z.npz", weights) == 0
    assert "Compiled" not in roots.getvalue()


def test_arrays_that_are_no_latents_are_named(tmp_path):
    np.savez(tmp_path / "z.npz", latents=np.zeros((1, 2, 3, 4), int))
    with pytest.raises(UserError, match="not int64"):
        open_latents(tmp_path / "z.npz")
    save_file({"latents": np.zeros((1, 2, 3, 4), np.uint8)}, tmp_path / "z.safetensors")
    with pytest.raises(UserError, match="not U8"):
        open_latents(tmp_path / "z.safetensors")
    save_file({"latents": np.zeros((1, 4, 2, 3, 3), np.float32)}, tmp_path / "z.safetensors")
    with pytest.raises(UserError, match=r"\(n, y, x, z\), not \(1, 4, 2, 3, 3\)"):
        open_latents(tmp_path / "z.safetensors")


@pytest.mark.parametrize(
    ("name", "word"),
    [("frames", "many"), ("frames", '"5"'), ("scaled", "1"), ("pixels", "int4"), ("height", "-8")],
)
def test_damaged_metadata_is_named(tmp_path, name, word):
    said = {"layout": "n y x z", "frames": "1", "height": "8", "width": "8", name: word}
    latents = {"latents": np.zeros((1, 1, 1, 4), np.float32)}
    save_file(latents, tmp_path / "z.safetensors", metadata=said)
    with pytest.raises(UserError, match="its metadata is damaged"):
        open_latents(tmp_path / "z.safetensors")


@pytest.mark.parametrize(
    ("facts", "options", "said"),
    [
        ({"scaled": False}, ["--scaled"], "leave out --scaled"),
        (
            {"scaled": True, "scaling_factor": 0.13025, "shift_factor": 0.0},
            [],
            "scaled as (latents - 0.0) * 0.13025, but this model scales as (latents - 0.0) * 0.18",
        ),
        (
            {
                **{"scaled": True, "scaling_factor": 0.18215, "shift_factor": 0.0},
                **{"latents_mean": (1.0,) * 4, "latents_std": (2.0,) * 4},
            },
            [],
            "scaled as (latents - [1.0, 1.0, 1.0, 1.0]) * 0.18215 / [2.0, 2.0, 2.0, 2.0], but",
        ),
    ],
)
def test_scale_that_contradicts_the_file_is_refused(
    tmp_path, weights, capsys, facts, options, said
):
    with LatentsWriter(tmp_path / "z.npz") as writer:
        writer.write(np.zeros((1, 1, 1, 4), np.float32))
        writer.finish(LatentsMetadata(frames=1, height=8, width=8, fps="25", **facts))
    assert run("decode", tmp_path / "z.npz", tmp_path / "out.mp4", weights, *options) == 2
    assert said in capsys.readouterr().err


def test_latents_of_another_model_are_refused(tmp_path, weights, capsys):
    save_latents(tmp_path / "z.npz", Latents(np.zeros((1, 2, 2, 2, 16), np.float32), 5, 16, 16))
    out = tmp_path / "out.mp4"
    assert run("decode", tmp_path / "z.npz", out, weights, "--fps", "25") == 2
    error = capsys.readouterr().err
    assert "(2, 2, 2, 16)" in error
    assert "(2, 2, 2, 4)" in error
    assert not out.exists()


def test_interrupted_encode_keeps_the_latents_until_then(
    tmp_path, monkeypatch, weights, source, capsys
):
    def interrupted(codec, frames, *, key):
        assert len(list(itertools.islice(frames, 9))) == 9
        yield np.ones((2, 5, 7, 4), np.float32)
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, "encode_frames", interrupted)
    assert run("encode", source, tmp_path / "z.npz", weights) == 130
    assert "z.npz holds the latents of the first 5 frames." in capsys.readouterr().err
    assert load_latents(tmp_path / "z.npz").frames == 5
    assert {path.name for path in tmp_path.iterdir()} == {"z.npz"}


@pytest.mark.slow
def test_processes_share_a_video_and_the_first_one_writes(tmp_path, weights, source):
    script = ROOT / "cvvae_jax" / "__main__.py"
    latents, out = tmp_path / "z.safetensors", tmp_path / "out.mp4"
    options = ["--weights", weights, "--chunk-frames", "4"]
    for command, *paths in (
        ("encode", source, latents),
        ("decode", latents, out),
        ("reconstruct", source, tmp_path / "recon.mp4"),
    ):
        own = [command, *map(str, paths), *options]
        with workers(tmp_path / command, own, own, devices=2, script=script) as running:
            assert running.wait(timeout=300) == [0, 0], running.said(0) + running.said(1)
            assert paths[1].name in running.said(0)
            assert paths[1].name not in running.said(1)
    codec = Codec(load(weights), chunk_frames=4, devices=jax.devices()[:1])
    video = np.stack(list(read_frames(source)))[None]
    expected = codec.encode(video)
    np.testing.assert_allclose(load_latents(latents).values, expected.values, atol=1e-5)
    for path in (out, tmp_path / "recon.mp4"):
        frames = np.stack(list(read_frames(path))).astype(int)
        assert np.abs(frames - codec.decode(expected)[0]).mean() < 4


def test_latents_of_a_file_that_ends_early_are_kept(tmp_path, monkeypatch, weights, source, capsys):
    def damaged(path):
        yield from itertools.islice(read_frames(path), 7)
        raise UserError("in.mp4 ends early.")

    monkeypatch.setattr(encode, "read_frames", damaged)
    assert run("encode", source, tmp_path / "z.npz", weights) == 2
    said = capsys.readouterr().err
    assert "in.mp4 ends early. " in said
    assert "z.npz holds the latents of the first 7 frames." in said
    assert load_latents(tmp_path / "z.npz").frames == 7
