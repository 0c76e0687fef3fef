"""The training step as compiled programs: one for every kind of update and shape of batch."""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from cvvae_jax import sharding
from cvvae_jax.agreement import wait_for_all
from cvvae_jax.config import StageConfig, TrainConfig
from cvvae_jax.training.flops import count_flops
from cvvae_jax.training.gradients import Update
from cvvae_jax.training.jobs import Job
from cvvae_jax.training.objective import Metrics
from cvvae_jax.training.state import Frozen, TrainState
from cvvae_jax.training.step import train_step, update_of


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A step that was traced for its devices, not compiled yet."""

    lowered: jax.stages.Lowered
    """To be compiled."""
    jaxpr: jax.extend.core.ClosedJaxpr
    """As it was traced."""
    flops: float
    """As of `Program`."""
    executed_flops: float
    """As of `Program`."""


NAME = "cvvae_step"
"""Of the programs, in what the compiler and profilers say of them."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled step."""

    update: Update
    """What it trains."""
    frames: int
    """Frames of its batch."""
    compiled: jax.stages.Compiled
    """Takes state, batch and frozen networks; the state's memory is used again."""
    flops: float
    """Operations of the model, over all devices: those done again for want of memory aside."""
    executed_flops: float
    """All operations that are done."""
    seconds: float
    """How long it took to compile."""


class Programs:
    """The programs of a job, compiled when they are first asked for."""

    def __init__(self, job: Job, config: TrainConfig, state: TrainState, frozen: Frozen):
        """Describe the programs.

        Args:
            job: what is trained.
            config: its run.
            state: the train state, or its shapes and types.
            frozen: the frozen networks, or their shapes and types.
        """
        self._job, self._seed = job, config.seed
        self._layout = sharding.shardings(state, job.mesh)
        self._frozen_layout = sharding.shardings(frozen, job.mesh)
        self._state, self._frozen = (jax.tree.map(_shape_of, tree) for tree in (state, frozen))
        self._programs: dict[tuple, Program] = {}

    def of(self, step: int, video_shape: tuple[int, ...]) -> tuple[Program, bool]:
        """The program of a step, counted from 0, on a global batch of this shape; and whether it
        was compiled just now, by all processes."""
        update = update_of(step, self._job.stage, self._job.loss)
        key = (update, video_shape)
        is_new = key not in self._programs
        if is_new:
            self._programs[key] = self.compile(update, video_shape)
            wait_for_all(f"{self._job.title}: {update} {video_shape}")
        return self._programs[key], is_new

    def compile(self, update: Update, video_shape: tuple[int, ...]) -> Program:
        """A new program."""
        start = time.perf_counter()
        traced = self.lower(update, video_shape)
        compiled = traced.lowered.compile()
        frames = video_shape[0] * video_shape[1]
        seconds = time.perf_counter() - start
        return Program(update, frames, compiled, traced.flops, traced.executed_flops, seconds)

    def lower(self, update: Update, video_shape: tuple[int, ...]) -> Lowered:
        """A new program before it is compiled."""
        stage = self._job.stage
        traced = self.trace(update, video_shape)
        executed = flops = count_flops(traced.jaxpr)
        if stage.remat != "none" or stage.accumulate > 1:
            plain = dataclasses.replace(stage, remat="none", accumulate=1)
            flops = count_flops(self._trace(update, video_shape, plain).jaxpr)
        return Lowered(traced.lower(), traced.jaxpr, flops, executed)

    def trace(self, update: Update, video_shape: tuple[int, ...]) -> jax.stages.Traced:
        """A new program before it is lowered, for this or another platform."""
        return self._trace(update, video_shape, self._job.stage)

    def _trace(
        self, update: Update, video_shape: tuple[int, ...], stage: StageConfig
    ) -> jax.stages.Traced:
        step = functools.partial(
            _step_with_stop, update=update, stage=stage, loss=self._job.loss, seed=self._seed
        )
        mesh = self._job.mesh
        batch = {
            "video": jax.ShapeDtypeStruct(video_shape, jnp.uint8),
            "seed": jax.ShapeDtypeStruct(video_shape[:1], jnp.uint32),
            "stop": jax.ShapeDtypeStruct(video_shape[:1], jnp.uint8),
        }
        split = sharding.split_rows(step, mesh)

        def program(state, batch, frozen):
            return split(state, batch, frozen)

        program.__name__ = NAME
        jitted = jax.jit(
            program,
            in_shardings=(
                self._layout,
                sharding.batch_shardings(batch, mesh),
                self._frozen_layout,
            ),
            out_shardings=(self._layout, NamedSharding(mesh, PartitionSpec())),
            donate_argnums=0,
            keep_unused=True,  # what a step doesn't need lies in memory, too
        )
        with jax.set_mesh(mesh):
            return jitted.trace(self._state, batch, self._frozen)


def _step_with_stop(
    state: TrainState, batch: dict[str, jax.Array], frozen: Frozen, **options: Any
) -> tuple[TrainState, Metrics]:
    """`train_step`, whose metrics also have the signal that ends the run, of whatever process's
    records (see `StopSignals.marks`)."""
    state, metrics = train_step(state, batch, frozen, **options)
    return state, metrics | {"stop": batch["stop"].max()}


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
