"""What a compiled step costs: memory, traffic between devices, and the least time it can take.

A real step takes longer: devices don't reach their peak rates, and the time to read and write
memory is not counted.
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
    """Results that are not written over an argument."""
    temporaries: int
    """All other arrays: activations, gradients, copies."""

    @property
    def total(self) -> int:
        """Memory at the peak of the step."""
        return self.arguments + self.outputs + self.temporaries


def memory_from_buffer_assignment(text: str) -> Memory:
    """Read the memory of a program from XLA's text on its buffer assignment.

    Each line is one allocation. Allocations of a `color` other than 0 lie in memories inside of the
    chip, and are not counted.
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
    """Bytes on a device during a step, by what they are used for.

    The sizes of state, frozen networks and batch are computed from shapes. The others are from the
    compiled program: `padding` is what the layouts of the device add to arguments.
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
    """Bytes of a batch on each device: uint8 videos, and a seed and a stop flag per clip."""
    records = math.ceil(video_shape[0] / (mesh.shape["data"] * mesh.shape["fsdp"]))
    return math.ceil(math.prod(video_shape) / mesh.size) + 5 * records


_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8}

_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?[\w.\-]+ = (?P<shape>.+?) "
    rf"(?P<kind>{'|'.join(_COLLECTIVES)})(?P<start>-start)?\("
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
    """Name of the operation, such as `all-reduce`."""
    count: int
    """Number of operations."""
    bytes: int
    """Bytes of the arrays on one device: the operands of `reduce-scatter`, the results of all other
    operations."""
    wire: float
    """Least number of bytes that one device sends, for n devices: 2 (n - 1) / n of the bytes of
    `all-reduce`, all bytes of `collective-permute`, (n - 1) / n of the bytes of the others."""


def collective_traffic(hlo: str, *, devices: int) -> list[Traffic]:
    """The collectives of a compiled program, by kind.

    Args:
        hlo: the partitioned program as text.
        devices: devices of the program; a group of unknown size is taken to have all of them.
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
    """Add up the operations of one kind.

    An operation that runs beside several others appears in the text several times, with one channel
    and one size, and counts once. Operations of `shard_map` share a channel, but differ in size,
    and all count.
    """
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
    """Bytes of the result of an operation.

    The shape of an operation that is only started also has its operands, before the result;
    `all-reduce` is an exception.
    """
    if started and kind != "all-reduce":
        members = _members(shape)
        return _bytes(members[1] if len(members) > 1 else shape)
    return _bytes(shape)


def _members(shape: str) -> list[str]:
    """Split the text of a tuple, whose members may be tuples, into its members."""
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
    """How often every computation runs: the body of a loop runs once per iteration."""
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
    """The least time of a step, in seconds."""

    compute: float
    """Time of all operations at the peak rate."""
    links: float
    """Time to send a device's traffic over all of its links at once."""


def least_time(
    executed_flops: float, traffic: list[Traffic], *, chip: Chip, devices: int, passes: int
) -> LeastTime:
    """The least time of a step.

    Args:
        executed_flops: operations of all devices together.
        traffic: traffic of one device.
        chip: the hardware.
        devices: number of devices that share the operations.
        passes: time of a product relative to a product of bfloat16 (`hardware.FLOAT32`).
    """
    sent = sum(part.wire for part in traffic)
    return LeastTime(executed_flops * passes / devices / chip.peak_flops, sent / chip.link)


def sum_over_slices(size: float, *, chip: Chip, slice_chips: int, slices: int) -> float:
    """The least time, in seconds, to sum an array over all chips of several slices.

    The chips of a slice sum among themselves. Then each chip sums its part of the array with the
    chips of the other slices.

    Args:
        size: bytes of the array.
        chip: the hardware.
        slice_chips: chips of a slice.
        slices: number of slices.
    """
    links = 2 * (slice_chips - 1) / slice_chips * size / chip.link
    network = 2 * (slices - 1) / slices * size / slice_chips / chip.network
    return links + network
