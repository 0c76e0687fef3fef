"""The training step as compiled programs, and the shapes and types that planning one needs."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from cvvae_jax import sharding
from cvvae_jax.compiling import announced, compile_program
from cvvae_jax.config import StageConfig, TrainConfig
from cvvae_jax.hardware import count_flops
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.processes.broadcast import wait_for_all
from cvvae_jax.training.jobs import Job, RunPlan, initial_state
from cvvae_jax.training.state import Frozen, StepMetrics, TrainState
from cvvae_jax.training.step import Update, train_step, update_of


@dataclasses.dataclass(frozen=True)
class LoweredStep:
    """A training step that is traced for its devices, and not compiled yet."""

    lowered: jax.stages.Lowered
    jaxpr: jax.extend.core.ClosedJaxpr
    flops: float
    """See `TrainProgram`."""
    executed_flops: float
    """See `TrainProgram`."""


NAME = "cvvae_step"
"""Name of the programs in messages of the compiler and of profilers."""


@dataclasses.dataclass(frozen=True)
class TrainProgram:
    """A compiled training step."""

    update: Update
    """The networks that the step trains."""
    frames: int
    """Frames of the global batch."""
    compiled: jax.stages.Compiled
    """Takes the state, whose memory it uses again, the batch and the frozen networks."""
    flops: float
    """Operations of the model over all devices, without those that are repeated to save memory."""
    executed_flops: float
    """All operations over all devices."""
    seconds: float
    """Seconds that compilation took."""


class TrainPrograms:
    """The programs of a job, each compiled when it is first needed."""

    def __init__(self, job: Job, config: TrainConfig, state: TrainState, frozen: Frozen):
        """Prepares the programs of a job; nothing is compiled yet.

        Args:
            job: the job.
            config: the configuration of the job's run.
            state: the train state, or its shapes and types.
            frozen: the frozen networks, or their shapes and types.
        """
        self._job, self._seed = job, config.seed
        self._layout = sharding.shardings(state, job.mesh)
        self._frozen_layout = sharding.shardings(frozen, job.mesh)
        self._state, self._frozen = (jax.tree.map(_shape_of, tree) for tree in (state, frozen))
        self._programs: dict[tuple, TrainProgram] = {}

    def of(
        self,
        step: int,
        video_shape: tuple[int, ...],
        say: Callable[[str], None] | None = None,
    ) -> tuple[TrainProgram, bool]:
        """The program of a step, counted from 0, for a global batch of this shape; and whether it
        was compiled just now, by all processes.

        Args:
            step: the number of the step.
            video_shape: (b, t, h, w, 3).
            say: is told before a program is compiled; default: the log of `compiling`.
        """
        update = update_of(step, self._job.stage, self._job.loss)
        key = (update, video_shape)
        is_new = key not in self._programs
        if is_new:
            with self.announced(update, video_shape, say=say):
                self._programs[key] = self.compile(update, video_shape)
            wait_for_all(f"{self._job.title}: {update} {video_shape}")
        return self._programs[key], is_new

    def announced(
        self,
        update: Update,
        video_shape: tuple[int, ...],
        *,
        target: str = "",
        say: Callable[[str], None] | None = None,
    ) -> AbstractContextManager:
        """A context that says before that a program is compiled, and about how long it will take.

        Args:
            update: the networks that the step trains.
            video_shape: (b, t, h, w, 3).
            target: hardware that is compiled for, where it is another than that at hand.
            say: takes the message; default: the log of `compiling`.
        """
        state, job = self._state, self._job
        networks = [n.config for n in (state.model, state.discriminator) if n is not None]
        depends_on = (job.stage, job.loss, dict(job.mesh.shape), networks, list(self._frozen.terms))
        what = describe_program(update, video_shape) + (f" on {target}" if target else "")
        return announced(what, *depends_on, say=say)

    def compile(self, update: Update, video_shape: tuple[int, ...]) -> TrainProgram:
        """Compiles a new program."""
        start = time.perf_counter()
        traced = self.lower(update, video_shape)
        compiled = compile_program(traced.lowered)
        frames = video_shape[0] * video_shape[1]
        seconds = time.perf_counter() - start
        return TrainProgram(update, frames, compiled, traced.flops, traced.executed_flops, seconds)

    def lower(self, update: Update, video_shape: tuple[int, ...]) -> LoweredStep:
        """Lowers a new program, and counts its operations."""
        stage = self._job.stage
        traced = self.trace(update, video_shape)
        executed = flops = count_flops(traced.jaxpr)
        if stage.remat != "none" or stage.accumulate > 1:
            plain = dataclasses.replace(stage, remat="none", accumulate=1)
            flops = count_flops(self._trace(update, video_shape, plain).jaxpr)
        return LoweredStep(traced.lower(), traced.jaxpr, flops, executed)

    def trace(self, update: Update, video_shape: tuple[int, ...]) -> jax.stages.Traced:
        """Traces a new program, for this or another platform."""
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
            keep_unused=True,  # arrays that a step doesn't need are in memory, too
        )
        with jax.set_mesh(mesh):
            return jitted.trace(self._state, batch, self._frozen)


def describe_program(update: Update, video_shape: tuple[int, ...]) -> str:
    """A program in words."""
    batch, frames, height, width, _ = video_shape
    return f"the {update} step for {batch} x {frames} frames of {height} x {width}"


def _step_with_stop(
    state: TrainState, batch: dict[str, jax.Array], frozen: Frozen, **options: Any
) -> tuple[TrainState, StepMetrics]:
    """`train_step`, with the number of the signal that ends the run, from whichever process's
    records, among its metrics (see `processes.stop`)."""
    state, metrics = train_step(state, batch, frozen, **options)
    return state, metrics | {"stop": batch["stop"].max()}


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


@dataclasses.dataclass(frozen=True)
class AbstractStage:
    """One stage of a run, with shapes and types in place of arrays."""

    job: Job
    state: TrainState
    frozen: Frozen

    @property
    def kept(self) -> dict[str, Any]:
        """The arrays that stay on the devices from step to step, by their purpose."""
        return {
            "parameters": (self.state.model, self.state.discriminator),
            "moments": (self.state.opt_state, self.state.gan_opt_state),
            "averages": self.state.ema,
            "frozen networks": self.frozen,
        }

    def programs(self, config: TrainConfig) -> TrainPrograms:
        """The stage's programs."""
        return TrainPrograms(self.job, config, self.state, self.frozen)


