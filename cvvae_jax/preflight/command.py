"""Prints whether a training run fits hardware that is not there, and what its steps cost."""

import dataclasses
import math
from typing import Literal

import jax
from rich.console import Console
from rich.filesize import decimal

from cvvae_jax import parameter_paths, sharding
from cvvae_jax.config import Bucket, MeshConfig, TrainConfig
from cvvae_jax.errors import UserError
from cvvae_jax.hardware import FLOAT32, GIB
from cvvae_jax.preflight.advice import Problem, advice, largest_batch
from cvvae_jax.preflight.compiler import CompileRequest, StepCost, Topology, compile_step
from cvvae_jax.preflight.cost import Traffic, least_time, memory_parts
from cvvae_jax.preflight.estimate import estimated_memory, estimated_traffic
from cvvae_jax.training.dry_run import parameters
from cvvae_jax.training.jobs import plan_run, video_shape
from cvvae_jax.training.programs import AbstractStage, abstract_stages
from cvvae_jax.training.step import Update

Batches = Literal["given", "largest"]

_console = Console(highlight=False, soft_wrap=True)


def preflight(
    config: TrainConfig, topology: str, *, batches: Batches, only_shardings: bool
) -> None:
    """Compile every step of a run for a topology, and print its memory, traffic and least time.

    Args:
        config: settings of the run. Weights and data may be missing; they are listed.
        topology: hardware such as `v5e:4x8`, `cpu:8` or `gpu:8xH100`.
        batches: `largest` also looks for the largest batch of every bucket that fits.
        only_shardings: print how every parameter is split over devices, and compile nothing.

    Raises:
        UserError: there is no such topology, or the run is not possible on it.
    """
    target = Topology.parse(topology)
    if target.kind == "gpu" and config.mesh.space > 1:
        raise UserError("GPUs are estimated for whole frames only: --mesh.space must be 1.")
    devices = target.devices()
    with jax.default_matmul_precision(config.matmul_precision):
        plan = plan_run(config, allow_missing=True, devices=devices)
        for missing in plan.missing:
            _print(f"missing: {missing}")
        _print(_hardware(target))
        for index, stage in enumerate(abstract_stages(plan, config)):
            _print(f"\n{stage.job.title}, on {_mesh(stage, target)}")
            if only_shardings:
                _print("\n".join(shardings(stage)))
            else:
                _console.print(parameters(stage))
                StagePreflight(config, target, index, stage).run(batches)


@dataclasses.dataclass(frozen=True)
class StagePreflight:
    """The preflight of one stage of a run on a topology."""

    config: TrainConfig
    target: Topology
    index: int
    """Number of the stage in the run."""
    stage: AbstractStage

    @property
    def limit(self) -> float:
        """Bytes of memory that a device has; infinity for CPUs."""
        return self.target.chip.memory if self.target.chip else math.inf

    @property
    def prefix(self) -> str:
        """Section of the stage's settings on the command line."""
        return self.stage.job.setting.replace("_", "-")

    def run(self, batches: Batches) -> None:
        """Compile every step, print its cost, and advise on what to change if one doesn't fit."""
        problems = []
        for position, bucket in enumerate(self.stage.job.stage.buckets):
            shape = video_shape(bucket)
            size = f"{bucket.frames} frames of {bucket.height} x {bucket.width}"
            _print(f"\nbucket of {bucket.batch} x {size}: {self._clips(shape)} per device")
            steps = {}
            for update in self.stage.job.updates:
                steps[update] = self._measure(update, shape)
                self._report(update, shape, steps[update])
            largest = max(steps, key=lambda update: steps[update].memory.total)
            memory = steps[largest].memory
            if memory.total > self.limit:
                problems.append(Problem(position, memory, self._clips(shape)))
            if batches == "largest" and self.target.chip:
                _print(self._largest(bucket, largest, steps[largest]))
        if problems:
            worst = max(problems, key=lambda problem: problem.memory.total)
            _print("\nDoesn't fit. " + "\n".join(self._advice(worst)))

    def _advice(self, problem: Problem) -> list[str]:
        return advice(self.stage, self.config, problem, prefix=self.prefix, limit=self.limit)

    def _clips(self, shape: tuple[int, ...]) -> int:
        mesh = self.stage.job.mesh
        return shape[0] // (mesh.shape["data"] * mesh.shape["fsdp"])

    def _measure(self, update: Update, shape: tuple[int, ...]) -> StepCost:
        if self.target.kind == "gpu":
            return self._estimate(update, shape)
        request = CompileRequest(self.config, self.target.name, self.index, update, shape)
        programs = self.stage.programs(self.config)
        with programs.announced(update, shape, target=self.target.name):
            return compile_step(request, self.stage, self.target)

    def _estimate(self, update: Update, shape: tuple[int, ...]) -> StepCost:
        """Estimate a step on GPUs from the step of one device, with its clips alone."""
        job = self.stage.job
        alone = sharding.make_mesh(MeshConfig(), batches=(1,), devices=[job.mesh.devices.flat[0]])
        stage = dataclasses.replace(self.stage, job=dataclasses.replace(job, mesh=alone))
        local = (self._clips(shape), *shape[1:])
        step = stage.programs(self.config).lower(update, local)
        memory = estimated_memory(self.stage, shape, step.jaxpr)
        traffic = estimated_traffic(self.stage, update)
        devices = job.mesh.size
        return StepCost(step.flops * devices, step.executed_flops * devices, memory, traffic, 0.0)

    def _report(self, update: Update, shape: tuple[int, ...], step: StepCost) -> None:
        total = f"{step.memory.total / GIB:.2f}"
        if self.target.chip:
            verdict = "fits" if step.memory.total <= self.limit else "DOESN'T FIT"
            total = f"{total} of {self.limit / GIB:.2f} GiB, {verdict}"
        else:
            total = f"{total} GiB"
        how = "estimated" if self.target.kind == "gpu" else f"compiled in {step.seconds:.0f} s"
        _print(f"  {update} step: {total} ({how})")
        sizes = memory_parts(self.stage, shape, step.memory).items()
        _print(
            "    memory: " + ", ".join(f"{name} {decimal(size)}" for name, size in sizes if size)
        )
        _print("    traffic: " + (", ".join(map(_traffic, step.traffic)) or "none"))
        _print("    " + self._work(step))

    def _work(self, step: StepCost) -> str:
        text = f"work: {step.flops / 1e12:.4g} TFLOP, {step.executed_flops / 1e12:.4g} executed"
        if self.target.chip is None:
            return text
        passes = FLOAT32[self.target.kind][self.config.matmul_precision]
        trains_video = self.stage.job.title == "video VAE"
        if (self.config.model if trains_video else self.config.image_model).dtype == "bfloat16":
            passes = 1
        least = least_time(
            step.executed_flops,
            step.traffic,
            chip=self.target.chip,
            devices=self.stage.job.mesh.size,
            passes=passes,
        )
        each = f" (in float32, {passes} times bfloat16's)" if passes > 1 else ""
        return (
            f"{text}; a step takes at least {1e3 * least.compute:.0f} ms at peak rate{each} and "
            f"{1e3 * least.links:.1f} ms on the links"
        )

    def _largest(self, bucket: Bucket, update: Update, given: StepCost) -> str:
        """Find the largest batch of a bucket that fits, and describe it in a line."""
        devices = bucket.batch // self._clips(video_shape(bucket))

        def measure(clips: int):
            if clips * devices == bucket.batch:
                return given.memory
            return self._measure(update, (clips * devices, *video_shape(bucket)[1:])).memory

        found = largest_batch(
            measure,
            given=bucket.batch // devices,
            step=self.stage.job.stage.accumulate,
            limit=self.limit,
        )
        if not found.clips:
            return "  largest batch: none fits"
        if self.target.kind == "gpu":
            how = "estimated"
        else:
            how = "compiled" if found.compiled else "estimated from those compiled"
        return (
            f"  largest batch: {found.clips * devices}, {found.clips} per device, with "
            f"{found.total / GIB:.2f} GiB in the {update} step ({how})"
        )


