"""Traces of training steps by jax.profiler, which XProf and TensorBoard show."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import jax

from cvvae_jax.training.log import say


class Profile:
    """A trace of some steps of a stage, from the first step on whose program is compiled already.

    It lies in the run folder where TensorBoard looks for it: tensorboard/plugins/profile/TIME. Of
    several processes, the first one writes it.
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
        self._left = steps if jax.process_index() == 0 else 0
        self._is_running = False

    def before_step(self, *, is_new: bool, wait: Callable[[], None]) -> None:
        """Starts or ends the trace where it is time to.

        Args:
            is_new: whether the program of the step to come was compiled just now.
            wait: returns when the devices have done the steps before.
        """
        if self._is_running and self._left == 0:
            wait()
            self.stop()
        elif self._left and not self._is_running and not is_new:
            wait()
            with self._pause():
                jax.profiler.start_trace(self._run_folder / "tensorboard")
            self._is_running = True
        if self._is_running:
            self._left -= 1

    def stop(self) -> None:
        """Writes the trace, if one was started."""
        if not self._is_running:
            return
        self._is_running = False
        try:
            with self._pause():
                jax.profiler.stop_trace()
        except Exception as error:  # whatever the profiler raises of a full disk
            what = f"the trace can't be written ({error})"
            say(self._run_folder, f"warning: {what}; training goes on")
            return
        done = self._steps - self._left
        say(self._run_folder, f"a trace of {done} steps is in {self._run_folder / 'tensorboard'}")
