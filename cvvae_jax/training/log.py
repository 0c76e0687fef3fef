"""The logs of a run: metrics, animations, messages, a log of every process, a progress bar."""

import contextlib
import json
import logging
import logging.handlers
import math
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cvvae_jax.compiling import Stopwatch
from cvvae_jax.errors import UserError
from cvvae_jax.processes.stop import Stopped
from cvvae_jax.resumable.files import parse_json, write_whole
from cvvae_jax.training.pictures import gif
from cvvae_jax.training.trackers import Callback, Report, TensorBoard, WandbRun

_console = Console(highlight=False)

LARGEST = 10 * 2**20
"""Size in bytes beyond which log.txt becomes log.1.txt, and a new one is begun."""

LoggedMetrics = dict[str, float | int]
"""Metrics on the host by name, such as `loss/total`."""


def say(folder: Path, text: str) -> None:
    """Prints a message and writes it to the run's log.txt; process 0 only."""
    if jax.process_index() == 0:
        text = text.encode(errors="backslashreplace").decode()  # file names may be no UTF-8
        _console.print(text, markup=False, soft_wrap=True)
        path = folder / "log.txt"
        if path.exists() and path.stat().st_size > LARGEST:  # after weeks of warnings
            path.replace(folder / "log.1.txt")
        # Where the disk is full, it is enough that the message was printed.
        with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


@contextlib.contextmanager
def warnings_kept(folder: Path) -> Iterator[None]:
    """A context in which process 0 passes the package's warnings to `say`; other processes print
    them as Python does."""
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
    """The metrics for JSON, which has neither NaN nor infinity: None stands for both."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


class StageLog:
    """The log of one training stage, which only process 0 writes. It goes on where a checkpoint
    ends."""

    def __init__(
        self,
        folder: Path,
        *,
        title: str,
        steps: int,
        start_step: int,
        wandb: str | None = None,
        settings: dict[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
    ):
        """Opens the logs.

        Args:
            folder: the stage's run folder.
            title: the stage's name in messages.
            steps: how many steps the stage has.
            start_step: how many of them are done; metrics of later steps are removed.
            wandb: a project of Weights & Biases that also gets metrics and animations.
            settings: the settings of the whole run, which Weights & Biases shows.
            callbacks: what is told of metrics and animations beside these logs.

        Raises:
            UserError: Weights & Biases is not installed or does not accept the run.
        """
        self._callbacks = callbacks
        self._active = jax.process_index() == 0
        self._folder, self._title, self._steps = folder, title, steps
        self._last_step, self._watch = start_step, Stopwatch()
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
        """Updates the progress bar; without a terminal, prints a line."""
        if not self._active:
            return
        rate = (step - self._last_step) / self._watch.working()  # since the last call
        self._last_step, self._watch = step, Stopwatch()
        note = ", ".join([*_highlights(metrics), f"{rate:.2f} steps/s"])
        if _console.is_terminal:
            self._bar.update(self._task, completed=step, note=note)
        else:
            _console.print(
                f"{self._title} {step}/{self._steps}: {note}", markup=False, soft_wrap=True
            )

    def scalars(self, step: int, metrics: LoggedMetrics) -> None:
        """Writes a line of metrics.jsonl, with null for values that are not finite, and TensorBoard
        scalars."""
        if not self._active:
            return
        with self._while_training_goes_on():
            self._metrics.write(json.dumps({"step": step, **finite_or_none(metrics)}) + "\n")
            self._metrics.flush()
            self._board.scalars(step, metrics)
        if self._wandb is not None:
            self._wandb.scalars(step, metrics)
        for callback in self._callbacks:
            callback(Report(self._title, step, metrics))

    def clip(self, step: int, name: str, frames: np.ndarray) -> None:
        """Writes frames, uint8 (t, h, w, 3), as an animation: samples/STEP.gif, of which a step has
        one, and TensorBoard."""
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
        for callback in self._callbacks:
            callback(Report(self._title, step, {}, frames))

    @contextlib.contextmanager
    def _while_training_goes_on(self) -> Iterator[None]:
        """A context in which a failed write, as on a full disk, is reported once and ignored."""
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
    """The metrics that the progress line shows: the total in place of its terms, the
    discriminator's loss, which is not a term of it, and PSNR."""
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
    """Removes lines from metrics.jsonl: those of steps after `step`, which a restart does again, a
    last line that a kill cut short, and damaged lines, whose number it reports."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return
    *lines, last = path.read_bytes().split(b"\n")
    if _step_of(last) is not None:  # otherwise it is empty or cut short
        lines.append(last)
    found = [(_step_of(line), line) for line in lines]
    write_whole(path, b"".join(b"%s\n" % line for n, line in found if n is not None and n <= step))
    damaged = sum(n is None for n, _ in found)
    if damaged:
        say(folder, f"warning: {damaged} damaged lines of {path} are left out")


def _step_of(line: bytes) -> int | None:
    """The step of a line of metrics.jsonl; None where the line is damaged."""
    step = (parse_json(line) or {}).get("step")
    return step if isinstance(step, int) else None


_log = logging.getLogger(__name__)


@contextlib.contextmanager
def process_log(folder: Path) -> Iterator[None]:
    """A context in which the package's warnings, and the error that ends this process, go to the
    file `logs/process_NNN.log` of a run folder, whose newest 40 MB are kept.

    Raises:
        UserError: the file can't be written.
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
    """Writes a message to the file only; the terminal gets it by another way."""
    exception = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord(_log.name, level, __file__, 0, text, None, exception)
    handler.handle(record)


def _start() -> str:
    """The first line of a process's log."""
    devices = jax.local_devices()
    return (
        f"process {jax.process_index()} of {jax.process_count()} starts on {socket.gethostname()}, "
        f"pid {os.getpid()}, jax {jax.__version__}, with {len(devices)} x {devices[0].device_kind} "
        f"of {jax.device_count()}: {', '.join(map(str, devices))}"
    )
