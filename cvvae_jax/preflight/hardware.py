"""What is known of the accelerators that a run is planned for, with the source of every number."""

import dataclasses

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
