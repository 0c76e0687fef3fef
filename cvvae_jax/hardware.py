"""Figures of accelerators, with their sources, and the operations of a program.

Only the products of convolutions and of matrices are counted, with 2 operations for each, in the
traced program, before a compiler changes it. All else is a few percent of a VAE's operations.
"""

import dataclasses
import functools
import math
from typing import Any

from jax.extend import core

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator. Rates are per second, and those of links are for one direction."""

    name: str
    """The chip's name in topologies."""
    kind: str
    """The beginning of jax's `device_kind`."""
    memory: float
    """Bytes that a program can use, less than the chip has, since a part is reserved."""
    peak_flops: float
    """Dense bfloat16 operations."""
    link: float
    """Bytes that a chip sends to its neighbors, over all links (ICI or NVLink) together."""
    network: float
    """Bytes that a chip sends to other slices or machines: its share of the host's network."""
    domain: int
    """Number of chips that links connect: those of the largest slice, or of a machine."""
    source: str
    """Sources of the figures."""


_GOOGLE = "https://docs.cloud.google.com/tpu/docs"
_NVIDIA = "NVIDIA's data sheets of"
_COMPILER = "memory: what libtpu 0.0.52 says is available"

_CHIPS = (
    # Both directions of ICI together: 400 GB/s. 2 x 100 Gbit/s per host of 8 chips.
    Chip(
        "v5e",
        "TPU v5 lite",
        15.75 * GIB,
        197e12,
        200e9,
        3.125e9,
        256,
        f"{_GOOGLE}/v5e; {_COMPILER}",
    ),
    # 1200 GB/s. 50 Gbit/s per chip.
    Chip("v5p", "TPU v5", 95.73 * GIB, 459e12, 600e9, 6.25e9, 8960, f"{_GOOGLE}/v5p; {_COMPILER}"),
    # 800 GB/s. 4 x 200 Gbit/s per host of 8 chips.
    Chip(
        "v6e", "TPU v6 lite", 31.24 * GIB, 918e12, 400e9, 12.5e9, 256, f"{_GOOGLE}/v6e; {_COMPILER}"
    ),
    # jax takes 3/4 of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says more; 9/10 is
    # assumed. NVLink: 600 and 900 GB/s of both directions; InfiniBand of a DGX machine.
    Chip("A100", "NVIDIA A100", 72e9, 312e12, 300e9, 25e9, 8, f"{_NVIDIA} A100 80GB and DGX"),
    Chip("H100", "NVIDIA H100", 72e9, 989e12, 450e9, 50e9, 8, f"{_NVIDIA} H100 SXM and DGX"),
    Chip("H200", "NVIDIA H200", 127e9, 989e12, 450e9, 50e9, 8, f"{_NVIDIA} H200 SXM and DGX"),
)
CHIPS = {chip.name: chip for chip in _CHIPS}
"""Chips that a run can be planned for, by name."""

TPUS = ("v5e", "v5p", "v6e")
GPUS = ("A100", "H100", "H200")

FLOAT32 = {
    "tpu": {"default": 1, "high": 3, "highest": 6},  # products of bfloat16 that make one
    "gpu": {"default": 2, "high": 2, "highest": 15},  # TF32, and float32 proper, by data sheets
}
"""Time of a float32 product as a multiple of a bfloat16 one's, by platform and
`matmul_precision`."""

_V4_FLOPS = 275e12
"""Peak of TPU v4, for which no run can be planned; from Google's documentation."""


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 operations per second of a device by its kind, as jax names it; None where
    they are unknown."""
    known = {"TPU v4": _V4_FLOPS} | {chip.kind: chip.peak_flops for chip in _CHIPS}
    kinds = [kind for kind in known if device_kind.startswith(kind)]
    return known[max(kinds, key=len)] if kinds else None


def count_flops(jaxpr: core.ClosedJaxpr | core.Jaxpr, *, platform: str | None = None) -> float:
    """The operations of a traced program.

    Of alternative branches the largest is counted or, where they are for different platforms, the
    one for `platform` (such as `cpu`).
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
    return sum((_count_equation(equation, platform) for equation in jaxpr.eqns), 0.0)


def _count_equation(equation: Any, platform: str | None) -> float:
    count = functools.partial(count_flops, platform=platform)
    match equation.primitive.name:
        case "conv_general_dilated":
            return _convolution(equation)
        case "dot_general":
            return _product(equation)
        case "cond":
            return max(map(count, _branches(equation.params, platform)))
        case "scan":
            return equation.params["length"] * count(equation.params["jaxpr"])
        case "shard_map":  # it is traced for one of its devices
            params = equation.params
            axes = params["newly_manual_axes"]
            devices = math.prod(params["mesh"].shape[axis] for axis in axes)
            return devices * count(params["jaxpr"])
        case _:
            return sum(map(count, _inner(equation.params)), 0.0)


def _branches(params: dict[str, Any], platform: str | None) -> list[Any]:
    """The branches that a platform may take. A platform of None is that of a default branch."""
    platforms = params.get("branches_platforms")
    if platform is None or platforms is None:
        return list(params["branches"])
    pairs = zip(params["branches"], platforms, strict=True)
    return [branch for branch, names in pairs if names is None or platform in names][:1]


def _inner(params: dict[str, Any]) -> list[Any]:
    return [value for value in params.values() if _is_jaxpr(value)]


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.ClosedJaxpr | core.Jaxpr)


def _convolution(equation: Any) -> float:
    """Operations of a convolution. Taps that read the zeros of a dilated input don't count."""
    _, kernel = (variable.aval.shape for variable in equation.invars)
    outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    taps = math.prod(kernel) / outputs / math.prod(equation.params["lhs_dilation"])
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * taps


def _product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
