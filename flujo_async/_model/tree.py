"""The shape of encoded values."""

from __future__ import annotations

from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""A value as it is stored: a JSON tree, with typed tags where JSON has no type. Never changed in place."""

JsonObject: TypeAlias = "dict[str, Json]"
"""A JSON object."""
