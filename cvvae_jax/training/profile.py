"""Traces of training steps by jax.profiler, for XProf and TensorBoard."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import jax

from cvvae_jax.training.log import say


class Profile:
    """A trace of consecutive steps of a stage, from the first step on whose program is already
    compiled.

    The trace is written to tensorboard/plugins/profile/TIME in the run folder, where TensorBoard
    looks for it. Of several processes, the first one writes it; all of them wait for their devices
    at its start and at its end, so that they stay at the same step.
    """

    def __init__(
        self, run_folder: Path, steps: int, *, pause: Callable[[], AbstractContextManager]
    ):
        """Prepares a trace; it starts later.

        Args:
            run_folder: the stage's run folder.
            steps: how many steps to trace; 0 traces none.
            pause: makes a context whose time does not count as training.
        """
        self._run_folder, self._steps, self._pause = run_folder, steps, pause
        self._left, self._is_running = steps, False

    def before_step(self, *, is_new: bool, wait: Callable[[], None]) -> None:
        """Starts the trace, unless it has started or the next step's program is new.

        Args:
            is_new: whether the program of the next step was compiled just now.
            wait: returns when the devices have done the steps before.
        """
        if self._left and not self._is_running and not is_new:
            wait()
            self._is_running = True
            self._try(self._start)

    def after_step(self, *, wait: Callable[[], None]) -> None:
        """Ends the trace after its last step.

        Args:
            wait: returns when the devices have done the step.
        """
        if self._is_running:
            self._left -= 1
            if self._left == 0:
                wait()
                self.stop()

    def stop(self) -> None:
        """Writes the trace, if one was started."""
        if not self._is_running:
            return
        self._is_running = False
        if self._try(jax.profiler.stop_trace):
            done = self._steps - self._left
            say(self._run_folder, f"a trace of {done} steps is in {self._run_folder}/tensorboard")
        self._left = 0

    def _start(self) -> None:
        # Made now, so that a folder that can't be written is found now: up to jax 0.10, a trace
        # that can't be written at its end keeps the process from starting another one.
        folder = self._run_folder / "tensorboard"
        (folder / "plugins" / "profile").mkdir(parents=True, exist_ok=True)
        jax.profiler.start_trace(folder)

    def _try(self, act: Callable[[], None]) -> bool:
        """Lets the first process start or write the trace, and returns whether that succeeded."""
        if jax.process_index() != 0:
            return False
        try:
            with self._pause():
                act()
        except Exception as error:  # the profiler raises many kinds, as on a full disk
            self._is_running, self._left = False, 0
            say(self._run_folder, f"warning: no trace is written ({error}); training goes on")
            return False
        return True
