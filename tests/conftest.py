"""Strict settings for all tests: eight virtual CPU devices, float32, no silent broadcasting."""

import os
from importlib.metadata import version

os.environ["JAX_PLATFORMS"] = "cpu"
# The networks are tiny and their programs run once, so most of the time would go into compiling:
# code is optimized little, and loops are made by XLA's older emitters, which are twice as quick.
flags = [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]
if version("jaxlib").startswith("0.10."):  # a flag that XLA doesn't know ends the process
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(flags)

from jaxtyping import install_import_hook  # noqa: E402

# Checks the shapes in the signatures of all public functions; before the package is imported.
install_import_hook("cvvae_jax", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory):
    """Programs compiled in one test are not compiled again in another: whole runs share most."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
