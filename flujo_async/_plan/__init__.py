"""Definitions as data: steps, combinators, their checks, and the registry. Pure."""

from flujo_async._plan.documents import Documents
from flujo_async._plan.pipeline import Chain

Chain.documents = Documents()
