"""The documents that every definition can be turned into. This module is what ``Chain`` has for its ``documents``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flujo_async._plan.export import document_of
from flujo_async._plan.export_reader import pipeline_of
from flujo_async._plan.mermaid import flowchart
from flujo_async._plan.pipeline import Chain, Pipeline, as_pipeline
from flujo_async._plan.yaml_text import yaml_text


def to_dict(chain: Chain[Any, Any]) -> dict[str, Any]:
    """Return a definition as plain JSON."""
    return document_of(as_pipeline(chain, "to_dict()"))


def to_yaml(chain: Chain[Any, Any]) -> str:
    """Return a definition as YAML."""
    return yaml_text(to_dict(chain))


def to_mermaid(chain: Chain[Any, Any]) -> str:
    """Return a definition as a flow chart."""
    return flowchart(as_pipeline(chain, "to_mermaid()"))


def from_dict(data: Mapping[str, Any], steps: Mapping[str, Any]) -> Pipeline[Any, Any]:
    """Return the definition of a document."""
    return pipeline_of(data, steps)
