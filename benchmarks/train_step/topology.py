"""Training steps compiled for TPUs that aren't there: whether they fit, and how long it takes."""

import importlib.metadata
import os
import re
from typing import get_args

import jax
from jax.experimental import topologies

from benchmarks.train_step.ours import planned_bytes
from benchmarks.train_step.setting import Family, Networks, Row, Updates, job_of
from cvvae_jax import sharding
from cvvae_jax.config import MeshConfig, Remat
from cvvae_jax.training.jobs import video_shape
from cvvae_jax.training.programs import Program, Programs

# GiB of memory a chip, by the beginning of jax's `device_kind`.
MEMORY = {"TPU v4": 32, "TPU v5 lite": 16, "TPU v5": 95, "TPU v6 lite": 32}


def compile_for(
    topology: str,
    family: Family,
    remats: tuple[Remat, ...],
    updates: tuple[Updates, ...],
    *,
    tiny: bool,
) -> None:
    """Prints a line for every program: a clip a chip, in bfloat16, every chip with all parameters,
    and at last, with the policy that keeps least, the parameters split over the chips."""
    jax.config.update("jax_platforms", "cpu")  # nothing may look for TPUs
    # Its lock is for TPUs that are there: any process that looked for some holds it.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    kind, count = described.devices[0].device_kind, len(described.devices)
    memory = MEMORY[max((name for name in MEMORY if kind.startswith(name)), key=len)]
    print(
        f"jax {jax.__version__}, libtpu {importlib.metadata.version('libtpu')}\n"
        f"{count} x {kind}, {memory} GiB each; GB a chip of arguments (state, batch, frozen "
        f"networks), temporaries and outputs that take no argument's place\n"
        f"{'mesh':<8}{'remat':<8}{'step':<15}{'arguments':>10}{'temp.':>8}{'output':>8}"
        f"{'all':>8}  {'fits':<6}{'compile s':>10}  convolutions",
        flush=True,
    )
    variants = [(1, remat) for remat in remats]
    variants.append((count, max(remats, key=get_args(Remat).index)))
    for fsdp, remat in variants:
        for update in updates:
            row = Row("jax", "video", update, "bfloat16", remat, family, tiny, count)
            _compile(row, described.devices, fsdp, memory)


def _compile(row: Row, devices: list, fsdp: int, memory: int) -> None:
    config = row.config
    mesh = sharding.make_mesh(
        MeshConfig(fsdp=fsdp), batches=(row.bucket.batch,), devices=list(devices)
    )
    job = job_of(config, mesh)
    networks = Networks.abstract(config, tiny=row.tiny)
    state = jax.eval_shape(lambda networks: networks.state(config), networks)
    programs = Programs(job, config, state, networks.frozen)
    for update in row.programs:
        name = f"{'fsdp' if fsdp > 1 else 'data':<8}{row.remat:<8}{update:<15}"
        try:
            program = programs.compile(update, video_shape(row.bucket))
        except jax.errors.JaxRuntimeError as error:
            print(name + _reason(error), flush=True)
        else:
            print(name + _described(program, memory), flush=True)


def _described(program: Program, memory: int) -> str:
    stats = program.compiled.memory_analysis()
    total = planned_bytes(program.compiled)
    parts = (
        stats.argument_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.output_size_in_bytes - stats.alias_size_in_bytes,
        total,
    )
    sizes = "".join(
        f"{part / 1e9:>{width}.2f}" for part, width in zip(parts, (10, 8, 8, 8), strict=True)
    )
    fits = "yes" if total <= memory * 2**30 else "no"
    return f"{sizes}  {fits:<6}{program.seconds:>10.0f}  {_convolutions(program)}"


def _convolutions(program: Program) -> str:
    """How many have how many axes in space and time: 3-D ones are XLA's own on a TPU."""
    labels = re.findall(r"dim_labels=(\w+)_", program.compiled.as_text())
    axes = [sum(character.isdigit() for character in label) for label in labels]
    return ", ".join(f"{axes.count(n)} {n}-D" for n in sorted(set(axes)))


def _reason(error: Exception) -> str:
    """What the compiler says of memory; other errors aren't expected."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        raise error
    found = re.search(r"(?:temporaries \(|Used )(\S+?)\)? \S* ?.*?(?:HBM \(|of )([\d.]+\w)", text)
    sizes = f": {found[1]} of temporaries, {found[2]} of memory" if found else ""
    return f"doesn't fit{sizes} (GiB, the compiler says)"
