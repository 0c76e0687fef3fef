"""What a run leaves to read: metrics.jsonl, TensorBoard, log.txt, and a progress bar."""

import contextlib
import json
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary

from cvvae_jax.config import ConfigError, TrainConfig
from cvvae_jax.recipe import to_json
from cvvae_jax.training.pictures import gif

_console = Console(highlight=False)


def say(folder: Path, text: str) -> None:
    """A message to the user and into the run's log.txt; from process 0 only."""
    if jax.process_index() == 0:
        _console.print(text, markup=False, soft_wrap=True)
        with (folder / "log.txt").open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def write_config(folder: Path, config: TrainConfig) -> None:
    """Makes the run folder and keeps the configuration in it; says what changed since an earlier
    start.

    Raises:
        ConfigError: the folder can't be written.
    """
    if jax.process_index() != 0:
        return
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = json.loads(path.read_text()) if path.exists() else None
        path.write_text(to_json(config))
    except OSError as error:
        raise ConfigError(f"the run folder {folder} can't be written: {error}.") from error
    if before is not None:
        then, now = _settings(before), _settings(json.loads(path.read_text()))
        names = sorted((then | now).keys() - {"workdir"})  # the same folder by another path
        changed = [name for name in names if then.get(name) != now.get(name)]
        for name in changed:
            say(folder, f"changed since this run began: {name} {then.get(name)} -> {now.get(name)}")


def _settings(config: dict, prefix: str = "") -> dict:
    """Every setting by its name on the command line."""
    found = {}
    for name, value in config.items():
        nested = _settings(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        found |= {f"{prefix}{name}": value} if nested is None else nested
    return found


class StageLog:
    """The log of one training stage, from process 0 only; continues where a checkpoint left it."""

    def __init__(self, folder: Path, *, title: str, steps: int, start_step: int):
        self._active = jax.process_index() == 0
        self._folder, self._title, self._steps = folder, title, steps
        self._last_step, self._last_time = start_step, time.perf_counter()
        if not self._active:
            return
        _forget_after(folder / "metrics.jsonl", start_step)
        self._metrics = (folder / "metrics.jsonl").open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=_console,
            disable=not _console.is_terminal,
        )
        self._bar.start()
        self._task = self._bar.add_task(title, total=steps, completed=start_step, note="")

    def progress(self, step: int, metrics: dict[str, float]) -> None:
        """Moves the bar; without a terminal, prints a line."""
        if not self._active:
            return
        now = (
            time.perf_counter()
        )  # the rate since the last call, so that compiling counts just once
        rate = (step - self._last_step) / (now - self._last_time)
        self._last_step, self._last_time = step, now
        psnrs = ", ".join(
            f"{k.removeprefix('psnr/')} {v:.2f} dB" for k, v in metrics.items() if "psnr/" in k
        )
        note = f"loss {metrics['loss/total']:.1f}, PSNR {psnrs}, {rate:.2f} steps/s"
        if _console.is_terminal:
            self._bar.update(self._task, completed=step, note=note)
        else:
            _console.print(
                f"{self._title} {step}/{self._steps}: {note}", markup=False, soft_wrap=True
            )

    def scalars(self, step: int, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl, and TensorBoard scalars."""
        if not self._active:
            return
        self._metrics.write(json.dumps({"step": step, **metrics}) + "\n")
        self._metrics.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def clip(self, step: int, name: str, frames: np.ndarray) -> None:
        """Frames, uint8 (t, h, w, 3), as an animation in TensorBoard."""
        if not self._active:
            return
        _, height, width, _ = frames.shape
        image = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=gif(frames)
        )
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self._board.file_writer.add_summary(summary, step)

    def close(self) -> None:
        """Writes out what is still in memory."""
        if self._active:
            self._bar.stop()
            self._metrics.close()
            self._board.close()


def _forget_after(path: Path, step: int) -> None:
    """Drops the lines of steps that a restart from a checkpoint does again, and one that a kill cut
    short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        with contextlib.suppress(json.JSONDecodeError):
            if json.loads(line)["step"] <= step:
                kept.append(line)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept))
    partial.replace(path)
