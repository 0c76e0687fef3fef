"""What a run leaves to read: metrics, TensorBoard, logs of every process, a progress bar."""

import contextlib
import json
import logging
import logging.handlers
import math
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cvvae_jax.errors import UserError
from cvvae_jax.processes.stop import Stopped
from cvvae_jax.resumable.files import parse_json, write_whole
from cvvae_jax.training.pictures import gif
from cvvae_jax.training.trackers import TensorBoard, WandbRun

_console = Console(highlight=False)

LARGEST = 10 * 2**20
"""Bytes of log.txt; a longer one becomes log.1.txt."""

LoggedMetrics = dict[str, float | int]
"""Numbers by name, such as `loss/total`."""


def say(folder: Path, text: str) -> None:
    """A message to the user and into the run's log.txt; from process 0 only."""
    if jax.process_index() == 0:
        text = text.encode(errors="backslashreplace").decode()  # file names may be no UTF-8
        _console.print(text, markup=False, soft_wrap=True)
        path = folder / "log.txt"
        if path.exists() and path.stat().st_size > LARGEST:  # warnings, over weeks
            path.replace(folder / "log.1.txt")
        # A message that a full disk doesn't take has been printed.
        with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


@contextlib.contextmanager
def warnings_kept(folder: Path) -> Iterator[None]:
    """What the package warns of meanwhile is told like everything else of the run; processes but
    the first print it as Python does."""
    if jax.process_index() != 0:
        yield
        return
    handler = logging.Handler(logging.WARNING)
    handler.addFilter(lambda record: record.levelno == logging.WARNING)  # errors are raised
    handler.emit = lambda record: say(folder, f"warning: {record.getMessage()}")
    logger = logging.getLogger("cvvae_jax")
    logger.addHandler(handler)
    logger.propagate = False  # Orbax gives the root logger a handler, which would print them again
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(handler)


def finite_or_none(metrics: LoggedMetrics) -> dict[str, float | int | None]:
    """Numbers as JSON knows them: it has neither NaN nor infinity."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


class StageLog:
    """The log of one training stage, from process 0 only; continues where a checkpoint left it."""

    def __init__(
        self,
        folder: Path,
        *,
        title: str,
        steps: int,
        start_step: int,
        wandb: str | None = None,
        settings: dict[str, Any] | None = None,
    ):
        """Opens the logs.

        Args:
            folder: the stage's run folder.
            title: what messages call the stage.
            steps: how many it has.
            start_step: how many of them are done; what was logged after that is forgotten.
            wandb: project of Weights & Biases that metrics and animations also go to.
            settings: the whole run's, shown there.

        Raises:
            UserError: Weights & Biases is not installed or does not accept the run.
        """
        self._active = jax.process_index() == 0
        self._folder, self._title, self._steps = folder, title, steps
        self._last_step, self._last_time = start_step, time.perf_counter()
        if not self._active:
            return
        self._wandb = None
        if wandb is not None:
            self._wandb = WandbRun(wandb, folder, title=title, settings=settings or {})
        _forget_after(folder, start_step)
        self._metrics = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._board = TensorBoard(folder / "tensorboard", first_step=start_step + 1)
        self._complained = False
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

    def progress(self, step: int, metrics: LoggedMetrics) -> None:
        """Moves the bar; without a terminal, prints a line."""
        if not self._active:
            return
        # The rate since the last call, so that compiling counts just once.
        now = time.perf_counter()
        rate = (step - self._last_step) / (now - self._last_time)
        self._last_step, self._last_time = step, now
        note = ", ".join([*_highlights(metrics), f"{rate:.2f} steps/s"])
        if _console.is_terminal:
            self._bar.update(self._task, completed=step, note=note)
        else:
            _console.print(
                f"{self._title} {step}/{self._steps}: {note}", markup=False, soft_wrap=True
            )

    def scalars(self, step: int, metrics: LoggedMetrics) -> None:
        """One line of metrics.jsonl, null for what is not finite; and TensorBoard scalars."""
        if not self._active:
            return
        with self._while_training_goes_on():
            self._metrics.write(json.dumps({"step": step, **finite_or_none(metrics)}) + "\n")
            self._metrics.flush()
            self._board.scalars(step, metrics)
        if self._wandb is not None:
            self._wandb.scalars(step, metrics)

    def clip(self, step: int, name: str, frames: np.ndarray) -> None:
        """Frames, uint8 (t, h, w, 3), as an animation in samples/STEP.gif and in TensorBoard; one
        a step."""
        if not self._active:
            return
        animation = gif(frames)
        path = self._folder / "samples" / f"{step:07d}.gif"
        _, height, width, _ = frames.shape
        with self._while_training_goes_on():
            path.parent.mkdir(exist_ok=True)
            write_whole(path, animation)
            self._board.animation(step, name, animation, height=height, width=width)
        if self._wandb is not None:
            self._wandb.animation(step, name, path)

    @contextlib.contextmanager
    def _while_training_goes_on(self) -> Iterator[None]:
        """What can't be written, for want of room, is said once and left out."""
        try:
            yield
        except OSError as error:
            if not self._complained:
                say(self._folder, f"warning: metrics can't be written ({error}); training goes on")
            self._complained = True

    def close(self) -> None:
        """Writes out what is still in memory."""
        if self._active:
            self._bar.stop()
            with self._while_training_goes_on():
                self._board.close()
                self._metrics.close()
            if self._wandb is not None:
                self._wandb.close()


