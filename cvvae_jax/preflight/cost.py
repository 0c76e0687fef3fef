"""What a compiled step costs: memory, traffic between devices, and the least time it can take.

A real step takes longer: nothing reaches its peak, and memory's own rate isn't in it.
"""

import dataclasses
import math
import re

from jax.sharding import Mesh

from cvvae_jax.hardware import Chip
from cvvae_jax.training.programs import AbstractStage, bytes_per_device

_ALLOCATION = re.compile(r"^allocation \d+: size (\d+),(.*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while a step runs, as the compiler places its arrays."""

    arguments: int
    """State, batch and frozen networks, in the layouts of the device."""
    outputs: int
    """Results that don't take an argument's place."""
    temporaries: int
    """All else: activations, gradients, copies."""

    @property
    def total(self) -> int:
        """At the step's peak."""
        return self.arguments + self.outputs + self.temporaries


def memory_from_buffer_assignment(text: str) -> Memory:
    """The memory of a program, from what XLA writes down of its arrays.

    A line stands for one piece of memory; pieces of another `color` lie in memories on the chip
    itself.
    """
    sizes = {"arguments": 0, "outputs": 0, "temporaries": 0}
    for size, facts in _ALLOCATION.findall(text):
        if re.search(r" color [1-9]", facts):
            continue
        if re.search(r" parameter \d+,", facts):
            sizes["arguments"] += int(size)
        elif "maybe-live-out" in facts:
            sizes["outputs"] += int(size)
        else:
            sizes["temporaries"] += int(size)
    return Memory(**sizes)


def memory_parts(
    stage: AbstractStage, video_shape: tuple[int, ...], memory: Memory
) -> dict[str, int]:
    """What a device's memory is taken by during a step.

    What stays from step to step is counted from shapes, the rest as it was compiled: `padding` is
    what layouts of the device add to arguments.
    """
    mesh = stage.job.mesh
    kept = {name: bytes_per_device(tree, mesh) for name, tree in stage.kept.items()}
    kept["batch"] = batch_bytes(video_shape, mesh)
    sizes = {**kept, "padding": max(0, memory.arguments - sum(kept.values()))}
    return {
        **sizes,
        "activations and other temporaries": memory.temporaries,
        "outputs": memory.outputs,
    }


def batch_bytes(video_shape: tuple[int, ...], mesh: Mesh) -> int:
    """A device's part of a batch: videos in uint8, and a seed for each."""
    records = math.ceil(video_shape[0] / (mesh.shape["data"] * mesh.shape["fsdp"]))
    return math.ceil(math.prod(video_shape) / mesh.size) + 5 * records  # seed and stop flag


_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8}

