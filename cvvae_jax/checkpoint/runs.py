"""The checkpoints of a run: saved in the background, checked before they are read.

Orbax writes to `STEP.partial`; then the manifest is written, and the folder is renamed to `STEP`.
So a step is finished or doesn't exist, whatever ends the process. The list of steps is read from
the disk every time: Orbax's own manager forgets older ones when a save fails.
"""

import contextlib
import errno
import json
import logging
import threading
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from cvvae_jax import parameter_paths
from cvvae_jax.checkpoint import items, steps
from cvvae_jax.checkpoint.orbax_saving import TogetherArgs, TogetherHandler, begin_quiet, end_quiet
from cvvae_jax.checkpoint.origin import mesh_of, origin
from cvvae_jax.errors import UserError
from cvvae_jax.processes.broadcast import broadcast_from_first
from cvvae_jax.resumable import manifest
from cvvae_jax.resumable.files import sync

_TEXTS = ("config", "model", "origin", "scores")  # items that are JSON

_log = logging.getLogger(__name__)

Tree = TypeVar("Tree")


class Checkpoints:
    """The checkpoints of a run.

    All processes of a run call the same methods in the same order, on a folder that they share;
    process 0 alone checks, renames and removes.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        keep: int,
        keep_every: int | None = None,
        keep_best: str | None = None,
    ):
        """Opens a folder, which may be new.

        Args:
            folder: the folder that holds one folder for each step.
            keep: how many of the newest checkpoints are kept.
            keep_every: checkpoints whose step is a multiple of this are kept, too.
            keep_best: name of a score; the checkpoint with the highest one is kept, too.
        """
        self._folder = Path(folder).absolute()
        self._keep = steps.Keep(keep, keep_every, keep_best)
        arrays = {name: items.arrays_handler() for name in ("state", "weights")}
        texts = {name: ocp.JsonCheckpointHandler() for name in _TEXTS}
        self._handler = TogetherHandler(**arrays, **texts)
        self._checkpointer = self._handler.checkpointer()
        begin_quiet()  # until `close`: threads of Orbax outlive the calls that start them
        self._writer: threading.Thread | None = None
        self._failure: str | None = None

    def save(
        self,
        step: int,
        *,
        state: Any,
        weights: Any,
        config: dict,
        scores: dict[str, float] | None = None,
    ) -> None:
        """Starts to save a train state, and the model to use at that step.

        Returns before they are on the disk; the arrays may change from then on. A failure is a
        warning, since training can go on and the next save may succeed; earlier checkpoints stay
        as they are. `finish` raises the failure of the newest save.
        """
        self.wait()
        self._failure = None
        written = {
            "state": ocp.args.PyTreeSave(parameter_paths.flatten(state)),
            "config": ocp.args.JsonSave(config),
            "weights": ocp.args.PyTreeSave(parameter_paths.flatten(weights)),
            "model": ocp.args.JsonSave(items.describe_model(weights)),
            "origin": ocp.args.JsonSave(origin(state)),
        }
        if scores:
            written["scores"] = ocp.args.JsonSave(scores)
        partial = self._folder / f"{step}{steps.PARTIAL}"
        self._handler.error = None
        try:
            broadcast_from_first(lambda: self._make_room(partial))
            self._checkpointer.save(partial, args=TogetherArgs(**written), force=True)
        except Exception as error:  # Orbax and TensorStore raise bare ones
            self._failed(step, error)
            return
        self._writer = threading.Thread(target=self._complete, args=(step, partial))
        self._writer.start()

    def _make_room(self, partial: Path) -> None:
        """Removes what failed saves left, so that a folder can be made; process 0 only."""
        self._folder.mkdir(parents=True, exist_ok=True)
        steps.clear_up(self._folder)  # a failed save may have written on for a while
        if partial.exists():
            raise FileExistsError(errno.EEXIST, "what a failed save left can't be removed", partial)

    def _complete(self, step: int, partial: Path) -> None:
        """The rest of a save, in its own thread: waits for the arrays, then names the folder."""
        try:
            self._checkpointer.wait_until_finished()
            if self._handler.error is not None:
                raise self._handler.error
            if jax.process_index() == 0:
                manifest.write(partial)
                partial.rename(self._folder / str(step))
                sync(self._folder)  # older ones are removed only after that
        except Exception as error:  # Orbax and TensorStore raise bare ones
            self._failed(step, error)
            return
        if jax.process_index() == 0:
            self._remove_old()

    def _failed(self, step: int, error: Exception) -> None:
        self._failure = f"the checkpoint of step {step} could not be written to {self._folder}: "
        self._failure += items.system_reason(error)
        begin_quiet()  # for good: the other parts of what failed go on, and complain later
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):  # the next save tries again
                steps.clear_up(self._folder)
        _log.warning("%s. Earlier ones stay, and the next one is tried as usual", self._failure)

    def _remove_old(self) -> None:
        for step in set(steps.finished(self._folder)) - self._keep.steps(self._folder):
            try:
                steps.remove(self._folder, step)
            except OSError as error:
                _log.warning("checkpoint %d can't be removed: %s", step, error)

    def wait(self) -> None:
        """Waits until nothing is being written."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def finish(self) -> None:
        """Waits until the newest checkpoint is on disk.

        Raises:
            OSError: a process could not write it; another start may succeed.
        """
        self.wait()
        failures = np.asarray([self._failure is not None])
        if jax.process_count() > 1:
            failures = np.ravel(multihost_utils.process_allgather(failures))
        if failures.any():
            newest = self.latest_step()
            failure = self._failure or f"process {failures.argmax()} could not write a checkpoint"
            goes_on = "starts anew" if newest is None else f"goes on from step {newest}"
            raise OSError(f"{failure}. The same command {goes_on}.")

    def latest_step(self) -> int | None:
        """Step of the newest finished checkpoint, after a save in progress; None without one."""
        self.wait()
        return broadcast_from_first(lambda: max(steps.finished(self._folder), default=None))

    def best(self) -> tuple[int, float] | None:
        """Step and score of the best checkpoint by `keep_best`; None where there is none."""
        self.wait()
        score = self._keep.best
        found = broadcast_from_first(lambda: steps.best(self._folder, score) if score else None)
        return tuple(found) if found else None

    def latest_intact_step(self) -> int | None:
        """Step of the newest intact checkpoint, found by hashing all of its files; None where there
        is no checkpoint at all.

        Newer checkpoints that are damaged are renamed, and an unfinished one is removed, each with
        a warning. A checkpoint without a manifest is damaged: an interrupted copy may have none.

        Raises:
            UserError: there are checkpoints, but none is intact; all are left as they are.
            OSError: a checkpoint can't be read now, which is no sign of damage.
        """
        self.wait()
        return broadcast_from_first(self._newest_intact)

    def _newest_intact(self) -> int | None:
        """The step for `latest_intact_step`; process 0 only."""
        for step in steps.clear_up(self._folder):
            _log.warning("the checkpoint of step %s was not finished and is left out", step)
        there, damaged = steps.finished(self._folder), {}
        for step in reversed(there):
            folder = self._folder / str(step)
            problems = manifest.problems(folder)
            if not problems:
                self._set_aside(damaged)
                return step
            damaged[step] = f"{folder} is damaged: {items.in_short(problems)}"
        if damaged:
            raise _none_intact(damaged)
        return None

    def _set_aside(self, damaged: dict[int, str]) -> None:
        for step, problem in damaged.items():
            try:
                kept = f"it is kept as {steps.set_aside(self._folder, step).name}"
            except OSError as error:
                kept = f"it can't be renamed ({error.strerror})"
            _log.warning("%s; %s, and the one before is used", problem, kept)

    def restore(self, step: int, target: Tree, shardings: Any) -> Tree:
        """The train state of a step, in the structure and types of `target`, laid out by
        `shardings`; warns where types or devices differ from those that saved it.

        Args:
            step: from `latest_intact_step`: the files are not hashed again.
            target: shapes and types of the state.
            shardings: the sharding of every leaf, a tree like the target.

        Raises:
            UserError: the checkpoint doesn't fit the target, that is the run's configuration.
        """
        self.wait()
        folder = self._folder / str(step)
        restored, casts = items.restore_state(folder, target, shardings)
        if jax.process_index() == 0:
            if casts:
                _log.warning("step %d was saved in other types: %s", step, ", ".join(casts))
            self._tell_of_devices(folder, mesh_of(restored))
        return restored

    def _tell_of_devices(self, folder: Path, mesh: dict[str, int] | None) -> None:
        path = folder / "origin" / "metadata"
        before = json.loads(path.read_text()) if path.exists() else {}
        now = {"processes": jax.process_count(), "mesh": mesh}
        if before and {name: before[name] for name in now} != now:
            _log.warning(
                "step %s was saved by %d processes on a mesh of %s; it goes on with %d, on %s",
                folder.name,
                before["processes"],
                _axes(before["mesh"]),
                now["processes"],
                _axes(now["mesh"]),
            )

    def close(self) -> None:
        """Waits until nothing is being written."""
        self.wait()
        self._checkpointer.close()
        if jax.process_index() == 0:
            steps.clear_up(self._folder)
        end_quiet()


