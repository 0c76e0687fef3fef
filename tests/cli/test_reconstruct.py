"""The command line: what comes out of it, and what it says when something is wrong."""

import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import av
import jax
import numpy as np
import pytest
from tiny_videos import RATE, make_video

from cvvae_jax.cli.main import main
from cvvae_jax.codec import stream
from cvvae_jax.codec.codec import Codec
from cvvae_jax.errors import UserError
from cvvae_jax.loading import load
from cvvae_jax.video_io.images import write_image
from cvvae_jax.video_io.video import probe, read_frames
from cvvae_jax.video_io.video_writer import VideoWriter

ROOT = Path(__file__).parents[2]


def add_audio(video: str, path) -> str:
    """The frames of a video again, with a second of silence."""
    with av.open(video) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        audio = target.add_stream("aac", rate=16000, layout="mono")
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 16000), np.float32), format="fltp", layout="mono"
        )
        silence.sample_rate = 16000
        target.mux([*audio.encode(silence), *audio.encode()])
    return str(path)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_help_lists_the_commands_and_starts_no_jax():
    code = (
        "import sys; from cvvae_jax.cli.main import main; status = main(['--help'])\n"
        "import cvvae_jax.cli.reconstruct; sys.exit(status or 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "reconstruct" in done.stdout


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 37, 51), (11, 37, 51), (18, 38, 52)])
def test_video_keeps_frames_size_and_rate(tmp_path, weights, frames, height, width):
    source = make_video(tmp_path / "in.mp4", frames=frames, height=height, width=width)
    out = str(tmp_path / "out.mp4")
    assert main(["reconstruct", source, out, "--weights", weights, "--chunk-frames", "4"]) == 0
    shapes = [frame.shape for frame in read_frames(out)]
    assert shapes == [(height, width, 3)] * frames
    assert probe(out).fps == RATE
    assert names(tmp_path) == {"in.mp4", "out.mp4"}


def test_video_keeps_its_audio_and_stands_beside_the_input(tmp_path, weights, capsys):
    silent = make_video(tmp_path / "silent.mp4", frames=5, height=38, width=52)
    source, out = add_audio(silent, tmp_path / "in.mp4"), str(tmp_path / "out.mp4")
    options = ["--weights", weights, "--chunk-frames", "4", "--side-by-side"]
    assert main(["reconstruct", source, out, *options]) == 0
    assert probe(out).has_audio
    pairs = list(zip(read_frames(source), read_frames(out), strict=True))
    assert pairs[0][1].shape == (38, 104, 3)
    # H.264 at this quality is some levels off; random weights would be tens of levels off.
    assert all(np.abs(one - both[:, :52].astype(int)).mean() < 4 for one, both in pairs)
    said = capsys.readouterr().out
    assert "5 frames of 52x38, beside the input (twice the width)" in said
    assert "latents (2, 5, 7, 4)" in said


