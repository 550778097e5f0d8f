"""What every test has: a loop that must not be blocked, and no limit on how slow a generated example may be."""

import gc
import os
from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

# The examples of a test are the same each time, so a change fails for what it changes. The crash session draws anew.
settings.register_profile(
    "flujo_async", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("crash", settings.get_profile("flujo_async"), derandomize=False, max_examples=1000)
settings.load_profile("flujo_async")

# Loops are watched as they are by default, in processes that tests start as well; on a busy machine any may be slow,
# and whoever compares what a process writes does not want to hear of that.
os.environ.setdefault("FLUJO_ASYNC_STALL_SECONDS", "3600")


@pytest.fixture(scope="session", autouse=True)
def loop_is_never_blocked() -> Iterator[None]:
    """A blocking call that the package makes on the event loop raises ``BlockingError`` where it stands."""
    # What goes on after a write is called from these, the tests' own code as well.
    wakers = ["flujo_async.abc.pending", "flujo_async.abc.pace", "flujo_async.backends.reply"]
    with blockbuster_ctx("flujo_async", excluded_modules=wakers) as guard:
        for function in guard.functions.values():
            # /proc is no disk: the kernel answers in microseconds, sooner than a thread would begin.
            function.can_block_in("flujo_async/_runtime/owner.py", {"_this_host", "_started", "_exists"})
            # Nor is the working directory on one, which a relative path is taken from.
            function.can_block_in("flujo_async/backends/file.py", {"__init__"})
            # ``get_workflow_stats_sync`` is asked for by name: whoever calls it in an event loop waits there.
            function.can_block_in("flujo_async/abc/state_api.py", {"_in_a_thread"})
            function.can_block_in("flujo_async/backends/sqlite_look.py", {"look_now"})
            # A store is imported when it is first asked for, as modules are: once in a process, and its SQL with it.
            function.can_block_in("flujo_async/backends/sql/__init__.py", {"migrations", "queries"})
        yield


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nothing is freed in this test but what nobody refers to: no collection of circles comes by chance."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
