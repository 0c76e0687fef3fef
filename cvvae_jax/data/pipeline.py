"""Batches to train on, as a function of the step alone, and the unseen clips to evaluate on.

The way of a clip, from its file to a batch:
1. `sources.open_source` finds a place's media: in files, ArrayRecord or tar shards, or TFDS.
2. This module shuffles their numbers with Grain, mixes the buckets, and slices by step and process.
3. `records.RandomRecord` takes the medium of a number; a bad medium is replaced by another one.
4. `records.random_clip` draws which frames, by `video_io.frame_index`, and which crop and flips.
5. `video_io.video.read_clip` decodes these frames, by `video_io.decoding`, as resized uint8 RGB.
6. Workers batch records; `Batches` counts the bad ones and hands out {"video", "seed"}.

Record r of a bucket doesn't depend on the number of processes, workers or restarts: its random
generator is Grain's for (seed, r). Batch k of a bucket consists of the `batch` records from
k * batch on, and process p of n takes records p, p + n, ... of it. So there is no iterator to save:
a run resumes by slicing.

Two networks that are trained in turns need `pairs`: if a bucket were drawn for every step, weights
of 1 : 1 would give one network all batches of one bucket, and the other network all of the other.
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
from cvvae_jax.data.colors import recolored
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

# Number of moving photographs before they repeat.
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
    """This process's part of the batches from step `start_step` on, without end.

    Args:
        stage: the stage, whose buckets are mixed by weight. All processes get the same bucket at
            a step.
        data: where clips come from, and how they are cut.
        seed: seed of the order of files and of everything random about a clip.
        start_step: first step of the stream. The batch of a step doesn't depend on it.
        pairs: whether a bucket is drawn for every two steps: steps 2k and 2k + 1 get two batches
            of the same bucket.
        process_index: number of this process.
        process_count: number of processes, which share every batch evenly.
        known: by kind, whether each file that the run has seen before is held out.

    Returns:
        An iterator of {"video": uint8 (batch, frames, height, width, 3), "seed": uint32 (batch,)},
        where batch is the bucket's batch over process_count. Each record has a seed of its own,
        for random keys in the training step.

    Raises:
        UserError: a batch cannot be divided evenly among the processes, or there are no files
            for a bucket.
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
    """An endless iterator of batches, which counts bad records."""

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
        """Counts so far: records of this process that were replaced, and bad files."""
        return self._bad.metrics()

    def close(self) -> None:
        """End the threads and workers that make the batches."""
        self._stream.close()


def _from_workers(stream: grain.IterDataset) -> Iterator[dict[str, np.ndarray]]:
    """Batches from worker processes in which SIGINT and SIGTERM are blocked.

    Ctrl-C, `timeout` and cluster schedulers signal all processes of a run at once, but the main
    process finishes its step first, for which it needs the workers. Workers inherit the blocked
    signals, so that a signal doesn't end them even while they start.
    """
    resource_tracker.ensure_running()  # its start, here or later, unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        iterator = iter(stream)
        with _deaths_told():
            first = next(iterator)  # starts all workers
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
    """Makes a worker end with the main process, however that ends: the worker's signals are
    blocked."""
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def eval_clips(
    stage: StageConfig, data: DataConfig, known: HeldOutByKind | None = None
) -> np.ndarray:
    """The `data.eval_clips` unseen clips of a stage's evaluation.

    The clips are spread evenly over the unseen videos (`data.eval_videos`, or the held-out ones)
    and over the length of each video. They don't depend on the run's seed.

    Args:
        stage: the stage, whose longest bucket gives the shape of the clips.
        data: where the clips come from.
        known: by kind, whether each file that the run has seen before is held out.

    Returns:
        uint8 array (clips, frames, height, width, 3).

    Raises:
        UserError: there is no unseen video, or none can be decoded.
    """
    bucket = max(stage.buckets, key=lambda b: (b.frames, b.height * b.width))
    if data.videos is None and data.images is None and data.eval_videos is None:
        source = _photographs(bucket, data, split="eval", length=data.eval_clips, seed=0)
        return np.stack([_middle(source[i], bucket) for i in range(len(source))])
    source = _eval_source(bucket, data, known or {})
    return np.stack([_eval_clip(source, i, bucket, data) for i in range(data.eval_clips)])


def _mix(parts: list[grain.MapDataset], weights: list[float], *, pairs: bool) -> grain.MapDataset:
    """Batches of several buckets as one dataset."""
    if not pairs:
        return grain.MapDataset.mix(parts, weights)
    # Both mixes have the same sequence of buckets, and a mix of two equal weights alternates.
    turns = [grain.MapDataset.mix([part[turn::2] for part in parts], weights) for turn in (0, 1)]
    return grain.MapDataset.mix(turns)


def bucket_records(
    stage: StageConfig, data: DataConfig, seed: int, known: HeldOutByKind | None = None
) -> list[grain.MapDataset]:
    """An endless dataset of unbatched records for each bucket of a stage.

    Raises:
        UserError: there are no files for a bucket.
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
            _photographs(bucket, data, split="train", length=_PHOTOGRAPHS, seed=seed)
        )
        transform = _PhotographRecord(bucket, data)
    else:
        source = _train_source(bucket, data, known)
        dataset = grain.MapDataset.range(len(source))
        transform = RandomRecord(source, bucket=bucket, data=data)
    return dataset.seed(seed).shuffle().repeat().random_map(transform)


def _photographs(
    bucket: Bucket, data: DataConfig, *, split: Literal["train", "eval"], length: int, seed: int
) -> MovingPhotographs:
    """Square clips that are large enough for the bucket."""
    return MovingPhotographs(
        split=split,
        frames=bucket.frames,
        size=max(bucket.height, bucket.width),
        length=length,
        seed=seed,
        photos=data.photos,
    )


def _middle(clip: np.ndarray, bucket: Bucket) -> np.ndarray:
    """The center crop of the bucket's height and width."""
    top, left = np.subtract(clip.shape[1:3], (bucket.height, bucket.width)) // 2
    return clip[:, top : top + bucket.height, left : left + bucket.width]


class _PhotographRecord(grain.transforms.RandomMap):
    """Grain's transform from moving photographs to a record."""

    def __init__(self, bucket: Bucket, data: DataConfig):
        self._bucket, self._data = bucket, data

    def random_map(self, element: np.ndarray, rng: np.random.Generator) -> Record:
        seed = draw_seed(rng)
        clip = np.ascontiguousarray(_middle(element, self._bucket))
        clip = recolored(clip, rng) if self._data.recolor else clip
        return {"video": clip, "seed": seed, "bad": np.str_("")}


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
    """The place and the kind of a bucket's media."""
    if bucket.kind == "image" and data.images is not None:
        return data.images, "image"
    if data.videos is None:
        raise UserError(
            f"A bucket of {bucket.frames} frames cannot be filled from images: "
            "name a place of videos with --data.videos, or leave --data.images out as well."
        )
    return data.videos, "video"


def _eval_clip(source: Source, index: int, bucket: Bucket, data: DataConfig) -> np.ndarray:
    """Clip `index` of the evaluation; a video that can't be decoded is replaced by another one."""
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