def shardings(stage: AbstractStage) -> list[str]:
    """A table of the arrays of all networks: shape, axes of the mesh that split it, and bytes."""
    trees = {
        "model": stage.state.model,
        "discriminator": stage.state.discriminator,
        "image VAE": stage.frozen.image_vae,
        "LPIPS": stage.frozen.lpips,
    }
    rows = [("parameter", "shape", "split over", "bytes per device")]
    for name, tree in trees.items():
        layouts = parameter_paths.flatten(sharding.shardings(tree, stage.job.mesh))
        for path, leaf in parameter_paths.flatten(tree).items():
            shard = layouts[path].shard_shape(leaf.shape)
            split = " ".join(str(axis or ".") for axis in layouts[path].spec) or "whole"
            size = math.prod(shard) * leaf.dtype.itemsize
            shape = "x".join(map(str, leaf.shape)) or "a number"
            rows.append((f"{name}: {path}", shape, split, f"{size:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {split:<{widths[2]}}  {size:>{widths[3]}}"
        for name, shape, split, size in rows
    ]


def _hardware(target: Topology) -> str:
    lines = [f"{target.name}, {target.versions()}"]
    if target.chip is None:
        lines.append("CPUs have no memory limit here, and need other memory than TPUs do.")
    else:
        chip = target.chip
        lines.append(
            f"{target.count} x {chip.name}: {chip.memory / GIB:.2f} GiB, "
            f"{chip.peak_flops / 1e12:.0f} TFLOP/s in bfloat16; each sends "
            f"{chip.link / 1e9:.0f} GB/s over links, {chip.network / 1e9:.3g} GB/s over the "
            f"network ({chip.source})"
        )
    if target.kind == "gpu":
        lines.append(
            "ESTIMATED, since nothing can be compiled for GPUs without one. State and batch are "
            "exact. Temporaries are estimated from the traced program (the TPU compiler needed 58 "
            "to 89 % of such estimates), traffic from shapes."
        )
    return "\n".join(lines)


def _mesh(stage: AbstractStage, target: Topology) -> str:
    mesh = stage.job.mesh
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    text = f"{mesh.size} devices ({axes})"
    if left := target.count - mesh.size:
        text += (
            f"; {left} are LEFT OUT: batches (buckets.N.batch) of {target.count} clips would use "
            "them"
        )
    return text


def _traffic(traffic: Traffic) -> str:
    return f"{traffic.count} x {traffic.kind} {decimal(traffic.bytes)}"


def _print(text: str) -> None:
    _console.print(text, markup=False)
