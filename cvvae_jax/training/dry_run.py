"""`--dry-run`: prints a run's sizes, operations, memory and schedule, and what is missing.

Every program of the run is compiled for the devices at hand, so that a run that doesn't fit is
recognized before it starts. Nothing is written, and no weights are read.
"""

from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from cvvae_jax import parameter_paths, sharding
from cvvae_jax.config import OptimizerConfig, TrainConfig
from cvvae_jax.training.jobs import Job, plan_run, video_shape
from cvvae_jax.training.programs import AbstractStage, abstract_stages, bytes_per_device
from cvvae_jax.training.state import learning_rate
from cvvae_jax.training.trainable import partition

_console = Console(highlight=False)


def dry_run(config: TrainConfig) -> None:
    """Prints the plan of a run.

    Raises:
        UserError: the configuration can't be run. Weights and data that are not there yet are
            listed instead.
    """
    with jax.default_matmul_precision(config.matmul_precision):
        plan = plan_run(config, allow_missing=True)
        for missing in plan.missing:  # first, since compiling takes long
            _console.print(f"missing: {missing}", markup=False, soft_wrap=True)
        for stage in abstract_stages(plan, config):
            _describe(stage, config)


def _describe(stage: AbstractStage, config: TrainConfig) -> None:
    job = stage.job
    _say(f"{job.title}, {job.stage.steps} steps, on {sharding.describe(job.mesh)}")
    _console.print(parameters(stage))
    _console.print(_schedule(job))
    _console.print(_state_memory(stage))
    _programs(stage, config)


def parameters(stage: AbstractStage) -> Table:
    """A table of the networks' sizes, and of the types that they compute in."""
    state, frozen = stage.state, stage.frozen
    table = _table("parameters", "encoder", "decoder", "all", "computes in")
    networks = [("model", state.model), ("frozen image VAE", frozen.image_vae)]
    for name, network in networks:
        if network is not None:
            sizes = (network.encoder, network.decoder, network)
            table.add_row(name, *map(_millions, sizes), _types(network.config))
    trainable = stage.job.stage.trainable
    if trainable != "all":
        part, _ = partition(state.model, trainable)
        table.add_row(
            "trained of the model", *map(_millions, (part.encoder, part.decoder, part)), ""
        )
    for name, network in (("discriminator", state.discriminator), ("LPIPS", frozen.lpips)):
        if network is not None:
            table.add_row(name, "", "", _millions(network), network.config.dtype)
    return table


def _schedule(job: Job) -> Table:
    """A table of the learning rates over the run."""
    steps = job.stage.steps
    marks = sorted({0, job.stage.optimizer.warmup_steps, *(steps * i // 4 for i in range(1, 5))})
    marks = [min(step, steps - 1) for step in marks]
    table = _table("learning rate at step", *map(str, marks))

    def add(name: str, config: OptimizerConfig) -> None:
        rates = (learning_rate(config, jnp.asarray(step), steps=steps) for step in marks)
        table.add_row(name, *(f"{float(rate):.2g}" for rate in rates))

    add("model", job.stage.optimizer)
    if job.discriminator is not None:
        add("discriminator", job.stage.gan_optimizer)
    return table


def _state_memory(stage: AbstractStage) -> Table:
    table = _table("kept on every device", "")
    for name, tree in stage.kept.items():
        table.add_row(name, decimal(bytes_per_device(tree, stage.job.mesh)))
    return table


def _programs(stage: AbstractStage, config: TrainConfig) -> None:
    """Prints one line for every program as soon as it is compiled."""
    job, programs = stage.job, stage.programs(config)
    total = sum(bucket.weight for bucket in job.stage.buckets)
    for bucket in job.stage.buckets:
        shape = video_shape(bucket)
        size = f"{bucket.height} x {bucket.width}"
        _say(
            f"bucket of {bucket.batch} x {bucket.frames} frames of {size}, "
            f"{100 * bucket.weight / total:.0f} % of the steps"
        )
        for update in job.updates:
            with programs.announced(update, shape):
                program = programs.compile(update, shape)
            memory = program.compiled.memory_analysis()
            _say(
                f"  {update} step: {program.flops / 1e12:.3g} TFLOP"
                f" ({program.executed_flops / 1e12:.3g} executed); memory per device: "
                f"{decimal(memory.argument_size_in_bytes)} of state and batch, "
                f"{decimal(memory.temp_size_in_bytes)} at work; compiled in "
                f"{program.seconds:.0f} s"
            )


def _millions(tree: Any) -> str:
    return f"{parameter_paths.count(tree) / 1e6:.2f} M"


def _types(config: Any) -> str:
    """The types that encoder and decoder compute in."""
    decoder = config.decoder_dtype or config.dtype
    return config.dtype if decoder == config.dtype else f"{config.dtype} and {decoder}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _say(text: str) -> None:
    _console.print(text, markup=False, soft_wrap=True)
