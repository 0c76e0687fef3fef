"""How much a program computes, and how much a device could.

Counted are products of convolutions and matrices, 2 operations each, in the program as it is traced
(before a compiler changes it). All else is a few percent of a VAE's operations.
"""

import functools
import math
from typing import Any

import jax
from jax.extend import core

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
