"""What is not installed is not imported, and missed by its name only when it is asked for."""

import subprocess
import sys

import pytest

from tests.runtime.children import ROOT

HIDING = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_instruments_that_are_not_used_import_nothing() -> None:
    code = """if True:
        import sys
        from flujo_async.telemetry import Instrument, LoggingInstrument
        loaded = {name.partition(".")[0] for name in sys.modules}
        print(loaded & {"opentelemetry", "prometheus_client", "rich", "sqlite3"})
    """
    assert run(code) == "set()\n"


@pytest.mark.parametrize(
    ("name", "needed", "extra"),
    [
        ("OpenTelemetryInstrument", "opentelemetry", "otel"),
        ("PrometheusCollector", "prometheus_client", "prometheus"),
        ("ProgressInstrument", "rich", "progress"),
    ],
)
def test_a_missing_extra_is_named(name: str, needed: str, extra: str) -> None:
    code = HIDING.format(hidden=[needed]) + f"from flujo_async.telemetry import {name}"
    said = f"ImportError: {name} needs {needed}: pip install 'flujo-async[{extra}]'"
    assert run(code).splitlines()[-1] == said


def test_every_name_is_there() -> None:
    from flujo_async import telemetry

    for name in telemetry.__all__:
        assert getattr(telemetry, name).__name__ == name
        assert name in dir(telemetry)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = telemetry.nothing