_INSTRUCTION = re.compile(
    rf"^\s*(?:ROOT )?%?[\w.\-]+ = (?P<shape>.+?) (?P<kind>{'|'.join(_COLLECTIVES)})(?P<start>-start)?\("
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_CALL = re.compile(r"(?:body|calls|to_apply|async_execution_thread)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')
_CHANNEL = re.compile(r"channel_id=\d+")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """All collectives of one kind in one step."""

    kind: str
    count: int
    """How often one is done."""
    bytes: int
    """The arrays' bytes on one device: what is summed up, what is gathered together, or what is
    scattered; for all but `reduce-scatter` that is the result."""
    wire: float
    """Bytes that one device sends at least: 2 (n - 1) / n of a sum over n devices, (n - 1) / n of
    what is gathered, scattered or exchanged, all of what is permuted."""


def collective_traffic(hlo: str, *, devices: int) -> list[Traffic]:
    """The collectives of a compiled program, by kind.

    Args:
        hlo: the program as text, partitioned for so many devices.
        devices: of the program; groups of unknown size are taken to be all of them.
    """
    times = _times_called(hlo)
    found: dict[str, dict[str, list[tuple[int, int, float]]]] = {}
    computation = ""
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            computation = match[1]
        elif match := _INSTRUCTION.match(line):
            count = times.get(computation, 1)
            size = _payload(match["shape"], match["kind"], started=match["start"] is not None)
            group = _group_size(line, devices)
            if match["kind"] == "reduce-scatter":
                size *= group
            share = {"all-reduce": 2 * (group - 1) / group, "collective-permute": 1.0}
            wire = size * share.get(match["kind"], (group - 1) / group)
            channel = _CHANNEL.search(line)
            name = channel[0] if channel else line
            found.setdefault(match["kind"], {}).setdefault(name, []).append((count, size, wire))
    return [_total(kind, found[kind]) for kind in _COLLECTIVES if kind in found]


def _total(kind: str, by_channel: dict[str, list[tuple[int, int, float]]]) -> Traffic:
    """One that goes on beside other operations is in the text with each of them; those that
    `shard_map` asks for share a channel, but not a size."""
    done = []
    for entries in by_channel.values():
        copies = len({size for _, size, _ in entries}) == 1
        done += entries[-1:] if copies else entries
    return Traffic(
        kind,
        sum(count for count, _, _ in done),
        sum(count * size for count, size, _ in done),
        sum(count * wire for count, _, wire in done),
    )


def _payload(shape: str, kind: str, *, started: bool) -> int:
    """Bytes of a result; started ones but sums also name their operands before it."""
    if started and kind != "all-reduce":
        members = _members(shape)
        return _bytes(members[1] if len(members) > 1 else shape)
    return _bytes(shape)


def _members(shape: str) -> list[str]:
    """Of a tuple, whose members may be tuples."""
    members, depth = [""], 0
    for character in shape:
        depth -= character in ")]}"
        if character == "," and depth == 1:
            members.append("")
        elif depth:
            members[-1] += character
        depth += character in "([{"
    return members


def _bytes(shape: str) -> int:
    shape = re.sub(r"\{[^{}]*\}", "", shape)  # layouts
    return sum(
        _BYTES.get(kind, 4) * math.prod(int(size) for size in sizes.split(",") if size)
        for kind, sizes in _ARRAY.findall(shape)
    )


def _group_size(line: str, devices: int) -> int:
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return max(1, len(match[1].split(",")))
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
    return devices


def _times_called(hlo: str) -> dict[str, int]:
    """How often every computation runs: bodies of loops as often as the loop goes round."""
    calls: dict[str, list[tuple[str, int]]] = {}
    computation = entry = ""
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            computation = match[1]
            entry = computation if line.startswith("ENTRY") else entry
            continue
        trips = _TRIPS.search(line)
        names = _CALL.findall(line)
        if branches := _BRANCHES.search(line):
            names += [name.strip().removeprefix("%") for name in branches[1].split(",")]
        for name in names:
            calls.setdefault(computation, []).append((name, int(trips[1]) if trips else 1))
    times = {entry: 1}
    waiting = [entry]
    while waiting:
        caller = waiting.pop()
        for name, trips in calls.get(caller, []):
            if times.get(name, 0) < times[caller] * trips:
                times[name] = times[caller] * trips
                waiting.append(name)
    return times


@dataclasses.dataclass(frozen=True)
class LeastTime:
    """Seconds of a step, at least."""

    compute: float
    """All operations, at peak rate."""
    links: float
    """What a device sends, over all its links at once."""


def least_time(
    executed_flops: float, traffic: list[Traffic], *, chip: Chip, devices: int, passes: int
) -> LeastTime:
    """Of a step whose operations are spread over so many devices.

    Args:
        executed_flops: over all devices.
        traffic: of one device.
        chip: the hardware.
        devices: how many compute.
        passes: how many times as long a product takes as one of bfloat16 (`hardware.FLOAT32`).
    """
    sent = sum(part.wire for part in traffic)
    return LeastTime(executed_flops * passes / devices / chip.peak_flops, sent / chip.link)


def sum_over_slices(size: float, *, chip: Chip, slice_chips: int, slices: int) -> float:
    """Seconds of summing an array of so many bytes over all chips of several slices, at least: a
    sum over each slice, whose chips then sum a part each with those of the other slices."""
    links = 2 * (slice_chips - 1) / slice_chips * size / chip.link
    network = 2 * (slices - 1) / slices * size / slice_chips / chip.network
    return links + network