def _axes(mesh: dict[str, int] | None) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in (mesh or {}).items()) or "one device"


def check_fits(folder: Path, target: Any) -> int | None:
    """Step of the newest complete checkpoint, which a run would go on from; None without any
    checkpoint. Nothing is changed.

    Args:
        folder: the folder that holds one folder for each step.
        target: shapes and types of the run's train state.

    Raises:
        UserError: the checkpoint doesn't fit the target, or there are checkpoints and all of them
            are damaged.
        OSError: a checkpoint can't be read now.
    """
    damaged = {}
    for step in reversed(steps.finished(folder)):
        problems = items.quick_problems(folder / str(step))
        if not problems:
            items.check_state(folder / str(step), target)
            return step
        damaged[step] = f"{folder / str(step)} is damaged: {items.in_short(problems)}"
    if damaged:
        raise _none_intact(damaged)
    return None


def newest_complete_step(folder: Path) -> int | None:
    """Step of the newest complete checkpoint; None without one."""
    for step in reversed(steps.finished(folder)):
        if not items.quick_problems(folder / str(step)):
            return step
    return None


def newest_config(folder: Path) -> dict[str, Any] | None:
    """The configuration in the newest checkpoint that has a readable one; None without one."""
    for step in reversed(steps.finished(folder)):
        with contextlib.suppress(UserError, OSError):
            return items.read_config(folder / str(step))
    return None


def _none_intact(damaged: dict[int, str]) -> UserError:
    listed = ". ".join(damaged.values())
    return UserError(f"no checkpoint is intact. {listed}. Move them away to start anew.")