def abstract_stages(plan: RunPlan, config: TrainConfig) -> list[AbstractStage]:
    """The stages of a run in their order, without any arrays."""
    lpips = plan.lpips.abstract if plan.lpips else None
    jobs = [(plan.image, Frozen(lpips=lpips)), (plan.video, Frozen(_image_vae(plan), lpips))]
    return [_abstract(job, frozen, config) for job, frozen in jobs if job is not None]


def bytes_per_device(tree: Any, mesh: Mesh | AbstractMesh) -> int:
    """Bytes per device of arrays that lie on the mesh by the rules of `sharding`."""
    leaves = zip(
        jax.tree.leaves(tree), jax.tree.leaves(sharding.shardings(tree, mesh)), strict=True
    )
    return sum(math.prod(s.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, s in leaves)


def _abstract(job: Job, frozen: Frozen, config: TrainConfig) -> AbstractStage:
    start = job.start.abstract if job.start else None
    state = jax.eval_shape(functools.partial(initial_state, job, seed=config.seed), frozen, start)
    return AbstractStage(job, state, frozen)


def _image_vae(plan: RunPlan) -> ImageVAE:
    if plan.image_vae is not None:
        return plan.image_vae.abstract
    return jax.eval_shape(
        lambda key: ImageVAE(plan.image_config, rngs=nnx.Rngs(key)), jax.random.key(0)
    )
