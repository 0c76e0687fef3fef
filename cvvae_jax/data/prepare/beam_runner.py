"""Runs the jobs as an Apache Beam pipeline, on Dataflow, Flink, Spark or this machine."""

import dataclasses
import itertools
import pickle
import shlex
from collections.abc import Iterator, Sequence

from cvvae_jax.data.prepare.local_runner import Job
from cvvae_jax.errors import UserError
from cvvae_jax.resumable.target import WORK, Target

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
    raise UserError("--runner needs apache-beam: pip install apache-beam.") from error

_JOBS = f"{WORK}/jobs"


@dataclasses.dataclass(frozen=True)
class BeamRunner:
    """Runs jobs as elements of a Beam pipeline.

    The workers need this package, and access to the source and the target.
    """

    runner: str
    """Name of the Beam runner."""
    options: str
    """More options of the pipeline, in one string, as on a command line."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """Run jobs, and yield them when all are done.

        Raises:
            UserError: there is no such runner, or a job failed.
        """
        if not jobs:
            return
        ranges = _stage(jobs)
        try:
            options = PipelineOptions([f"--runner={self.runner}", *shlex.split(self.options)])
            with beam.Pipeline(options=options) as pipeline:
                # Without the shuffle, a runner would run all jobs one after the other.
                elements = pipeline | beam.Create(ranges) | beam.Reshuffle()
                elements | beam.Map(_run_job, jobs[0].target)
        except Exception as error:  # each runner wraps errors into its own
            raise UserError(f"{self.runner} failed: {_last_line(error)}") from error
        yield from jobs


def _stage(jobs: Sequence[Job]) -> list[tuple[int, int]]:
    """Write all jobs to a file of the target.

    Jobs name every file of the source: too much for the description of a pipeline, which Dataflow
    limits to some megabytes.

    Returns:
        The first byte of each job in the file, and the byte behind its last one.
    """
    pickled = [pickle.dumps(job) for job in jobs]
    target = jobs[0].target
    with target.scratch() as folder:
        (folder / "jobs").write_bytes(b"".join(pickled))
        target.put(folder / "jobs", _JOBS)
    return list(itertools.pairwise(itertools.accumulate(map(len, pickled), initial=0)))


def _run_job(where: tuple[int, int], target: Target) -> None:
    pickle.loads(target.read(_JOBS, *where)).run()


def _last_line(error: Exception) -> str:
    """The original error's line in the message of a wrapped error, or the message's last line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    own = [line for line in lines if "UserError" in line]
    return (own or lines or [type(error).__name__])[-1].strip()
