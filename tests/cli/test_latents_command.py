"""`python -m cvvae_jax latents`: what it stores, in whichever process, and after any kill."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from many_processes import environment
from tiny_models import save_tiny_vae

import cvvae_jax
from cvvae_jax.cli.main import main
from cvvae_jax.latents.dataset_shard import LatentsEncoder
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.video_io.images import write_image
from cvvae_jax.video_io.video import read_frames
from cvvae_jax.video_io.video_writer import VideoWriter

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return save_tiny_vae(tmp_path_factory.mktemp("model") / "weights")


def make_corpus(folder: Path, *, videos: int, frames: int, side: int) -> Path:
    """Videos of noise that moves, and an image."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(videos):
        still = rng.integers(0, 256, (side, side + 8, 3), np.uint8)
        path = folder / f"{number:03d}.mp4"
        with VideoWriter(path, fps=25, height=side, width=side + 8) as writer:
            for shift in range(frames):
                writer.write(np.roll(still, shift, axis=1))
    write_image(folder / "image.png", rng.integers(0, 256, (side, side + 8, 3), np.uint8))
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("media") / "in", videos=3, frames=5, side=20)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_records_are_the_posteriors_of_the_codec(corpus, weights, tmp_path, capsys):
    target = str(tmp_path / "out")
    assert main(["latents", str(corpus), target, "--weights", weights]) == 0
    said = capsys.readouterr().out
    assert "4 records of 4 files with 16 frames" in said and "left out: nothing" in said
    dataset = cvvae_jax.LatentsDataset(target)
    codec = cvvae_jax.Codec(cvvae_jax.load(weights))
    for number in range(4):
        record = dataset[number]
        video = np.stack(list(read_frames(corpus / record["name"])))
        posterior = codec.posterior(video[None])
        np.testing.assert_array_equal(record["mean"], posterior.mean[0])
        np.testing.assert_array_equal(record["logvar"], posterior.logvar[0])
    record = dataset[0]  # knows what `decode` asks for
    size = {name: record[name] for name in ("frames", "height", "width")}
    assert codec.latents_shape(**size) == record["mean"].shape
    inspected = main(["inspect", weights, "--sha256"])
    assert inspected == 0 and record["weights"] in capsys.readouterr().out
    assert main(["latents", str(corpus), target, "--weights", weights]) == 0
    assert "is already complete" in capsys.readouterr().out


@pytest.mark.slow
def test_samples_depend_on_the_seed_and_the_place_in_the_source_alone(corpus, weights, tmp_path):
    """Two processes, which finish in the other order, against one; another batch, another seed."""
    options = ["--weights", weights, "--sample", "--clip-frames", "5", "--size", "16"]
    options += ["--items-per-shard", "1"]

    def run(name, *more):
        assert main(["latents", str(corpus), str(tmp_path / name), *options, *more]) == 0

    run("alone")
    run("both", "--process-index", "1", "--process-count", "2")
    run("both", "--process-index", "0", "--process-count", "2")
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")
    run("batched", "--batch", "2")
    run("other", "--seed", "1")
    first, batched, other = (
        cvvae_jax.LatentsDataset(tmp_path / name) for name in ("alone", "batched", "other")
    )
    for number in range(4):
        # A batch is another program: float32 is rounded in other places.
        np.testing.assert_allclose(
            batched[number]["latents"], first[number]["latents"], atol=1e-4, rtol=1e-4
        )
        assert np.abs(other[number]["latents"] - first[number]["latents"]).max() > 1e-3


