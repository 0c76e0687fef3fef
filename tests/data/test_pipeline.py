"""Batches: one stream, whatever the start, the processes and the workers."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from cvvae_jax.config import Bucket, DataConfig, StageConfig
from cvvae_jax.data.pipeline import batches, eval_clips
from cvvae_jax.errors import UserError
from cvvae_jax.video_io.images import write_image
from cvvae_jax.video_io.video_writer import VideoWriter

MIXED = StageConfig(
    steps=1,
    buckets=(Bucket(frames=3, size=16, batch=4, weight=0.75), Bucket(1, 24, 8, weight=0.25)),
)
VIDEOS = StageConfig(steps=1, buckets=(Bucket(frames=3, size=16, batch=4),))
IMAGES = StageConfig(steps=1, buckets=(Bucket(frames=1, size=16, batch=4),))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Five videos, the third one broken, and four images; file i is of one color, 20 * (i + 1)."""
    root = tmp_path_factory.mktemp("media")
    for kind in ("videos", "images"):
        (root / kind).mkdir()
    for i in range(5):
        frame = np.full((20, 32, 3), 20 * (i + 1), np.uint8)
        with VideoWriter(root / "videos" / f"{i}.mp4", fps=25, height=20, width=32) as writer:
            for k in range(8):
                writer.write(frame + np.uint8(k))
        write_image(root / "images" / f"{i}.png", frame + np.uint8(120))
    (root / "videos" / "2.mp4").write_bytes(b"broken")
    return {kind: str(root / kind) for kind in ("videos", "images")}


