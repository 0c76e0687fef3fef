"""Traces of training steps by jax.profiler, which XProf and TensorBoard show."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import jax

from cvvae_jax.training.log import say


class Profile:
    """A trace of some steps of a stage that follow each other, from the first one on whose program
    is compiled already.

    It lies in the run folder where TensorBoard looks for it: tensorboard/plugins/profile/TIME. Of
    several processes, the first one writes it; all of them wait for their devices at its start and
    its end, so that they stay at the same step.
    """

    def __init__(
        self, run_folder: Path, steps: int, *, pause: Callable[[], AbstractContextManager]
    ):
        """Describe the trace.

        Args:
            run_folder: of the stage.
            steps: how many are traced; 0: none.
            pause: a context in which time isn't taken for training.
        """
        self._run_folder, self._steps, self._pause = run_folder, steps, pause
        self._left, self._is_running = steps, False

    def before_step(self, *, is_new: bool, wait: Callable[[], None]) -> None:
        """Starts the trace if it is time to.

        Args:
            is_new: whether the program of the step to come was compiled just now.
            wait: returns when the devices have done the steps before.
        """
        if self._left and not self._is_running and not is_new:
            wait()
            self._is_running = True
            self._try(self._start)

    def after_step(self, *, wait: Callable[[], None]) -> None:
        """Ends the trace if the step that was dispatched last was the last of it.

        Args:
            wait: returns when the devices have done it.
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
        # A folder that can't be written is found here: up to jax 0.10, a trace that can't be
        # written at its end keeps the process from starting another one.
        folder = self._run_folder / "tensorboard"
        (folder / "plugins" / "profile").mkdir(parents=True, exist_ok=True)
        jax.profiler.start_trace(folder)

    def _try(self, act: Callable[[], None]) -> bool:
        """Of the first process, starts or writes the trace; whether that went well."""
        if jax.process_index() != 0:
            return False
        try:
            with self._pause():
                act()
        except Exception as error:  # whatever the profiler raises, of a full disk or a second trace
            self._is_running, self._left = False, 0
            say(self._run_folder, f"warning: no trace is written ({error}); training goes on")
            return False
        return True
