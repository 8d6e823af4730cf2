"""Makes every test strict: shapes and types are checked at run time, and no rank or dtype is promoted silently.

JAX_COMPILATION_CACHE_DIR moves the compilation cache (default: .jax_cache at the root of the checkout). Programs are compiled
without LLVM's optimizations, which saves a third of the time, unless XLA_FLAGS is set (even to nothing) or --slow given.
"""

import os
import pathlib
import sys

# JAX reads these once, when it is imported; child processes of a test inherit them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("MPLBACKEND", "agg")
# A worker of xdist has the environment of the first process, and not its arguments.
if "--slow" not in sys.argv and "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest
from jaxtyping import install_import_hook

# Before the first import of score_sde: the hook rewrites modules as they are loaded.
install_import_hook("score_sde", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --slow."""
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips the tests marked slow unless --slow is given."""
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
