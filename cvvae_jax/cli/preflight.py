"""The command `preflight`: says whether a training run fits hardware that is not there."""

import dataclasses
from typing import Annotated, Literal

import tyro

from cvvae_jax.arguments import parse
from cvvae_jax.cli.program import program


@dataclasses.dataclass(frozen=True)
class PreflightArguments:
    """Compile the training steps of a recipe for hardware that you don't have.

    Prints the memory of every device, traffic, operations, the largest batch, and what to change if
    the run does not fit. This takes minutes, and needs no accelerator. Settings of the recipe
    follow as for `train`: --train.remat full --mesh.fsdp 8 --train.buckets.1.batch 32 ..
    """

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
    """Name of a recipe, such as sd3, or its file."""
    topology: str
    """A TPU slice (v5e:4x8, v5p:4x4x4, v6e:16x16; needs `pip install libtpu`), virtual CPUs
    (cpu:8), or GPUs (gpu:8xH100), for which everything is estimated."""
    batches: Literal["given", "largest"] = "largest"
    """`given` compiles the batches of the recipe; `largest` also looks for the largest batches that
    fit, which takes two to three times as long."""
    shardings: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only list how every parameter is split over devices, with its bytes on a device."""


def main(command_line: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: the recipe can't be read, or can't be run on that topology.
        SystemExit: the arguments are malformed, or help was asked for.
    """
    prog = program("preflight")
    arguments, settings = parse(
        PreflightArguments, command_line, prog=prog, return_unknown_args=True
    )
    # Imported here, so that help is answered without starting jax.
    from cvvae_jax.preflight.command import preflight
    from cvvae_jax.recipe import parse_train_config

    config = parse_train_config([arguments.recipe, *settings], prog=prog)
    preflight(
        config, arguments.topology, batches=arguments.batches, only_shardings=arguments.shardings
    )
