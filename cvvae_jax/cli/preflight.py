"""`python -m cvvae_jax preflight RECIPE --topology v5e:4x8`: a run on hardware that isn't there."""

import dataclasses
from typing import Annotated, Literal

import tyro

from cvvae_jax.cli.program import program


@dataclasses.dataclass(frozen=True)
class Preflight:
    """Compile the training steps of a recipe for hardware that you don't have, and print what they
    take: memory of every device, traffic, operations, the largest batch; and what to change if they
    don't fit.

    Takes minutes and no accelerator. Settings of the recipe follow, as for `train`:
    --train.remat full --mesh.fsdp 8 --train.buckets.1.batch 32 ..
    """

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
    """The name of a recipe, such as sd3, or its file."""
    topology: str
    """A TPU slice (v5e:4x8, v5p:4x4x4, v6e:16x16; needs `pip install libtpu`), virtual CPUs
    (cpu:8), or GPUs, whose memory is estimated (gpu:8xH100)."""
    batches: Literal["given", "largest"] = "largest"
    """Compile the batches as they are given, or look for the largest ones that fit, too, which
    takes two to three times as long."""
    shardings: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only list which parameter lies how, with its bytes on a device."""


def main(arguments: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: the recipe can't be read, or can't be run on that topology.
        SystemExit: the arguments are malformed, or help was asked for.
    """
    prog = program("preflight")
    options, settings = tyro.cli(Preflight, args=arguments, prog=prog, return_unknown_args=True)
    # Imported here, so that help is answered without starting jax.
    from cvvae_jax.preflight.command import preflight
    from cvvae_jax.recipe import parse_train_config

    config = parse_train_config([options.recipe, *settings], prog=prog)
    preflight(config, options.topology, batches=options.batches, only_shardings=options.shardings)