@pytest.mark.parametrize("sample", [False, True])
def test_image_comes_back_as_the_codec_gives_it(tmp_path, weights, sample, capsys):
    image = np.random.default_rng(0).integers(0, 256, (37, 51, 3), np.uint8)
    write_image(tmp_path / "in.png", image)
    out = str(tmp_path / "out.png")
    options = ["--sample", "--seed", "3"] if sample else []
    command = ["reconstruct", str(tmp_path / "in.png"), out, "--weights", weights, *options]
    assert main(command) == 0
    expected = Codec(load(weights)).reconstruct(
        image[None, None], key=jax.random.key(3) if sample else None
    )
    np.testing.assert_array_equal(next(read_frames(out)), expected[0, 0])
    error = np.mean(np.square(image.astype(float) - np.asarray(expected[0, 0])))
    assert f"PSNR {10 * np.log10(255**2 / error):.2f} dB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.mp4", "out.mp4"], "missing.mp4: no such file"),
        ([".", "out.mp4"], ". is a folder"),
        (["in.mp4", "out.png"], "in.mp4 is a video"),
        (["in.png", "out.mp4"], "in.png is an image"),
        (["in.mp4", "out.txt"], "not out.txt"),
        (["in.mp4", "in.mp4"], "in.mp4 is the input"),
        (["in.mp4", "nowhere/out.mp4"], "no folder nowhere"),
        (["text.mp4", "out.mp4"], "text.mp4 cannot be read"),
        (["in.png", "out.png"], "in.png has 6x12 pixels; this model needs 8x8 at least"),
        (["in.mp4", "out.mp4", "--chunk-frames", "6"], "chunk-frames must be"),
        (["in.mp4", "out.mp4", "--tile", "100"], "tile must be"),
        (["in.mp4", "out.mp4", "--weights", "nothing"], "nothing"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(
    tmp_path, monkeypatch, weights, capsys, arguments, said
):
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "in.mp4", frames=1, height=16, width=16)
    write_image(tmp_path / "in.png", np.zeros((12, 6, 3), np.uint8))
    (tmp_path / "text.mp4").write_text("no video")
    before = names(tmp_path)
    options = [] if "--weights" in arguments else ["--weights", weights]
    assert main(["reconstruct", *arguments, *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ") and error.count("\n") == 1
    assert names(tmp_path) == before


def test_unknown_commands_are_named(capsys):
    assert main(["reconstrukt"]) == 2
    assert "reconstrukt" in capsys.readouterr().err
    assert main([]) == 2


@pytest.mark.slow
def test_interrupted_process_exits_with_130_while_the_device_works(tmp_path, weights):
    source = make_video(tmp_path / "in.mp4", frames=17, height=256, width=320)
    command = ["reconstruct", source, str(tmp_path / "out.mp4"), "--weights", weights]
    process = subprocess.Popen([sys.executable, "-m", "cvvae_jax", *command], cwd=ROOT)
    while len(names(tmp_path)) == 1 and process.poll() is None:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130
    assert names(tmp_path) == {"in.mp4"}


@pytest.mark.parametrize("seconds", [0.0, 0.5], ids=["idle", "busy"])
def test_an_interrupt_in_a_callback_of_the_garbage_collector_is_not_lost(seconds):
    """Python drops exceptions there, and jax has such a callback; and drops them in the hook that
    it tells of them, which takes some time on a busy machine.

    Where tests run in the background of a shell, their processes begin with SIGINT ignored.
    """
    program = """
import gc, os, signal, sys, threading, time
from cvvae_jax.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
def work(arguments):
    def callback(*_):
        gc.callbacks.remove(callback)
        signal.raise_signal(signal.SIGINT)
    gc.callbacks.append(callback)
    gc.collect()
    time.sleep(120)
def start(thread):
    begin(thread)
    time.sleep(float(sys.argv[1]))
begin, threading.Thread.start = threading.Thread.start, start
main.importlib.import_module = lambda name: type("command", (), {"main": staticmethod(work)})
sys.exit(main.main(["inspect"]))
"""
    command = [sys.executable, "-c", program, str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr


@pytest.mark.parametrize("done", [0, 3])
def test_interrupt_leaves_what_was_done(tmp_path, monkeypatch, weights, capsys, done):
    def interrupted(codec, frames, *, key):
        yield from itertools.islice(frames, done)
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, "reconstruct_frames", interrupted)
    source = make_video(tmp_path / "in.mp4", frames=5, height=16, width=16)
    out = str(tmp_path / "out.mp4")
    assert main(["reconstruct", source, out, "--weights", weights]) == 130
    said = capsys.readouterr().err
    if done:
        assert "out.mp4 holds the first 3 frames." in said
        assert len(list(read_frames(out))) == 3
    else:
        assert "Nothing was written" in said
    assert names(tmp_path) == ({"in.mp4", "out.mp4"} if done else {"in.mp4"})


def test_files_of_others_stay_as_they_are(tmp_path, weights, capsys):
    """What is there already, and what a link in the place of the unfinished video leads to."""
    source = make_video(tmp_path / "in.mp4", frames=2, height=16, width=16)
    out, begun, other = (tmp_path / name for name in ("out.mp4", "out.partial.mp4", "other.txt"))
    command = ["reconstruct", source, str(out), "--weights", weights]
    other.write_text("mine")
    begun.symlink_to(other)
    assert main(command) == 2
    assert f"{begun} exists; --overwrite replaces it." in capsys.readouterr().err
    begun.unlink()
    out.write_text("mine, too")
    assert main(command) == 2
    assert f"{out} exists; --overwrite replaces it." in capsys.readouterr().err
    assert out.read_text() == "mine, too" and other.read_text() == "mine"
    begun.symlink_to(other)
    assert main([*command, "--overwrite"]) == 0
    assert len(list(read_frames(out))) == 2 and other.read_text() == "mine"
    assert names(tmp_path) == {"in.mp4", "out.mp4", "other.txt"}


def test_video_that_another_process_writes_is_not_taken_from_it(tmp_path, weights, capsys):
    source = make_video(tmp_path / "in.mp4", frames=2, height=16, width=16)
    out = tmp_path / "out.mp4"
    with VideoWriter(out, fps=25, height=16, width=16, keep_begun=True) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8))
        assert main(["reconstruct", source, str(out), "--weights", weights, "--overwrite"]) == 2
        assert f"error: {out} is being written by another process.\n" in capsys.readouterr().err
        for _ in range(4):
            writer.write(np.zeros((16, 16, 3), np.uint8))
    assert len(list(read_frames(out))) == 5
    assert names(tmp_path) == {"in.mp4", "out.mp4"}


