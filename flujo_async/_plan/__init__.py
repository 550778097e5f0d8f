"""Definitions as data: steps, combinators, their checks, and the registry. Pure."""
