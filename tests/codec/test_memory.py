"""How much memory there is, on accelerators, on hosts and in containers."""

from unittest.mock import Mock

import jax
import numpy as np
import pytest

from cvvae_jax.codec import choose
from cvvae_jax.errors import UserError


def accelerator(process: int = 0, **stats: int) -> Mock:
    device = Mock(spec=jax.Device, platform="gpu", process_index=process, device_kind="NVIDIA X")
    device.memory_stats.return_value = stats
    return device


def test_the_device_with_the_least_left_decides(vae):
    devices = [
        accelerator(bytes_limit=10**9, bytes_in_use=10**8),
        accelerator(bytes_limit=10**9, bytes_in_use=6 * 10**8),
        accelerator(bytes_limit=10**9),
    ]
    assert choose.available(devices, vae) == int(0.9 * 4e8)
    assert choose.available(devices[::2], vae) == int(0.9 * 9e8)


def test_a_device_that_says_nothing_of_its_memory_is_named(vae):
    with pytest.raises(UserError, match=r"NVIDIA X doesn't say .*set `memory`"):
        choose.available([accelerator()], vae)


def test_processes_that_share_devices_agree_on_the_least(vae, monkeypatch):
    """Another one has half as much; numbers are told in KiB. Who runs alone asks nobody."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        choose.multihost_utils, "process_allgather", lambda kib: np.stack([kib, kib // 2])
    )
    mine, other = (accelerator(process, bytes_limit=2**33) for process in range(2))
    own = int(0.9 * 2**33)
    assert choose.available([mine, other], vae) == own // 1024 // 2 * 1024
    assert choose.available([mine], vae) == own


@pytest.mark.parametrize(
    ("limit", "free"),
    [("max", 1024000), ("600000", 500000), ("9000000", 1024000), (None, 1024000)],
    ids=["no_limit", "less", "more", "no_container"],
)
def test_a_container_has_what_its_limit_leaves_of_the_host(tmp_path, monkeypatch, limit, free):
    files = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 1000 kB\n"}
    if limit is not None:
        files |= {"sys/fs/cgroup/memory.max": limit, "sys/fs/cgroup/memory.current": "100000"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(choose, "Path", lambda place: tmp_path / place.lstrip("/"))
    assert choose._free_of_host() == free
