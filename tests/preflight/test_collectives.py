"""Traffic is read from compiled programs: kinds, how often, and bytes."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from cvvae_jax.preflight.cost import collective_traffic

SIZE = 64  # numbers on one device, 4 bytes each


def compiled(function) -> str:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("x")
    mapped = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return jax.jit(mapped).lower(jnp.ones(8 * SIZE)).compile().as_text()


RING = [(i, (i + 1) % 8) for i in range(8)]
CASES = {
    "all-reduce": (lambda x: lax.psum(x, "x"), 4 * SIZE, 2 * 7 / 8),
    "all-gather": (lambda x: lax.all_gather(x, "x", tiled=True), 8 * 4 * SIZE, 7 / 8),
    "reduce-scatter": (lambda x: lax.psum_scatter(x, "x", tiled=True), 4 * SIZE, 7 / 8),
    "all-to-all": (lambda x: lax.all_to_all(x, "x", 0, 0, tiled=True), 4 * SIZE, 7 / 8),
    "collective-permute": (lambda x: lax.ppermute(x, "x", RING), 4 * SIZE, 1.0),
}


@pytest.mark.parametrize("kind", CASES)
def test_every_kind_is_counted_with_its_bytes(kind):
    function, size, share = CASES[kind]
    (traffic,) = collective_traffic(compiled(function), devices=8)
    assert (traffic.kind, traffic.count, traffic.bytes) == (kind, 1, size)
    assert traffic.wire == share * size


def test_loops_are_counted_as_often_as_they_go_round():
    def function(x):
        return lax.scan(lambda x, _: (lax.ppermute(x, "x", RING), None), x, length=5)[0]

    (traffic,) = collective_traffic(compiled(function), devices=8)
    assert (traffic.kind, traffic.count, traffic.bytes) == ("collective-permute", 5, 5 * 4 * SIZE)


def test_program_of_one_device_has_none():
    assert collective_traffic(jax.jit(jnp.sin).lower(1.0).compile().as_text(), devices=1) == []


def test_neither_operands_nor_further_mentions_of_a_collective_are_counted():
    lines = [
        "ENTRY %main (x: f32[8]) -> f32[64] {",
        "  %a = (f32[8]{0:T(128)}, f32[64]{0:T(128)}) all-gather-start(%x), "
        "replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}",
        "  %b = (bf16[4,2]{1,0:T(8,128)(2,1)}, bf16[4,2]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}, "
        "u32[]{:S(2)}) collective-permute-start(%x), source_target_pairs={{0,7}}",
        "  %c = (f32[3]{0}, /*index=1*/bf16[5]{0}) all-reduce(%x, %y), "
        "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, to_apply=%add",
        "}",
    ]
    lines[1:1] = [lines[1].replace("%a", "%again").replace("dim", "channel_id=7, dim")] * 2
    lines[3] = lines[3].replace("dim", "channel_id=7, dim")
    found = {traffic.kind: traffic for traffic in collective_traffic("\n".join(lines), devices=8)}
    assert (found["all-gather"].count, found["all-gather"].bytes) == (1, 64 * 4)
    assert found["collective-permute"].bytes == 4 * 2 * 2
    assert found["all-reduce"].bytes == 3 * 4 + 5 * 2
    assert found["all-reduce"].wire == 22 * 2 * 3 / 4  # over groups of four


def test_collectives_of_one_channel_and_different_sizes_are_counted_each():
    """`shard_map` makes such collectives."""
    line = "  %p.{0} = f32[{0},8]{{1,0}} collective-permute(%x), channel_id=1\n"
    hlo = "ENTRY %main (x: f32[8]) -> f32[8] {\n" + "".join(line.format(n) for n in (1, 2)) + "}\n"
    (permuted,) = collective_traffic(hlo, devices=8)
    assert (permuted.count, permuted.bytes) == (2, 4 * 8 * (1 + 2))
