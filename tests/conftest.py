"""Strict settings for all tests: eight virtual CPU devices, float32, no silent broadcasting."""

import collections
import ctypes
import gc
import importlib.metadata
import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
# The networks are tiny and their programs run once, so most of the time would go into compiling.
_FLAGS = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # Compiling takes half the time without these. Newer versions have no such flag, and would end
    # the process; this can go with jax 0.10, the last version for Python 3.11.
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS])

from jaxtyping import install_import_hook  # noqa: E402

# Checks the shapes in the signatures of all public functions; before the package is imported.
install_import_hook("cvvae_jax", "beartype.beartype")

import compile_cache  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

from cvvae_jax.models.conv_forms import reference_convolutions  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_rank_promotion", "raise")


SECONDS = collections.Counter()
"""Seconds that the tests of a file took in this run, by file."""
_KEPT = "seconds_of_files"


def pytest_runtest_logreport(report):
    """Adds up the seconds of all tests, also of those that other processes run."""
    SECONDS[_file_of(report.nodeid)] += report.duration


def pytest_sessionfinish(session):
    """The next run begins with the longest files."""
    cache = session.config.cache
    if not hasattr(session.config, "workerinput"):
        known = cache.get(_KEPT, {})
        longest = {file: max(seconds, known.get(file, 0)) for file, seconds in SECONDS.items()}
        cache.set(_KEPT, known | longest)


def pytest_collection_modifyitems(config, items):
    """Longest files first: begun last, one would leave the other process without work."""
    known = config.cache.get(_KEPT, {})

    def order(item):
        file = _file_of(item.nodeid)
        return -known.get(file, 60 if "/training/" in file else 0)

    items.sort(key=order)


def _file_of(name: str) -> str:
    return name.split("::")[0]


def pytest_configure(config):
    """Programs compiled in one test, or in the last run, are not compiled again in another."""
    if not config.pluginmanager.hasplugin("cacheprovider"):
        raise pytest.UsageError("these tests keep compiled programs in pytest's cache: leave it on")
    folder = config.cache.mkdir("compiled")
    if not hasattr(config, "workerinput"):
        compile_cache.tidy(folder)
    compile_cache.use(folder)


@pytest.fixture(scope="session", autouse=True)
def caches_of_this_session(tmp_path_factory):
    """The package's own caches are as empty as a new user's."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", autouse=True)
def give_memory_back():
    """JAX would keep the programs of all modules, and the C library what compiling needed for a
    moment: gigabytes after some files."""
    yield
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="module")
def with_reference_convolutions():
    """Replaces the forms that compute convolutions faster, and compile slower; those have tests of
    their own."""
    with reference_convolutions():
        yield
