"""Large values that stand beside the log, named by their digests."""

from __future__ import annotations

import re
from typing import Final

_NAMED: Final = re.compile(rb'"\$":"blob","v":"([0-9a-f]{64})"')


def digests_in(body: bytes) -> set[str]:
    """Return the digests of the blobs that the body of a record names."""
    return {digest.decode() for digest in _NAMED.findall(body)}
