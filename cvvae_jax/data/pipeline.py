"""Batches to train on, as a function of the step alone, and the unseen clips to evaluate on.

Record r of a bucket is the same whatever the number of processes, of workers, and of restarts: its
generator is Grain's for (seed, r). Batch k of a bucket has the `batch` records from k * batch on,
and each process every n-th of them. So there is no iterator to save: resuming is slicing.

Two networks that are trained in turns need `pairs`: with a bucket drawn per step, weights of 1 : 1
would give one network all batches of one bucket, and the other network those of the other.
"""

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from pathlib import Path

import grain
import numpy as np
from absl import flags

from cvvae_jax.config import Bucket, ConfigError, DataConfig, StageConfig
from cvvae_jax.data.clips import RandomClip, Record, center_clip, draw_seed, first_readable
from cvvae_jax.data.photographs import MovingPhotographs
from cvvae_jax.data.sources import ImageFolder, VideoFolder

# Moving photographs before they repeat.
_PHOTOGRAPHS = 2**20


def batches(
    stage: StageConfig,
    data: DataConfig,
    *,
    seed: int,
    start_step: int,
    pairs: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """This process's part of the batches of steps start_step, start_step + 1, .., without end.

    Args:
        stage: its buckets are mixed by weight; all processes get the same bucket at a step.
        data: where clips come from, and how they are cut.
        seed: of the order of files and of all that is random about a clip.
        start_step: position in the stream; what follows it does not depend on where one starts.
        pairs: draw a bucket for every two steps: 2k and 2k + 1 get two batches of the same one.
        process_index: number of this process.
        process_count: number of processes, each of which gets its share of every batch.

    Yields:
        {"video": uint8 (batch, frames, size, size, 3), "seed": uint32 (batch,)}, where batch is the
        bucket's over process_count. A seed is its record's own, to key what is random about it.
        The iterator's `close()` ends its threads and workers.

    Raises:
        ConfigError: a bucket cannot be divided over the processes, or filled from the files.
    """
    # Grain's seeds are 31 bits.
    seeds = np.random.SeedSequence(seed).generate_state(len(stage.buckets)) >> 1
    parts = [
        _records(bucket, data, seed=int(bucket_seed))[process_index::process_count].batch(
            _local_batch(bucket, process_count), drop_remainder=True
        )
        for bucket, bucket_seed in zip(stage.buckets, seeds, strict=True)
    ]
    mixed = _mix(parts, [bucket.weight for bucket in stage.buckets], pairs=pairs)
    options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=2 * data.threads)
    stream = mixed[start_step:].to_iter_dataset(options)
    if data.workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers read absl's flags, which nobody here sets
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=data.workers)
        return _from_workers(stream.mp_prefetch(options, worker_init_fn=_live_with_parent))
    return iter(stream)


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
        first = next(iterator)  # starts them all
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield first
        yield from iterator
    finally:
        iterator.close()


def _live_with_parent(worker_index: int, worker_count: int) -> None:
    """Lets a worker end with the main process, however that ends: its signals are blocked."""
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def eval_clips(stage: StageConfig, data: DataConfig) -> np.ndarray:
    """The unseen clips of a stage's evaluation: `data.eval_clips` of its longest bucket's shape.

    Clips are spread over the unseen files (`data.eval_videos`, or every tenth file) and over their
    length: the middle of the frame, at most 2 source frames from one to the next. They are the same
    for every run, whatever its seed.

    Returns:
        uint8 array (clips, frames, size, size, 3).

    Raises:
        ConfigError: there is no unseen file, or it cannot be decoded.
    """
    bucket = max(stage.buckets, key=lambda bucket: (bucket.frames, bucket.size))
    if data.videos is None and data.images is None and data.eval_videos is None:
        source = MovingPhotographs(
            split="eval", frames=bucket.frames, size=bucket.size, length=data.eval_clips, seed=0
        )
        return np.stack([source[i] for i in range(len(source))])
    files = _eval_files(bucket, data)
    return np.stack([_eval_clip(files, i, bucket, data) for i in range(data.eval_clips)])


def _mix(parts: list[grain.MapDataset], weights: list[float], *, pairs: bool) -> grain.MapDataset:
    """Batches of several buckets as one dataset."""
    if not pairs:
        return grain.MapDataset.mix(parts, weights)
    # Both mixes follow the same pattern of buckets, and a mix of two alike takes turns strictly.
    turns = [grain.MapDataset.mix([part[turn::2] for part in parts], weights) for turn in (0, 1)]
    return grain.MapDataset.mix(turns)


def _records(bucket: Bucket, data: DataConfig, *, seed: int) -> grain.MapDataset:
    """An endless dataset of one bucket's records."""
    if data.videos is None and data.images is None:
        source = MovingPhotographs(
            split="train", frames=bucket.frames, size=bucket.size, length=_PHOTOGRAPHS, seed=seed
        )
        transform = _WithSeed()
    else:
        source = _train_files(bucket, data)
        transform = RandomClip(
            source,
            frames=bucket.frames,
            size=bucket.size,
            max_stride=data.max_stride,
            short_side=data.short_side,
        )
    dataset = grain.MapDataset.source(source).seed(seed)
    return dataset.shuffle().repeat().random_map(transform)


class _WithSeed(grain.transforms.RandomMap):
    """Grain's transform from a clip to a record of it."""

    def random_map(self, element: np.ndarray, rng: np.random.Generator) -> Record:
        return {"video": element, "seed": draw_seed(rng)}


def _train_files(bucket: Bucket, data: DataConfig) -> Sequence[Path]:
    split = "all" if data.eval_videos is not None else "train"
    if bucket.kind == "image" and data.images is not None:
        return ImageFolder(data.images, split=split)
    if data.videos is None:
        raise _no_videos(bucket)
    return VideoFolder(data.videos, split=split)


def _eval_files(bucket: Bucket, data: DataConfig) -> Sequence[Path]:
    if data.eval_videos is not None:
        return VideoFolder(data.eval_videos, split="all")
    if bucket.kind == "image" and data.images is not None:
        return ImageFolder(data.images, split="eval")
    if data.videos is None:
        raise _no_videos(bucket)
    return VideoFolder(data.videos, split="eval")


def _no_videos(bucket: Bucket) -> ConfigError:
    return ConfigError(
        f"A bucket of {bucket.frames} frames cannot be filled from images: "
        "name a folder of videos with --data.videos, or leave --data.images out as well."
    )


def _eval_clip(files: Sequence[Path], index: int, bucket: Bucket, data: DataConfig) -> np.ndarray:
    """Clip `index` of the evaluation; unreadable files are replaced by those after them."""
    used = min(len(files), data.eval_clips)
    file, turn = index % used, index // used
    turns = (data.eval_clips - 1 - file) // used + 1
    first = file * len(files) // used
    candidates = (files[(first + offset) % len(files)] for offset in itertools.count())
    return first_readable(
        candidates,
        lambda path: center_clip(
            path,
            frames=bucket.frames,
            size=bucket.size,
            stride=min(2, data.max_stride),
            position=(turn + 0.5) / turns,
        ),
    )


def _local_batch(bucket: Bucket, process_count: int) -> int:
    batch, remainder = divmod(bucket.batch, process_count)
    if remainder:
        nearest = sorted({batch * process_count, (batch + 1) * process_count} - {0})
        raise ConfigError(
            f"A batch of {bucket.batch} cannot be divided over {process_count} processes: "
            f"the nearest that can are {' and '.join(map(str, nearest))}."
        )
    return batch
