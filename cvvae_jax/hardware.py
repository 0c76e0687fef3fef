"""Data sheets of accelerators, and the number of operations of a program.

Operations are counted in the traced program, before a compiler changes it: 2 for every product of a
convolution or of a matrix multiplication. All other operations are a few percent of a VAE's.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
from jax.extend import core

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """An accelerator. Rates are per second, in one direction."""

    name: str
    """Name in a topology, such as `v5e:4x8`."""
    device_kind: str
    """The beginning of jax's `device_kind`."""
    memory: float
    """Bytes that a program can use: fewer than are sold, since some are reserved."""
    peak_flops: float
    """Dense bfloat16 operations."""
    link: float
    """Bytes that a chip sends to its neighbors, over all ICI or NVLink links together."""
    network: float
    """Bytes that a chip sends to other slices or machines: its share of the host's network."""
    domain: int
    """Number of chips that links connect: those of the largest slice, or of a machine."""
    source: str
    """Source of the numbers."""


_TPU = "https://docs.cloud.google.com/tpu/docs/{}; memory: what libtpu 0.0.52 says is available"
_GPU = "NVIDIA's data sheets of {} and DGX"

CHIPS = {
    chip.name: chip
    for chip in (
        # Google states both directions of ICI together, 400 GB/s. A host of 8 chips has 2 x 100
        # Gbit/s of network.
        Chip("v5e", "TPU v5 lite", 15.75 * GIB, 197e12, 200e9, 3.125e9, 256, _TPU.format("v5e")),
        # ICI: 1200 GB/s in both directions. Network: 50 Gbit/s per chip.
        Chip("v5p", "TPU v5", 95.73 * GIB, 459e12, 600e9, 6.25e9, 8960, _TPU.format("v5p")),
        # ICI: 800 GB/s in both directions. Network: 4 x 200 Gbit/s per host of 8 chips.
        Chip("v6e", "TPU v6 lite", 31.24 * GIB, 918e12, 400e9, 12.5e9, 256, _TPU.format("v6e")),
        # Memory: 9/10 of what is sold; jax takes 3/4 unless XLA_PYTHON_CLIENT_MEM_FRACTION says
        # more. NVLink: 600 (A100) and 900 GB/s in both directions. Network: InfiniBand of a DGX.
        Chip("A100", "NVIDIA A100", 72e9, 312e12, 300e9, 25e9, 8, _GPU.format("A100 80GB")),
        Chip("H100", "NVIDIA H100", 72e9, 989e12, 450e9, 50e9, 8, _GPU.format("H100 SXM")),
        Chip("H200", "NVIDIA H200", 127e9, 989e12, 450e9, 50e9, 8, _GPU.format("H200 SXM")),
    )
}
"""Accelerators by name."""

TPUS = ("v5e", "v5p", "v6e")
GPUS = ("A100", "H100", "H200")

FLOAT32 = {
    "tpu": {"default": 1, "high": 3, "highest": 6},  # a product is this many bfloat16 products
    "gpu": {"default": 2, "high": 2, "highest": 15},  # TF32, and real float32, by data sheets
}
"""Time of a float32 product relative to a bfloat16 product, by platform and `matmul_precision`."""

PEAK_FLOPS = {"TPU v4": 275e12} | {chip.device_kind: chip.peak_flops for chip in CHIPS.values()}
"""Dense bfloat16 operations per second, by the beginning of jax's `device_kind`; that of TPU v4 is
from https://docs.cloud.google.com/tpu/docs/v4."""


def peak_flops(device: jax.Device) -> float | None:
    """Dense bfloat16 operations per second of a device; None where they are not known."""
    names = [name for name in PEAK_FLOPS if device.device_kind.startswith(name)]
    return PEAK_FLOPS[max(names, key=len)] if names else None


def count_flops(jaxpr: core.ClosedJaxpr | core.Jaxpr, *, platform: str | None = None) -> float:
    """Count the operations of a traced program.

    Args:
        jaxpr: the program.
        platform: platform that the program runs on, such as `cpu`, which decides between branches
            for different platforms. Of all other branches the largest counts; None takes the
            largest of all.
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
        case "shard_map":  # its program is that of one device
            params = equation.params
            axes = params["newly_manual_axes"]
            devices = math.prod(params["mesh"].shape[axis] for axis in axes)
            return devices * count(params["jaxpr"])
        case _:
            return sum(map(count, _inner(equation.params)), 0.0)


def _branches(params: dict[str, Any], platform: str | None) -> list[Any]:
    """The branches of a condition that a platform may take.

    In jax's list, None stands for all platforms that no branch before it names.
    """
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
    """Operations of a convolution, without taps that read the zeros of a dilated input."""
    _, kernel = (variable.aval.shape for variable in equation.invars)
    outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    taps = math.prod(kernel) / outputs / math.prod(equation.params["lhs_dilation"])
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * taps


def _product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
