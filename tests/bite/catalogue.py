"""All deliberate bugs."""

from __future__ import annotations

from tests.bite import in_documents, in_file, in_growth, in_heads, in_memory, in_runtime, in_sqlite, in_telemetry
from tests.bite.bug import Bug

BUGS: tuple[Bug, ...] = (
    *in_heads.BUGS,
    *in_memory.BUGS,
    *in_file.BUGS,
    *in_sqlite.BUGS,
    *in_documents.BUGS,
    *in_runtime.BUGS,
    *in_growth.BUGS,
    *in_telemetry.BUGS,
)
