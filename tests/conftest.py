"""Makes every test strict: shapes and types are checked at run time, and ranks and dtypes are never promoted silently.

JAX_COMPILATION_CACHE_DIR moves the compilation cache (default: .jax_cache at the root of the
checkout). Programs are compiled without LLVM's optimizations and in one piece, which saves a third of the time.
XLA_FLAGS (even if empty) and --slow switch this off. --random_order=SEED runs the tests in another
order, which is the same for the same seed.
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
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1")

import jax
import pytest
from jaxtyping import install_import_hook

from tests.few import skip_the_others
from tests.memory_maps import forget_compiled_programs  # noqa: F401  (pytest finds it here)
from tests.order import in_random_order
from tests.time_limit import (  # noqa: F401  (pytest finds them here)
    pytest_runtest_call,
    pytest_runtest_setup,
    pytest_runtest_teardown,
)

# Before the first import of score_sde: the hook rewrites modules as they are loaded.
install_import_hook("score_sde", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --slow and --random_order."""
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--random_order", metavar="SEED", help="shuffle the modules, and the tests of each, by this seed")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Names the seed of the order."""
    seed = config.getoption("--random_order")
    return [] if seed is None else [f"random order: repeat it with --random_order={seed}"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips the tests marked slow, and all but a few cases of others, without --slow. Puts the tests in the order of a seed."""
    skip = pytest.mark.skip(reason="slow: run with --slow")
    if not config.getoption("--slow"):
        skip_the_others(items, skip)
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)
    seed = config.getoption("--random_order")
    if seed is not None:
        items[:] = in_random_order(items, seed)
