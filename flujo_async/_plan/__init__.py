"""Definitions as data: steps, combinators, their checks, and the registry. Pure."""

from flujo_async._plan import documents
from flujo_async._plan.pipeline import Chain

Chain.documents = documents
