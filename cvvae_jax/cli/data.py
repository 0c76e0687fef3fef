"""The commands `data check`, `data prepare` and `data show`, for training data."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import tyro

from cvvae_jax.arguments import nearest, parse
from cvvae_jax.cli.program import program, track
from cvvae_jax.config.checks import at_least
from cvvae_jax.errors import UserError, visible
from cvvae_jax.resumable.files import require_vacant, require_writable, written_aside

_USAGE = """usage: {program} COMMAND [ARGUMENTS]

commands:
  check         Decode every file and list the bad ones, with the reason.
  prepare       Transcode videos and images, and pack them into shards that are fast to read.
  show          Write a picture of the clips that a recipe trains on.

{program} COMMAND --help lists a command's arguments."""


@dataclasses.dataclass(frozen=True)
class CheckArguments:
    """Decode every video and every image of a place to the end, and list the bad files.

    The exit status is 1 if there is a bad file. No file is changed.
    """

    place: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PLACE")]
    """Folder, pattern, list, shards or tfds:NAME, as for --data.videos of `train`."""
    fix: Path | None = None
    """Write the names of the bad files, with the reason, to this file. Then train with
    --data.exclude FILE."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace the file of --fix if it is there already."""
    workers: int = len(os.sched_getaffinity(0))
    """Number of processes that decode."""

    def __post_init__(self):
        at_least(self, 1, "workers")


_SHOW_USAGE = """\
usage: {program} OUTPUT.png RECIPE [--overwrite] [--section.field VALUE ..]

Write a picture of the clips that a recipe trains on: of every bucket, the frames of its first four
clips, as they are cut, resized and augmented. Nothing is trained, and no model is needed.

  OUTPUT.png    The picture to write.
  RECIPE        A recipe, such as quickstart, or a file of your own.
  --overwrite   Replace a picture that is there already.

Settings of the recipe follow as for `train`: --data.videos DIR shows your own videos.
{program} OUTPUT.png RECIPE --help documents every setting."""


def main(command_line: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: a place cannot be read, or a file cannot be written.
        SystemExit: `check` found bad files, the arguments are malformed, or help was asked for.
    """
    match command_line:
        case ["check", *rest]:
            _check(parse(CheckArguments, rest, prog=program("data check")))
        case ["prepare", *rest]:
            _prepare(rest)
        case ["show", *rest]:
            _show(rest)
        case [("-h" | "--help"), *_]:
            print(_usage())
        case [name, *_] if meant := nearest(name, ("check", "prepare", "show")):
            raise UserError(f"`data` has no command {name}; did you mean {meant[0]}?")
        case _:
            raise UserError(f"`data` needs one of its commands.\n\n{_usage()}")


def _usage() -> str:
    return _USAGE.format(program=program("data"))


def _check(arguments: CheckArguments) -> None:
    from cvvae_jax.data.check import check
    from cvvae_jax.data.sources import open_sources, write_exclusions

    if arguments.fix is not None:
        require_vacant(arguments.fix, overwrite=arguments.overwrite)
        require_writable(arguments.fix)  # fails at once, and not after hours of decoding
    bad, good = {}, set()
    for kind, source in open_sources(arguments.place).items():
        results = check(source, workers=arguments.workers)
        for name, reason in track(results, total=len(source), unit=f"{kind}s"):
            if reason is None:
                good.add(name)
            else:
                bad[name] = reason
    # Shards without an index list all records as videos, and again as images.
    bad = {name: reason for name, reason in bad.items() if name not in good}
    for name in sorted(bad):
        line = bad[name] if name in bad[name] else f"{name}: {bad[name]}"
        print(visible(line))
    print(f"{len(bad)} of {len(bad) + len(good)} files are bad.")
    if arguments.fix is not None:
        write_exclusions(arguments.fix, bad)
        print(f"Their names are in {arguments.fix}: train with --data.exclude {arguments.fix}")
    if bad:
        raise SystemExit(1)


def _prepare(command_line: list[str]) -> None:
    from cvvae_jax.data.prepare.options import PrepareOptions
    from cvvae_jax.data.prepare.run import prepare

    arguments = parse(PrepareOptions, command_line, prog=program("data prepare"))
    done = prepare(arguments, track)
    if done.was_complete:
        print(f"{arguments.target} is already complete; its source was not read.")
    print(
        f"{arguments.target}: {done.records} records with {done.frames} frames in {done.shards} "
        f"shards of {done.megabytes:.1f} MiB together; {done.left_out} files are left out, which "
        "bad.tsv lists."
    )
    print(f"Train with --data.videos {arguments.target} or --data.images {arguments.target}")


def _show(command_line: list[str]) -> None:
    from cvvae_jax.data.preview import preview
    from cvvae_jax.recipe import parse_train_config

    usage = _SHOW_USAGE.format(program=program("data show"))
    match command_line:
        case [("-h" | "--help"), *_]:
            print(usage)
            return
        case [output, *recipe] if not output.startswith("-"):
            overwrite = "--overwrite" in recipe
            require_vacant(Path(output), overwrite=overwrite)
            recipe = [each for each in recipe if each != "--overwrite"]
            config = parse_train_config(recipe, prog=program(f"data show {output}"))
        case _:
            raise UserError(usage)
    picture = preview(config.train, config.data, seed=config.seed, clips=4)
    try:
        with written_aside(Path(output)) as aside:
            picture.save(aside)
    except (OSError, ValueError) as error:
        raise UserError(f"{output} cannot be written: {error}.") from error
    print(f"{output}: the first clips of every bucket, {picture.width} x {picture.height} pixels")
