"""What a caller asks of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Start a run, or resume the one with this id.

    Attributes:
        input: the input; ``...`` where the caller left it out.
        context: the context to start with; ``None`` is the default context, or the recorded one.
    """

    run_id: str
    input: Any | EllipsisType = ...
    context: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