def _highlights(metrics: LoggedMetrics) -> list[str]:
    """What the progress line shows of the metrics, of which a step may have any.

    The total stands for its parts; the discriminator's loss is none of them.
    """
    losses = {n.removeprefix("loss/"): v for n, v in metrics.items() if n.startswith("loss/")}
    shown = []
    if "total" in losses:
        shown = [f"loss {losses['total']:.1f}"]
        losses = {name: value for name, value in losses.items() if name == "gan_d"}
    shown += [f"{name} loss {value:.3f}" for name, value in losses.items()]
    psnrs = {n.removeprefix("psnr/"): v for n, v in metrics.items() if n.startswith("psnr/")}
    if psnrs:
        shown.append("PSNR " + ", ".join(f"{name} {v:.2f} dB" for name, v in psnrs.items()))
    rate = metrics.get("throughput/frames_per_second_per_device")
    return shown if rate is None else [*shown, f"{rate:.1f} frames/s a device"]


def _forget_after(folder: Path, step: int) -> None:
    """Drops the lines of metrics.jsonl of steps that a restart from a checkpoint does again, and
    those that are none: one that a kill cut short, or damaged ones, of which it says how many."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return
    *lines, last = path.read_bytes().split(b"\n")
    if _step_of(last) is not None:  # else it is empty, or a kill has cut it short
        lines.append(last)
    found = [(_step_of(line), line) for line in lines]
    write_whole(path, b"".join(b"%s\n" % line for n, line in found if n is not None and n <= step))
    damaged = sum(n is None for n, _ in found)
    if damaged:
        say(folder, f"warning: {damaged} damaged lines of {path} are left out")


def _step_of(line: bytes) -> int | None:
    """The step of a line of metrics.jsonl; None where it is damaged."""
    step = (parse_json(line) or {}).get("step")
    return step if isinstance(step, int) else None


_log = logging.getLogger(__name__)


@contextlib.contextmanager
def process_log(folder: Path) -> Iterator[None]:
    """Meanwhile, what the package warns of and what ends this process goes to
    `logs/process_000.log` of a run folder (of process 0), of which the newest 40 MB are kept.

    Raises:
        UserError: it can't be written.
    """
    path = folder / "logs" / f"process_{jax.process_index():03d}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=10 * 2**20, backupCount=3, encoding="utf-8", errors="backslashreplace"
        )
    except OSError as error:
        raise UserError(f"{path} can't be written: {error}.") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("cvvae_jax")
    logger.addHandler(handler)
    _tell(handler, logging.INFO, _start())
    try:
        yield
    except (Stopped, UserError) as end:
        _tell(handler, logging.INFO if isinstance(end, Stopped) else logging.ERROR, str(end))
        raise
    except BaseException as error:
        _tell(handler, logging.CRITICAL, "ended by an error", error)
        raise
    else:
        _tell(handler, logging.INFO, "done")
    finally:
        logger.removeHandler(handler)
        handler.close()


def _tell(
    handler: logging.Handler, level: int, text: str, error: BaseException | None = None
) -> None:
    """Into the file only: who sees the terminal is told otherwise."""
    exception = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord(_log.name, level, __file__, 0, text, None, exception)
    handler.handle(record)


def _start() -> str:
    devices = jax.local_devices()
    return (
        f"process {jax.process_index()} of {jax.process_count()} starts on {socket.gethostname()}, "
        f"pid {os.getpid()}, jax {jax.__version__}, with {len(devices)} x {devices[0].device_kind} "
        f"of {jax.device_count()}: {', '.join(map(str, devices))}"
    )
