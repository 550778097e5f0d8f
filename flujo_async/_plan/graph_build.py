"""How a graph is put together from its steps, and what is checked on the way."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, cast, get_args, get_origin

from flujo_async._plan.assignable import alternatives, describe_type, is_assignable
from flujo_async._plan.depends import Action, On
from flujo_async._plan.graph import Dependency, Gate, Graph, GraphNode, GraphOnError, WhenSkipped
from flujo_async._plan.pipeline import Chain
from flujo_async._plan.step import Step
from flujo_async.errors import DefinitionError

Targets: TypeAlias = Chain[Any, Any] | Sequence[Chain[Any, Any]]
Edges: TypeAlias = Mapping[On, Targets]

_AnyStep: TypeAlias = Step[Any, Any, Any]
_Gates: TypeAlias = dict[_AnyStep, list[On]]
_Condition: TypeAlias = dict[str, frozenset[str]]
"""The actions that must have been chosen, by reviewing step, for a node to run."""


def graph(*steps: Chain[Any, Any] | Edges, on_error: GraphOnError = "cancel") -> Chain[Mapping[str, Any] | None, Any]:
    """Run steps as soon as what they depend on is there, side by side where nothing stands between them.

    What a step depends on stands in its annotations, as ``Annotated[int, Depends(fetch)]``. Any other parameter takes
    the entry of its name from the input, which is a mapping. The output is that of the step that nothing comes
    after; of several it is a ``dict`` name → output. A step that was skipped gives ``None``.

    Args:
        *steps: the steps; those that they depend on are found by themselves. The last argument may be a mapping of
            the edges that an ``Action`` chooses: ``{review.on("approve"): publish, review.on("reject"): archive}``.
        on_error: what the failure of a step does to those that do not depend on it: ``"cancel"`` them, or let them
            ``"finish"``. Those that do depend on it are cancelled either way.

    Raises:
        DefinitionError: no steps, two of one name, a cycle, an output that does not fit a parameter, an action that
            the reviewing step does not know, or a step that can never run.
    """
    if on_error not in get_args(GraphOnError):
        raise DefinitionError(f"graph(): on_error is one of {', '.join(get_args(GraphOnError))}, not {on_error!r}")
    given, edges = _arguments(steps)
    gates = _read_gates(edges)
    roots = [*given, *gates]
    if not roots:
        raise DefinitionError("graph() needs at least one step")
    _check_reviewers(gates, frozenset(_in_order(roots, _depended)))
    order = _in_order(roots, lambda step: [*_depended(step), *(_as_step(on.step) for on in gates.get(step, ()))])
    _check_names(order)
    nodes = tuple(_node(step, gates.get(step, ())) for step in order)
    _check_reachable(nodes)
    return Graph(nodes=nodes, on_error=on_error)


def _arguments(arguments: tuple[Chain[Any, Any] | Edges, ...]) -> tuple[list[_AnyStep], Edges]:
    edges: Edges = {}
    if arguments and isinstance(arguments[-1], Mapping):
        edges, arguments = arguments[-1], arguments[:-1]
    return [_as_step(step) for step in arguments], edges


def _as_step(value: object) -> _AnyStep:
    if isinstance(value, Step):
        return value  # pyright: ignore[reportUnknownVariableType] -- parameters are not kept at run time
    what = f"the element {value.name!r}, which is none" if isinstance(value, Chain) else repr(value)
    raise DefinitionError(f"graph() takes steps, not {what}; its edges are a mapping, and the last argument")


def _read_gates(edges: Edges) -> _Gates:
    gates: _Gates = {}
    for on, targets in edges.items():
        if not isinstance(cast("object", on), On):
            raise DefinitionError(
                f"the edges of graph() are a mapping step.on(action) → step, not {on!r} → {targets!r}"
            )
        for target in targets if isinstance(targets, tuple | list) else (targets,):
            ways = gates.setdefault(_as_step(target), [])
            if on not in ways:
                ways.append(on)
    return gates


def _depended(step: _AnyStep) -> list[_AnyStep]:
    return [_as_step(other) for depends in step.signature.dependencies.values() for other in depends.steps]


def _in_order(roots: Iterable[_AnyStep], before: Callable[[_AnyStep], Iterable[_AnyStep]]) -> list[_AnyStep]:
    """Return the roots and all that comes before them, everything after what comes before it."""
    done: dict[_AnyStep, None] = {}
    for root in roots:
        path: dict[_AnyStep, Iterator[_AnyStep]] = {} if root in done else {root: iter(before(root))}
        while path:
            step = next(reversed(path))
            following = next((other for other in path[step] if other not in done), None)
            if following is None:
                done[step] = None
                del path[step]
            elif following in path:
                names = [other.name for other in path]
                circle = [*names[names.index(following.name) :], following.name]
                raise DefinitionError(f"the graph has a cycle: {' → '.join(reversed(circle))}")
            else:
                path[following] = iter(before(following))
    return list(done)


def _check_reviewers(gates: _Gates, known: frozenset[_AnyStep]) -> None:
    for ways in gates.values():
        for on in ways:
            reviewer = _as_step(on.step)
            if reviewer not in known:
                raise DefinitionError(
                    f"{on!r}: {reviewer.name!r} is no step of the graph; add it: graph({reviewer.name}, …)"
                )
            names = _action_names(reviewer.signature.output_type)
            if names is not None and on.action not in names:
                raise DefinitionError(
                    f"{on!r}: step {reviewer.name!r} has no action {on.action!r}; there are {', '.join(sorted(names))}"
                )


def _action_names(annotation: Any) -> set[str] | None:
    """Return the actions that an annotation names; ``None`` where it leaves them open."""
    names: set[str] = set()
    for member in alternatives(annotation):
        if get_origin(member) is Action and get_origin(get_args(member)[0]) is Literal:
            names |= set(get_args(get_args(member)[0]))
        elif get_origin(member) is Action or is_assignable(Action, member):
            return None
    return names or None


def _check_names(steps: Sequence[_AnyStep]) -> None:
    named: dict[str, _AnyStep] = {}
    for step in steps:
        if named.setdefault(step.name, step) is not step:
            raise DefinitionError(
                f"two different steps of one graph are called {step.name!r}; rename one: @step(name=…)"
            )


def _node(step: _AnyStep, ways: Sequence[On]) -> GraphNode:
    actions: dict[str, tuple[str, ...]] = {}
    for on in ways:
        actions[on.step.name] = (*actions.get(on.step.name, ()), on.action)
    _check_fallbacks(step)
    dependencies = [_dependency(step, name, actions) for name in step.signature.dependencies]
    return GraphNode(step, tuple(dependencies), tuple(Gate(name, chosen) for name, chosen in actions.items()))


def _check_fallbacks(made: _AnyStep) -> None:
    """Check that what a step is given fills the steps that stand in for it: by name, or as the input if it has one."""
    given, has_input = set[str | None](made.signature.parameters), False
    while (fallback := made.policy.fallback) is not None:
        its, own_input = fallback.signature, made.signature.input_parameter
        has_input = has_input or own_input in given
        given = (given if its.has_kwargs else given & its.parameters.keys()) - {own_input}
        filled = given | its.defaults | ({its.input_parameter} if has_input else set[str | None]())
        if missing := [name for name in its.parameters if name not in filled]:
            raise DefinitionError(
                f"step {made.name!r}: its fallback {fallback.name!r} gets the same arguments in this graph, by their "
                f"names, and none is {missing[0]!r}"
            )
        made = fallback


def _dependency(step: _AnyStep, parameter: str, reviewers: Container[str]) -> Dependency:
    depends, annotation = step.signature.dependencies[parameter], step.signature.parameters[parameter]
    for other in depends.steps:
        output = _as_step(other).signature.output_type
        is_narrowed = depends.when is not None or other.name in reviewers
        if not _fits(output, annotation, is_narrowed=is_narrowed):
            raise DefinitionError(
                f"step {other.name!r} returns {describe_type(output)}, "
                f"but the parameter {parameter!r} of step {step.name!r} takes {_describe(annotation)}"
            )
    names = tuple(other.name for other in depends.steps)
    return Dependency(parameter, names, depends.when, _when_skipped(step, parameter))


def _fits(output: Any, annotation: Any, *, is_narrowed: bool) -> bool:
    """Return whether an output may fill a parameter; a condition or an action lets through only some of its types."""
    members = alternatives(output) if is_narrowed else (output,)
    return any(is_assignable(member, annotation) for member in members)


def _describe(annotation: Any) -> str:
    return describe_type(get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation)


def _when_skipped(step: _AnyStep, parameter: str) -> WhenSkipped:
    if is_assignable(None, step.signature.parameters[parameter]):
        return "none"
    return "default" if parameter in step.signature.defaults else "skip"


def _check_reachable(nodes: Sequence[GraphNode]) -> None:
    conditions: dict[str, _Condition] = {}
    for node in nodes:
        condition = _condition(node, conditions)
        for reviewer, actions in condition.items():
            if not actions:
                raise DefinitionError(
                    f"step {node.name!r} can never run: what it needs stands on different actions of step {reviewer!r}"
                )
        conditions[node.name] = condition


def _condition(node: GraphNode, conditions: Mapping[str, _Condition]) -> _Condition:
    needed = [
        _either([conditions[name] for name in dependency.steps])
        for dependency in node.dependencies
        if dependency.when_skipped == "skip"
    ]
    if node.gates:
        needed.append(
            _either([_both(conditions[gate.step], {gate.step: frozenset(gate.actions)}) for gate in node.gates])
        )
    condition: _Condition = {}
    for other in needed:
        condition = _both(condition, other)
    return condition


def _both(one: _Condition, other: _Condition) -> _Condition:
    return {name: one.get(name, actions) & actions for name, actions in other.items()} | {
        name: actions for name, actions in one.items() if name not in other
    }


def _either(conditions: Sequence[_Condition]) -> _Condition:
    """Return what is certain whichever of the conditions holds."""
    common = set(conditions[0]).intersection(*conditions[1:])
    return {name: frozenset[str]().union(*(condition[name] for condition in conditions)) for name in common}
