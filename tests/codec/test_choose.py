"""How memory decides the way that a video goes through a model."""

import gc
import logging
import weakref

import jax
import numpy as np
import pytest

from cvvae_jax.codec import choose
from cvvae_jax.codec.choose import CodecOptions, VideoSize, _batch, _candidates
from cvvae_jax.codec.codec import Codec
from cvvae_jax.codec.programs import DeviceGroups
from cvvae_jax.errors import UserError

SIZE = {"frames": 1, "height": 168, "width": 150}


@pytest.fixture(scope="module", params=[8, 1])
def devices(request) -> list:
    return jax.devices()[: request.param]


@pytest.fixture(scope="module")
def needed(vae, devices) -> int:
    """Bytes of a device to decode a whole frame."""
    return Codec(vae, devices=devices).plan("decode", **SIZE).memory


def test_frames_stay_whole_where_they_fit_and_are_cut_last(vae, devices, needed):
    fits = Codec(vae, memory=needed, devices=devices).plan("decode", **SIZE)
    assert (fits.tiles, fits.split_rows, fits.groups) == (1, 1, len(devices))
    assert "exact" in fits.describe(frames=1)[1]
    lacks = Codec(vae, memory=needed - 1, devices=devices).plan("decode", **SIZE)
    assert lacks.memory < needed
    if len(devices) > 1:
        assert (lacks.tiles, lacks.split_rows, lacks.groups) == (1, 2, len(devices) // 2)
        assert "every 2 of which share the rows of" in lacks.describe(frames=1)[2]
    else:
        assert (lacks.tiles, lacks.cuts.pixel_tiles.size) == (4, 128)
        assert "blended" in lacks.describe(frames=None)[1]


def test_what_fits_in_no_way_is_refused_with_the_least_that_would(vae):
    codec = Codec(vae, memory=1000, devices=jax.devices()[:1])
    with pytest.raises(UserError, match=r"too little to decode .* needs at least"):
        codec.plan("decode", **SIZE)
    whole = Codec(vae, memory=1000, tile="whole", devices=jax.devices()[:1])
    assert whole.plan("decode", **SIZE).tiles == 1, "the only way that the user leaves is tried"


def test_longer_videos_share_a_plan_and_bring_enough_chunks_for_all_devices(vae, clip):
    codec = Codec(vae, chunk_frames=4)
    plans = [codec.plan("encode", frames=n, height=16, width=16) for n in (5, 6, 100, None)]
    assert len(set(plans)) == 1
    assert plans[0].chunks_at_once == 8
    assert "25 chunks of 5 frames that share 1 frame" in plans[0].describe(frames=100)[0]
    assert "one chunk of 5 frames" in plans[0].describe(frames=5)[0]


def test_what_a_program_needs_is_asked_of_the_compiler_once(vae, caplog, monkeypatch):
    log = logging.getLogger("cvvae_jax.codec")
    monkeypatch.setattr(log, "handlers", [caplog.handler])  # a command may have set its own
    monkeypatch.setattr(log, "propagate", False)
    caplog.set_level(logging.INFO, "cvvae_jax.codec")
    codec = Codec(vae, devices=jax.devices()[:1])
    plans = [codec.plan("encode", frames=1, height=16, width=24) for _ in range(2)]
    assert plans[0] == plans[1]
    codec.encode(np.zeros((1, 1, 16, 24, 3), np.uint8))
    [compiled] = [record for record in caplog.records if ": encode" in record.message]
    assert compiled.message.startswith("Ready in ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"split_rows": 3}, "split-rows"), ({"batch": 0}, "batch"), ({"memory": 0}, "memory")],
)
def test_options_that_cant_be_met_are_named(vae, arguments, named):
    with pytest.raises(UserError, match=named):
        Codec(vae, **arguments)


def test_small_chunks_are_taken_together_on_an_accelerator(vae):
    """Also one that is the only kind of chunk of its video: 4 of 17 x 256 x 256 keep it busy."""
    video = VideoSize(17, 256, 256, "uint8")
    plan = next(_candidates(vae, video, devices=1, options=CodecOptions()))
    batches = [_batch(plan, room=room, platform="gpu") for room in (100, 3, 0)]
    assert batches == [4, 2, 1]


def test_no_more_than_sixteen_small_chunks_are_taken_together(vae):
    def most(video, platform="gpu"):
        plan = next(_candidates(vae, video, devices=1, options=CodecOptions()))
        return _batch(plan, room=1000, platform=platform)

    assert most(VideoSize(1, 64, 64, "uint8")) == 16
    assert most(VideoSize(17, 1024, 1024, "uint8")) == 1
    assert most(VideoSize(1, 64, 64, "uint8"), platform="cpu") == 1


def given_needs(monkeypatch, needs) -> None:
    """The compiler's account of a program by its pieces' height."""
    monkeypatch.setattr(choose, "memory_needed", lambda *arguments, **_: needs(arguments[2][2]))


@pytest.mark.parametrize(("direction", "numbers"), [("encode", 8 / 64), ("decode", 3)])
def test_tiles_need_room_where_one_device_joins_them(vae, monkeypatch, direction, numbers):
    """Float32 latents' moments or pixels of the tiles, of the joined chunk and of the one
    before."""
    needs = {True: 10**9, False: 1000}
    given_needs(monkeypatch, lambda height: needs[height in (168, 21)])
    codec = Codec(vae, memory=10**8, devices=jax.devices()[:1])
    plan = codec.plan(direction, **SIZE)
    height, width = 168, 152
    assert (plan.tiles, plan.cuts.pixel_tiles.size) == (4, 128)
    assert plan.memory == 1000 + 3 * 4 * height * width * numbers


def test_a_program_that_the_compiler_cant_make_is_one_that_does_not_fit(vae, monkeypatch):
    given_needs(monkeypatch, lambda height: None if height == 21 else 1000)
    codec = Codec(vae, memory=10**8, devices=jax.devices()[:1])
    assert codec.plan("decode", **SIZE).tiles == 4
    given_needs(monkeypatch, lambda height: None)
    codec = Codec(vae, memory=10**8, devices=jax.devices()[:1])
    with pytest.raises(UserError, match=r"no program to decode 1 frames of 152 x 168 could be"):
        codec.plan("decode", **SIZE)


def test_a_codec_that_is_gone_holds_no_memory_of_devices(vae):
    codec = Codec(vae, devices=jax.devices()[:2])
    models = [codec._programs._weights(groups) for groups in (DeviceGroups(2), DeviceGroups(1, 2))]
    first, second = (
        {part.data.unsafe_buffer_pointer() for part in jax.tree.leaves(model)[0].addressable_shards}
        for model in models
    )
    assert first == second, "one copy of the model for every way of sharing"
    programs = weakref.ref(codec._programs)
    del codec
    gc.collect()
    assert programs() is None
