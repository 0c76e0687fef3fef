"""Strict settings for all tests: eight virtual CPU devices, float32, no silent broadcasting."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# The networks are tiny and their programs run once, so most of the time would go into optimizing.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    ]
)

from jaxtyping import install_import_hook

# Checks the shapes in the signatures of all public functions; before the package is imported.
install_import_hook("cvvae_jax", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items):
    """Training takes longest: begun last, it would leave the other process without work."""
    items.sort(key=lambda item: "training" not in item.path.parts)


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory):
    """Programs compiled in one test are not compiled again in another: whole runs share most."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