@pytest.mark.parametrize("length", [247, 255])
def test_long_names_are_written(tmp_path, weights, length):
    """A name has 255 bytes at most; with a suffix for what is unfinished it would be too long."""
    source = make_video(tmp_path / "in.mp4", frames=2, height=16, width=16)
    out = tmp_path / ("ü" * ((length - 4) // 2) + "x" * ((length - 4) % 2) + ".mp4")
    for more in ([], ["--overwrite"]):
        assert main(["reconstruct", source, str(out), "--weights", weights, *more]) == 0
    assert names(tmp_path) == {"in.mp4", out.name}


def test_names_that_are_too_long_are_refused(tmp_path, weights, capsys):
    source, long = (
        make_video(tmp_path / "in.mp4", frames=2, height=16, width=16),
        "x" * 252 + ".mp4",
    )
    for names_given, says in (
        ([source, str(tmp_path / long)], "cannot be written: File name too long."),
        ([str(tmp_path / long), str(tmp_path / "out.mp4")], "no such file."),
    ):
        assert main(["reconstruct", *names_given, "--weights", weights]) == 2
        assert capsys.readouterr().err.endswith(f"{says}\n")
    assert names(tmp_path) == {"in.mp4"}


def test_a_writer_opens_no_file_that_is_there(tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("mine")
    (tmp_path / "out.partial.mp4").symlink_to(other)
    with (
        pytest.raises(UserError, match=r"out\.mp4 cannot be written: File exists"),
        VideoWriter(tmp_path / "out.mp4", fps=25, height=16, width=16, keep_begun=True),
    ):
        pass
    assert other.read_text() == "mine" and names(tmp_path) == {"other.txt", "out.partial.mp4"}


def test_killed_writer_leaves_the_frames_until_then(tmp_path):
    """All but those that x264 still looks ahead over, 40 at most, and the last second."""
    program = """
import os, sys
import numpy as np
from cvvae_jax.video_io.video_writer import VideoWriter
with VideoWriter(sys.argv[1], fps=25, height=16, width=16, keep_begun=True) as writer:
    for i in range(150):
        writer.write(np.full((16, 16, 3), 100 + i % 2, np.uint8))  # one keyframe
    os.kill(os.getpid(), 9)
"""
    for suffix in (".mp4", ".mkv", ".mov"):
        out = tmp_path / f"out{suffix}"
        subprocess.run([sys.executable, "-c", program, str(out)], cwd=ROOT)
        assert names(tmp_path) == {f"out.partial{suffix}"}
        left = tmp_path / f"out.partial{suffix}"
        assert 150 - 40 - 25 <= len(list(read_frames(left))) < 150
        left.unlink()


def test_plan_is_printed_and_nothing_is_run(tmp_path, weights, capsys):
    source = make_video(tmp_path / "in.mp4", frames=5, height=20, width=30)
    command = ["reconstruct", source, str(tmp_path / "out.mp4"), "--weights", weights, "--plan"]
    assert main([*command, "--tile", "16"]) == 0
    said = capsys.readouterr().out
    assert "Time: one chunk of 5 frames." in said
    assert "4 tiles of 16 x 16 of frames of 32 x 24 pixels" in said
    assert "blended" in said and "GiB per device" in said
    assert names(tmp_path) == {"in.mp4"}


def test_what_an_earlier_run_has_begun_is_no_input_for_the_same_output(tmp_path, weights, capsys):
    source = make_video(tmp_path / "out.partial.mp4", frames=5, height=16, width=16)
    before = Path(source).read_bytes()
    assert main(["reconstruct", source, str(tmp_path / "out.mp4"), "--weights", weights]) == 2
    assert "has the name of the temporary file" in capsys.readouterr().err
    assert Path(source).read_bytes() == before


def test_a_writer_that_fails_in_closing_keeps_what_it_has(tmp_path, monkeypatch):
    """A full disk, or a second Ctrl-C."""
    monkeypatch.setattr(VideoWriter, "_finish", Mock(side_effect=KeyboardInterrupt))
    writer = VideoWriter(tmp_path / "out.mp4", fps=25, height=16, width=16, keep_begun=True)
    with pytest.raises(KeyboardInterrupt), writer:
        for i in range(150):
            writer.write(np.full((16, 16, 3), 100 + i % 2, np.uint8))  # one keyframe
    assert writer.begun == tmp_path / "out.partial.mp4"
    assert len(list(read_frames(writer.begun))) >= 150 - 40 - 25
