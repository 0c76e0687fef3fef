"""What is known of accelerators, with sources, and how much a program computes.

Counted are products of convolutions and matrices, 2 operations each, in the program as it is traced
(before a compiler changes it). All else is a few percent of a VAE's operations.
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
    """One accelerator; rates are per second, in one direction."""

    name: str
    """What a topology calls it."""
    memory: float
    """Bytes that a program can have; below what is sold, since a part is reserved."""
    peak_flops: float
    """Dense bfloat16 operations."""
    link: float
    """Bytes that leave a chip for its neighbors over all links together: ICI, or NVLink."""
    network: float
    """Bytes that leave a chip for other slices or machines: its share of the host's network."""
    domain: int
    """Chips that reach each other over links: those of the largest slice, or of a machine."""
    source: str
    """Where the numbers are from."""


_GOOGLE = "https://docs.cloud.google.com/tpu/docs"
_COMPILER = "memory: what libtpu 0.0.52 says is available"

CHIPS = {
    chip.name: chip
    for chip in (
        # Both directions of ICI together: 400 GB/s. 2 x 100 Gbit/s a host of 8 chips.
        Chip("v5e", 15.75 * GIB, 197e12, 200e9, 3.125e9, 256, f"{_GOOGLE}/v5e; {_COMPILER}"),
        # 1200 GB/s. 50 Gbit/s a chip.
        Chip("v5p", 95.73 * GIB, 459e12, 600e9, 6.25e9, 8960, f"{_GOOGLE}/v5p; {_COMPILER}"),
        # 800 GB/s. 4 x 200 Gbit/s a host of 8 chips.
        Chip("v6e", 31.24 * GIB, 918e12, 400e9, 12.5e9, 256, f"{_GOOGLE}/v6e; {_COMPILER}"),
        # jax takes 3/4 of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says more; 9/10 is
        # assumed. NVLink: 600 and 900 GB/s of both directions; InfiniBand of a DGX machine.
        Chip("A100", 72e9, 312e12, 300e9, 25e9, 8, "NVIDIA's data sheets of A100 80GB and DGX"),
        Chip("H100", 72e9, 989e12, 450e9, 50e9, 8, "NVIDIA's data sheets of H100 SXM and DGX"),
        Chip("H200", 127e9, 989e12, 450e9, 50e9, 8, "NVIDIA's data sheets of H200 SXM and DGX"),
    )
}
"""By name."""

TPUS = ("v5e", "v5p", "v6e")
GPUS = ("A100", "H100", "H200")

FLOAT32 = {
    "tpu": {"default": 1, "high": 3, "highest": 6},  # products of bfloat16 that make one
    "gpu": {"default": 2, "high": 2, "highest": 15},  # TF32, and float32 proper, by data sheets
}
"""How many times as long a product of float32 takes as one of bfloat16, by `matmul_precision`."""


# Dense bfloat16 operations per second, from the makers' data sheets.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}
"""By the beginning of jax's `device_kind`; v5 lite is v5e, v5 is v5p, v6 lite is v6e."""


def peak_flops(device: jax.Device) -> float | None:
    """Dense bfloat16 operations per second of a device, None where it isn't known."""
    names = [name for name in PEAK_FLOPS if device.device_kind.startswith(name)]
    return PEAK_FLOPS[max(names, key=len)] if names else None


def count_flops(jaxpr: core.ClosedJaxpr | core.Jaxpr, *, platform: str | None = None) -> float:
    """Operations of a traced program; of alternatives, the largest, or that of a `platform` (`cpu`)
    where they are for different ones."""
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
        case "shard_map":  # traced for one of the devices
            params = equation.params
            axes = params["newly_manual_axes"]
            devices = math.prod(params["mesh"].shape[axis] for axis in axes)
            return devices * count(params["jaxpr"])
        case _:
            return sum(map(count, _inner(equation.params)), 0.0)


def _branches(params: dict[str, Any], platform: str | None) -> list[Any]:
    """Those that a platform may take; None stands for all platforms that aren't named before."""
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
    """Taps that read zeros between the values of a dilated input count for nothing."""
    _, kernel = (variable.aval.shape for variable in equation.invars)
    outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    taps = math.prod(kernel) / outputs / math.prod(equation.params["lhs_dilation"])
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * taps


def _product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
