"""Batches to train on, as a function of the step alone, and the unseen clips to evaluate on.

Record r of a bucket is the same whatever the number of processes, of workers, and of restarts: its
generator is Grain's for (seed, r). Batch k of a bucket has the `batch` records from k * batch on,
and each process every n-th of them. So there is no iterator to save: resuming is slicing.

Two networks that are trained in turns need `pairs`: with a bucket drawn per step, weights of 1 : 1
would give one network all batches of one bucket, and the other network those of the other.
"""

import contextlib
import logging
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Literal

import grain
import numpy as np
from absl import flags

from cvvae_jax.config import Bucket, DataConfig, StageConfig
from cvvae_jax.data.photographs import MovingPhotographs
from cvvae_jax.data.records import (
    BadRecords,
    RandomRecord,
    Record,
    center_clip,
    draw_seed,
    first_readable,
)
from cvvae_jax.data.sources import HeldOutByKind, Source, open_source
from cvvae_jax.errors import UserError
from cvvae_jax.video_io.media_types import MediaKind

# Moving photographs before they repeat.
_PHOTOGRAPHS = 2**20

_log = logging.getLogger(__name__)


def batches(
    stage: StageConfig,
    data: DataConfig,
    *,
    seed: int,
    start_step: int,
    pairs: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    known: HeldOutByKind | None = None,
) -> "Batches":
    """This process's part of the batches of steps start_step, start_step + 1, .., without end.

    Args:
        stage: its buckets are mixed by weight; all processes get the same bucket at a step.
        data: where clips come from, and how they are cut.
        seed: of the order of files and of all that is random about a clip.
        start_step: position in the stream; what follows it does not depend on where one starts.
        pairs: draw a bucket for every two steps: 2k and 2k + 1 get two batches of the same one.
        process_index: number of this process.
        process_count: number of processes, each of which gets its share of every batch.
        known: by kind, which files are held out already and which are not.

    Returns:
        An iterator of {"video": uint8 (batch, frames, height, width, 3), "seed": uint32 (batch,)},
        where batch is the bucket's over process_count. A seed is its record's own, to key what is
        random about it.

    Raises:
        UserError: a bucket cannot be divided over the processes, or filled from the files.
    """
    parts = [
        records[process_index::process_count].batch(
            _local_batch(bucket, process_count), drop_remainder=True
        )
        for bucket, records in zip(
            stage.buckets, bucket_records(stage, data, seed, known), strict=True
        )
    ]
    mixed = _mix(parts, [bucket.weight for bucket in stage.buckets], pairs=pairs)
    options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=2 * data.threads)
    stream = mixed[start_step:].to_iter_dataset(options)
    if not data.workers:
        return Batches(iter(stream), data.max_bad)
    if not flags.FLAGS.is_parsed():  # Grain's workers read absl's flags, which nobody here sets
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=data.workers)
    stream = stream.mp_prefetch(options, worker_init_fn=_live_with_parent)
    return Batches(_from_workers(stream), data.max_bad)


class Batches:
    """An endless iterator of batches, which knows how many of their records were bad."""

    def __init__(self, stream: Iterator[dict[str, np.ndarray]], max_bad: float):
        self._stream, self._bad = stream, BadRecords(max_bad)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """The batch of the next step.

        Raises:
            UserError: too many records cannot be decoded.
            ChildProcessError: a worker process has died.
        """
        return self._bad.take(next(self._stream))

    def metrics(self) -> dict[str, float]:
        """How many records of this process were replaced, and how many files were bad, so far."""
        return self._bad.metrics()

    def close(self) -> None:
        """End its threads and workers."""
        self._stream.close()


def _from_workers(stream: grain.IterDataset) -> Iterator[dict[str, np.ndarray]]:
    """Elements made by workers that SIGINT and SIGTERM do not reach.

    Ctrl-C, `timeout` and cluster schedulers signal all processes of a run at once, but the main
    process finishes its step first, for which it needs the workers. They inherit what is blocked
    here, so that not even a signal while they start ends them.
    """
    resource_tracker.ensure_running()  # which unblocks signals where it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        iterator = iter(stream)
        with _deaths_told():
            first = next(iterator)  # starts them all
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        with _deaths_told():
            yield first
            yield from iterator
    finally:
        iterator.close()


@contextlib.contextmanager
def _deaths_told() -> Iterator[None]:
    """Says in a sentence what Grain raises when a worker has died."""
    try:
        yield
    except RuntimeError as error:
        died = re.search(r"Worker process .*exit code (-?\d+)", str(error))
        if died is None:
            raise
        code = int(died[1])
        how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with code {code}"
        raise ChildProcessError(
            f"a worker process that reads the data {how}. Where memory is short, the system ends "
            "processes by SIGKILL: lower data.workers. The same command goes on from the newest "
            "checkpoint, if there is one."
        ) from error


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # such as one of the real-time signals
        return f"signal {number}"