def take(count, stage, data, *, start_step=0, seed=0, **kwargs):
    stream = batches(stage, data, seed=seed, start_step=start_step, **kwargs)
    return list(itertools.islice(stream, count))


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys() == {"video", "seed"}
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("files", [False, True])
def test_stream_resumes_at_any_step(folders, files, pairs):
    data = DataConfig(**folders) if files else DataConfig()
    whole = take(8, MIXED, data, pairs=pairs)
    for start in (1, 4, 5):
        rest = take(8 - start, MIXED, data, start_step=start, pairs=pairs)
        assert_same(rest, whole[start:])


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("files", [False, True])
def test_processes_share_each_global_batch(folders, files, pairs):
    data = DataConfig(**folders) if files else DataConfig()
    alone = take(5, MIXED, data, pairs=pairs)
    parts = [take(5, MIXED, data, pairs=pairs, process_index=p, process_count=2) for p in range(2)]
    for whole, *shares in zip(alone, *parts, strict=True):
        assert {len(share["seed"]) for share in shares} == {len(whole["seed"]) // 2}
        # The records are the same ones; process p has every second of them, from the p-th on.
        joined = {name: np.stack([s[name] for s in shares], axis=1) for name in whole}
        for name, value in whole.items():
            np.testing.assert_array_equal(joined[name].reshape(value.shape), value)


@pytest.mark.slow
def test_workers_do_not_change_the_stream(folders):
    for workers in (1, 2):
        with_workers = take(4, MIXED, DataConfig(**folders, workers=workers), start_step=3)
        assert_same(with_workers, take(4, MIXED, DataConfig(**folders), start_step=3))
    with_workers = take(6, MIXED, DataConfig(**folders, workers=2), start_step=3, pairs=True)
    assert_same(with_workers, take(6, MIXED, DataConfig(**folders), start_step=3, pairs=True))


def test_threads_do_not_change_the_stream(folders):
    assert_same(
        take(4, MIXED, DataConfig(**folders, threads=1)),
        take(4, MIXED, DataConfig(**folders, threads=4)),
    )


def test_shapes_types_and_weights_are_those_of_the_buckets():
    shapes = [b["video"].shape for b in take(8, MIXED, DataConfig())]
    assert shapes.count((4, 3, 16, 16, 3)) == 6 and shapes.count((8, 1, 24, 24, 3)) == 2
    first = take(1, MIXED, DataConfig())[0]
    assert first["video"].dtype == np.uint8
    assert first["seed"].dtype == np.uint32 and first["seed"].shape == (4,)


WEIGHTS = [(1.0,), (1.0, 1.0), (0.75, 0.25), (1.0, 3.0, 0.1), (0.3, 1 / 3, 7.0, 2.5)]


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_both_steps_of_a_pair_have_the_same_bucket_in_the_same_shares(weights):
    buckets = tuple(Bucket(1, 1, i + 1, weight=weight) for i, weight in enumerate(weights))
    stage = StageConfig(steps=1, buckets=buckets)
    single = [len(batch["seed"]) for batch in take(60, stage, DataConfig())]
    paired = [len(batch["seed"]) for batch in take(120, stage, DataConfig(), pairs=True)]
    assert paired[0::2] == paired[1::2] == single
    for i, weight in enumerate(weights):
        assert single.count(i + 1) == pytest.approx(60 * weight / sum(weights), abs=1)


def test_pairs_keep_every_record_of_a_bucket_in_its_order():
    """So a record is seen once an epoch, and the two batches of a pair share none."""
    single, paired = (take(16, MIXED, DataConfig(), pairs=pairs) for pairs in (False, True))
    for shape in {batch["video"].shape for batch in single}:
        seeds = [
            np.concatenate([b["seed"] for b in stream if b["video"].shape == shape])
            for stream in (single, paired)
        ]
        count = min(map(len, seeds))
        assert count >= 16 and len(np.unique(seeds[1])) == len(seeds[1])
        np.testing.assert_array_equal(seeds[0][:count], seeds[1][:count])


def test_seed_changes_the_stream_and_records_differ():
    stream = take(6, VIDEOS, DataConfig())
    seeds = np.concatenate([b["seed"] for b in stream])
    assert len(np.unique(seeds)) == len(seeds)
    other = take(1, VIDEOS, DataConfig(), seed=1)[0]
    assert not np.array_equal(stream[0]["video"], other["video"])


def files_shown(clips):
    """Numbers of the files of `folders` that clips (n, t, h, w, 3) show."""
    return {int(level) // 20 - 1 for level in clips[:, 0].mean(axis=(1, 2, 3)) + 2}


def test_held_out_files_are_never_trained_on(folders):
    data = DataConfig(videos=folders["videos"], eval_clips=3)
    trained = files_shown(np.concatenate([b["video"] for b in take(8, VIDEOS, data)]))
    assert trained == {1, 3, 4}  # 0 is held out, 2 is broken
    assert files_shown(eval_clips(VIDEOS, data)) == {0}


def test_own_evaluation_videos_leave_all_files_to_training(folders):
    data = DataConfig(videos=folders["videos"], eval_videos=folders["videos"], eval_clips=4)
    trained = files_shown(np.concatenate([b["video"] for b in take(10, VIDEOS, data)]))
    assert trained == {0, 1, 3, 4}
    assert files_shown(eval_clips(VIDEOS, data)) == {0, 1, 3}


def test_images_fill_image_buckets(folders):
    levels = take(1, IMAGES, DataConfig(**folders))[0]["video"].mean(axis=(1, 2, 3, 4))
    assert (levels > 135).all()
    levels = take(1, IMAGES, DataConfig(videos=folders["videos"]))[0]["video"].mean()
    assert levels < 110


def test_images_alone_cannot_fill_video_buckets(folders):
    data = DataConfig(images=folders["images"])
    for use in (lambda: take(1, MIXED, data), lambda: eval_clips(MIXED, data)):
        with pytest.raises(UserError, match=r"3 frames .*--data\.videos"):
            use()
    assert take(1, IMAGES, data)[0]["video"].shape == (4, 1, 16, 16, 3)


def test_indivisible_batch_names_the_nearest():
    with pytest.raises(UserError, match=r"batch of 4 .* 3 processes.* 3 and 6"):
        take(1, VIDEOS, DataConfig(), process_count=3)


@pytest.mark.parametrize(
    ("stage", "shape"), [(MIXED, (5, 3, 16, 16, 3)), (IMAGES, (5, 1, 16, 16, 3))]
)
def test_unseen_clips_have_the_longest_shape_and_stay_the_same(folders, stage, shape):
    for data in (DataConfig(eval_clips=5), DataConfig(**folders, eval_clips=5)):
        clips = eval_clips(stage, data)
        assert clips.shape == shape and clips.dtype == np.uint8
        np.testing.assert_array_equal(clips, eval_clips(stage, data))


def test_several_unseen_clips_of_a_file_are_spread_over_it(folders):
    data = DataConfig(videos=folders["videos"], eval_clips=3, max_stride=1)
    starts = eval_clips(VIDEOS, data)[:, 0].mean(axis=(1, 2, 3)) - 20
    np.testing.assert_allclose(starts, [1, 2, 4], atol=0.7)  # of 6 starts: 0 to 5


def test_no_accelerator_is_touched():
    """Workers import this package anew: it may import no model, and start no backend of jax."""
    code = (
        "import sys, cvvae_jax.data.pipeline\n"
        "assert not [m for m in sys.modules if m.startswith(('flax', 'cvvae_jax.models'))]\n"
        "if 'jax' in sys.modules:\n"
        "    from jax._src import xla_bridge\n"
        "    assert not xla_bridge.backends_are_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
