"""The command-line options of `data prepare`."""

import dataclasses
import re
from typing import Annotated

import tyro

from cvvae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """How media are transcoded and packed. The source and these settings determine every byte."""

    short_side: int = 288
    """Pixels of the short side; smaller media are not enlarged."""
    max_fps: float = 30.0
    """Frames per second, at most; frames beyond that are dropped."""
    gop: int = 16
    """Frames from one keyframe to the next, at most; decoding of a clip begins at a keyframe."""
    crf: int = 18
    """x264's quality: 0 is lossless, 51 the worst."""
    max_seconds: float = 60.0
    """Length of a record, at most; longer videos become several of equal length."""
    shard_mb: float = 256.0
    """MiB of original files that go into a shard, at most; a small source is cut finer, into some
    32 shards, which are made side by side."""

    def __post_init__(self):
        _within("short-side", self.short_side, 16, 8192)
        _within("max-fps", self.max_fps, 1, 1000)
        _within("gop", self.gop, 1, 1000)
        _within("crf", self.crf, 0, 51)
        _within("max-seconds", self.max_seconds, 1, 3600)
        _within("shard-mb", self.shard_mb, 0.001, 2**20)


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """Transcode videos and images and pack them into ArrayRecord shards for fast random access.

    Small frames and short GOPs are decoded many times faster. The shards are a TFDS data set, too.
    A command that was interrupted goes on where it was when it is given again.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """Folder, pattern, list, shards, tar files or tfds:NAME, with videos, images or both."""
    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TARGET")]
    """Folder for the shards: new, empty, or begun by the same command; a local path or an address
    that fsspec knows. TFDS finds DATA_DIR/NAME/1.0.0 by name."""
    config: tyro.conf.OmitArgPrefixes[PrepareConfig] = dataclasses.field(
        default_factory=PrepareConfig
    )
    exclude: str | None = None
    """A file of names to leave out, as `data check` writes it."""
    workers: int | None = None
    """Processes; unset: one a core."""
    runner: str | None = None
    """Run as an Apache Beam pipeline: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner (needs
    apache-beam). The result is the same."""
    beam_options: str = ""
    """More options of the pipeline, in one string: "--project=.. --region=.."."""

    def __post_init__(self):
        if self.workers is not None:
            _within("workers", self.workers, 1, 4096)
        if self.runner is not None and not re.fullmatch(r"[A-Za-z_.]+", self.runner):
            raise UserError(f"--runner must be the name of a Beam runner, not {self.runner!r}.")
        if self.beam_options and self.runner is None:
            raise UserError("--beam-options are for a Beam pipeline: give --runner as well.")
        if self.workers is not None and self.runner is not None:
            raise UserError("--workers has no effect with --runner; leave one of them out.")


def _within(name: str, value: int | float, least: int | float, most: int | float) -> None:
    if not least <= value <= most:
        raise UserError(f"--{name} must be from {least:g} to {most:g}, not {value:g}.")
