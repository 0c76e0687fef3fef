"""The parts of a preflight: topologies, memory, estimates, the largest batch, advice."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from cvvae_jax.errors import UserError
from cvvae_jax.hardware import CHIPS, GPUS, TPUS, peak_flops
from cvvae_jax.preflight.advice import largest_batch
from cvvae_jax.preflight.compiler import Topology
from cvvae_jax.preflight.cost import Memory, memory_from_buffer_assignment, sum_over_slices
from cvvae_jax.preflight.estimate import peak_bytes


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("v5e:4x8", "tpu", 32),
        ("v5p:4x4x4", "tpu", 64),
        ("gpu:8xH100", "gpu", 8),
        ("cpu:8", "cpu", 8),
    ],
)
def test_topologies_are_understood(name, kind, count):
    topology = Topology.parse(name)
    assert (topology.kind, topology.count) == (kind, count)


@pytest.mark.parametrize("name", ["v9:2x2", "v5e", "v5e:8", "gpu:8xGTX", "gpu:0xH100", "cpu:0"])
def test_unknown_topology_is_refused_with_those_that_are_known(name):
    with pytest.raises(UserError, match=f"{name} is no known topology.*v5e:4x8.*gpu:8xH100"):
        Topology.parse(name)


def test_missing_compiler_is_said_with_its_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install libtpu"):
        Topology.parse("v5e:2x4").devices()


def test_peak_rates_are_found_by_the_names_that_jax_gives_devices():
    kinds = {"v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}
    kinds |= {name: f"NVIDIA {name} 80GB" for name in GPUS}
    assert set(kinds) == set(CHIPS) == {*TPUS, *GPUS}
    for name, kind in kinds.items():
        assert CHIPS[name].peak_flops == peak_flops(f"{kind} of a size")


def test_memory_is_read_from_the_compilers_assignment():
    text = """BufferAssignment:
allocation 0: size 7, page 0, thread-local:
allocation 1: size 100, page 0, parameter 3, shape |f32[25]| at ShapeIndex {}, maybe-live-out:
 value: <129 copy.4 @0> (size=100,offset=0): f32[25]
allocation 2: size 40, page 0, parameter 11, shape |f32[10]| at ShapeIndex {}:
allocation 3: size 20, page 0, output shape is |f32[5]|, maybe-live-out:
allocation 4: size 3, page 0, constant:
allocation 5: size 1000, page 0, preallocated-temp:
allocation 6: size 90, color 1, page 0, preallocated-temp:
"""
    assert memory_from_buffer_assignment(text) == Memory(
        arguments=140, outputs=20, temporaries=1010
    )


def test_estimate_counts_what_lives_at_once():
    def chain(x, w):
        for _ in range(3):
            x = jnp.sin(x @ w) * 2.0
        return x

    x, w = jnp.ones((10, 20)), jnp.ones((20, 20))
    product = 10 * 20 * 4
    # A product, and the next one's input, computed from the one before.
    assert peak_bytes(jax.make_jaxpr(chain)(x, w)) == 2 * product
    grad = jax.make_jaxpr(jax.grad(lambda w: chain(x, w).sum()))(w)
    assert peak_bytes(grad) > 4 * product


def test_estimate_sees_what_is_computed_again():
    def block(x, w):
        return jnp.sin(jnp.sin(x @ w) @ w) @ w

    def loss(function):
        def run(x, w):
            for _ in range(4):
                x = function(x, w)
            return x.sum()

        return jax.make_jaxpr(jax.grad(run, argnums=1))(jnp.ones((1000, 10)), jnp.ones((10, 10)))

    assert peak_bytes(loss(jax.checkpoint(block))) < 0.7 * peak_bytes(loss(block))


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("given", [2, 4])
@pytest.mark.parametrize("limit", [5.0, 107.0, 128.0, 159.0, 168.0, 219.0])
def test_largest_batch_is_found_in_few_compiles(limit, given, step):
    asked = []

    def measure(clips):
        asked.append(clips)
        return Memory(arguments=100, outputs=8, temporaries=10 * clips)

    found = largest_batch(measure, given=given, step=step, limit=limit)
    assert found.clips == max(0, (limit - 108) // 10 // step * step)
    assert found.compiled == (found.clips in asked) or not found.clips
    assert len(asked) <= 3


def test_batch_that_compilers_squeeze_in_is_the_largest_that_was_compiled():
    """Near the limit a compiler takes less than in proportion."""

    def measure(clips):
        return Memory(arguments=0, outputs=0, temporaries=min(60 * clips, 101 + clips))

    found = largest_batch(measure, given=1, step=1, limit=102.0)
    assert (found.clips, found.compiled) == (1, True)


def test_sum_over_slices_takes_the_network_for_its_part_alone():
    chip = CHIPS["v5e"]
    one = sum_over_slices(1e9, chip=chip, slice_chips=256, slices=1)
    assert one == 2 * 255 / 256 * 1e9 / 200e9
    four = sum_over_slices(1e9, chip=chip, slice_chips=256, slices=4)
    assert four - one == pytest.approx(2 * 3 / 4 * 1e9 / 256 / 3.125e9)


def test_more_virtual_devices_than_jax_began_with_are_refused():
    assert len(Topology.parse("cpu:8").devices()) == 8
    with pytest.raises(UserError, match="cpu:9 needs 9 virtual CPUs, and jax began with 8"):
        Topology.parse("cpu:9").devices()
