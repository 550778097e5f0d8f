from pathlib import Path

import pytest

from tests.crash.faults.shim import compiled


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled shim."""
    return compiled(tmp_path_factory.mktemp("shim"))