def test_a_draw_is_that_of_the_seed_and_the_clips_numbers(weights, monkeypatch):
    """1e-6: the same formula, in one program or in two."""
    codec = cvvae_jax.Codec(cvvae_jax.load(weights))
    mean = jnp.zeros((3, 1, 2, 2, 4))
    monkeypatch.setattr(codec, "posterior", lambda video: DiagonalGaussian(mean, mean - 2.0))
    encoder = LatentsEncoder(codec, sample=True, seed=7)
    video = np.zeros((3, 1, 16, 16, 3), np.uint8)
    drawn = np.asarray(encoder(video, [(0, 0), (0, 1), (1, 0)])["latents"])
    assert len(np.unique(drawn[:, 0, 0, 0, 0])) == 3
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 0), 1)
    expected = jax.random.normal(key, (1, 2, 2, 4)) * np.exp(-1.0)
    np.testing.assert_allclose(drawn[1], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tile", "100"], "tile must be"),
        (["--weights", "nothing"], "nothing"),
        (["--exclude", "nothing"], "nothing, the list of exclusions, cannot be read"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(
    corpus, weights, tmp_path, capsys, options, said
):
    options = options if "--weights" in options else [*options, "--weights", weights]
    assert main(["latents", str(corpus), str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


class Runs:
    """Processes of the command, each with its number, which can be started again and killed."""

    def __init__(self, folder: Path, arguments: list[str], count: int):
        self._folder, self._arguments, self._count = folder, arguments, count
        self.processes: dict[int, subprocess.Popen] = {}

    def start(self, index: int) -> None:
        share = ["--process-index", str(index), "--process-count", str(self._count)]
        with (self._folder / f"said_{index}.txt").open("w") as said:
            self.processes[index] = subprocess.Popen(
                [sys.executable, "-m", "cvvae_jax", "latents", *self._arguments, *share],
                env=environment(devices=1),
                stdout=said,
                stderr=said,
            )

    def said(self, index: int) -> str:
        return (self._folder / f"said_{index}.txt").read_text()

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


def finished(target: Path, index: int, count: int) -> int:
    """Shards of a process that are finished."""
    numbers = [int(path.name.split("-")[1]) for path in target.glob(".latents/parts/*")]
    return sum(number % count == index for number in numbers)


def left_behind(target: Path, index: int, count: int) -> set[Path]:
    """Folders that a process was at work in."""
    return set(target.glob(f".latents/scratch-{index}-of-{count}/*"))


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_killed_ten_times_at_random_moments_the_records_are_those_of_an_undisturbed_run(
    weights, tmp_path, count
):
    """SIGKILL of each process ten times: while it starts, encodes and writes. Byte for byte."""
    source = make_corpus(tmp_path / "in", videos=90 * count, frames=41, side=56)
    options = ["--weights", weights, "--items-per-shard", "2", "--clip-frames", "9"]
    undisturbed, target = tmp_path / "undisturbed", tmp_path / "killed"
    assert main(["latents", str(source), str(undisturbed), *options]) == 0
    runs = Runs(tmp_path, [str(source), str(target), *options], count)
    rng, at_work, shards = random.Random(count), 0, []
    try:
        for kill in range(10):
            more = [rng.choice([0, 1, 1, 2]) for _ in range(count)]
            goals = [finished(target, index, count) + n for index, n in enumerate(more)]
            before = [left_behind(target, index, count) for index in range(count)]
            for index in range(count):
                runs.start(index)
            for index in rng.sample(range(count), count):
                while finished(target, index, count) < goals[index]:
                    assert runs.processes[index].poll() is None, runs.said(index)
                    time.sleep(0.005)
                # A start takes some 4 s, a shard 0.4 s.
                time.sleep(rng.uniform(0, 0.5 if more[index] else 4))
                assert runs.processes[index].poll() is None, "it has ended before its kills"
                runs.processes[index].send_signal(signal.SIGKILL)
                runs.processes[index].wait()
                at_work += bool(left_behind(target, index, count) - before[index])
            shards.append(sum(finished(target, index, count) for index in range(count)))
            print(f"kill {kill}: {shards[-1]} shards are finished, {at_work} kills were at work")
        for index in range(count):
            runs.start(index)
        assert [process.wait(300) for process in runs.processes.values()] == [0] * count
    finally:
        runs.end()
    assert at_work >= 5 * count and len(set(shards)) >= 5
    assert contents(target) == contents(undisturbed)
    dataset = cvvae_jax.LatentsDataset(target)
    found = [(dataset[n]["item"], dataset[n]["clip"]) for n in range(len(dataset))]
    expected = [(item, clip) for item in range(90 * count) for clip in range(4)]
    assert found == [*expected, (90 * count, 0)]