def _live_with_parent(worker_index: int, worker_count: int) -> None:
    """Lets a worker end with the main process, however that ends: its signals are blocked."""
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def eval_clips(
    stage: StageConfig, data: DataConfig, known: HeldOutByKind | None = None
) -> np.ndarray:
    """The unseen clips of a stage's evaluation: `data.eval_clips` of its longest bucket's shape.

    Clips are spread over the unseen videos (`data.eval_videos`, or those held out) and over their
    length. They are the same for every run, whatever its seed.

    Args:
        stage: its longest bucket gives their shape.
        data: where they come from.
        known: by kind, which files are held out already and which are not.

    Returns:
        uint8 array (clips, frames, height, width, 3).

    Raises:
        UserError: there is nothing unseen, or it cannot be decoded.
    """
    bucket = max(stage.buckets, key=lambda b: (b.frames, b.height * b.width))
    if data.videos is None and data.images is None and data.eval_videos is None:
        source = _photographs(bucket, split="eval", length=data.eval_clips, seed=0)
        return np.stack([_middle(source[i], bucket) for i in range(len(source))])
    source = _eval_source(bucket, data, known or {})
    return np.stack([_eval_clip(source, i, bucket, data) for i in range(data.eval_clips)])


def _mix(parts: list[grain.MapDataset], weights: list[float], *, pairs: bool) -> grain.MapDataset:
    """Batches of several buckets as one dataset."""
    if not pairs:
        return grain.MapDataset.mix(parts, weights)
    # Both mixes follow the same pattern of buckets, and a mix of two alike takes turns strictly.
    turns = [grain.MapDataset.mix([part[turn::2] for part in parts], weights) for turn in (0, 1)]
    return grain.MapDataset.mix(turns)


def bucket_records(
    stage: StageConfig, data: DataConfig, seed: int, known: HeldOutByKind | None = None
) -> list[grain.MapDataset]:
    """For each bucket of a stage an endless dataset of its records, before they are batched.

    Raises:
        UserError: a bucket cannot be filled from the files.
    """
    # Grain's seeds are 31 bits.
    seeds = np.random.SeedSequence(seed).generate_state(len(stage.buckets)) >> 1
    return [
        _records(bucket, data, known or {}, seed=int(bucket_seed))
        for bucket, bucket_seed in zip(stage.buckets, seeds, strict=True)
    ]


def _records(
    bucket: Bucket, data: DataConfig, known: HeldOutByKind, *, seed: int
) -> grain.MapDataset:
    """An endless dataset of one bucket's records."""
    if data.videos is None and data.images is None:
        dataset = grain.MapDataset.source(
            _photographs(bucket, split="train", length=_PHOTOGRAPHS, seed=seed)
        )
        transform = _PhotographRecord(bucket)
    else:
        source = _train_source(bucket, data, known)
        dataset = grain.MapDataset.range(len(source))
        transform = RandomRecord(source, bucket=bucket, data=data)
    return dataset.seed(seed).shuffle().repeat().random_map(transform)


def _photographs(
    bucket: Bucket, *, split: Literal["train", "eval"], length: int, seed: int
) -> MovingPhotographs:
    """Square clips that hold the bucket's."""
    size = max(bucket.height, bucket.width)
    return MovingPhotographs(split=split, frames=bucket.frames, size=size, length=length, seed=seed)


def _middle(clip: np.ndarray, bucket: Bucket) -> np.ndarray:
    top, left = np.subtract(clip.shape[1:3], (bucket.height, bucket.width)) // 2
    return clip[:, top : top + bucket.height, left : left + bucket.width]


class _PhotographRecord(grain.transforms.RandomMap):
    """Grain's transform from moving photographs to a record."""

    def __init__(self, bucket: Bucket):
        self._bucket = bucket

    def random_map(self, element: np.ndarray, rng: np.random.Generator) -> Record:
        clip = np.ascontiguousarray(_middle(element, self._bucket))
        return {"video": clip, "seed": draw_seed(rng), "bad": np.str_("")}


def _train_source(bucket: Bucket, data: DataConfig, known: HeldOutByKind) -> Source:
    split = "all" if data.eval_videos is not None else "train"
    place, kind = _place(bucket, data)
    return open_source(place, kind, split=split, exclude=data.exclude, known=known.get(kind))


def _eval_source(bucket: Bucket, data: DataConfig, known: HeldOutByKind) -> Source:
    if data.eval_videos is not None:
        return open_source(data.eval_videos, "video", exclude=data.exclude)
    place, kind = _place(bucket, data)
    return open_source(place, kind, split="eval", exclude=data.exclude, known=known.get(kind))


def _place(bucket: Bucket, data: DataConfig) -> tuple[str, MediaKind]:
    """Where a bucket's media are, and of which kind they are."""
    if bucket.kind == "image" and data.images is not None:
        return data.images, "image"
    if data.videos is None:
        raise UserError(
            f"A bucket of {bucket.frames} frames cannot be filled from images: "
            "name a place of videos with --data.videos, or leave --data.images out as well."
        )
    return data.videos, "video"


def _eval_clip(source: Source, index: int, bucket: Bucket, data: DataConfig) -> np.ndarray:
    """Clip `index` of the evaluation; unreadable videos are replaced by others."""
    used = min(len(source), data.eval_clips)
    number, turn = index % used, index // used
    turns = (data.eval_clips - 1 - number) // used + 1
    first = number * len(source) // used
    clip, bad = first_readable(
        source,
        first,
        lambda media: center_clip(media, bucket, data, position=(turn + 0.5) / turns),
    )
    for name, reason in bad:
        _log.warning("A clip to measure on is replaced by another one: %s: %s", name, reason)
    return clip


def _local_batch(bucket: Bucket, process_count: int) -> int:
    batch, remainder = divmod(bucket.batch, process_count)
    if remainder:
        nearest = sorted({batch * process_count, (batch + 1) * process_count} - {0})
        raise UserError(
            f"A batch of {bucket.batch} cannot be divided over {process_count} processes: "
            f"the nearest that can are {' and '.join(map(str, nearest))}."
        )
    return batch
