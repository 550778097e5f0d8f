"""Graphs are checked when they are built, and what follows from what has ended is a table."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypedDict, cast

import pytest

import flujo_async
from flujo_async import Action, Step, map_each, parallel, step
from flujo_async._codec.values import Codec
from flujo_async._model.state import StepStatus
from flujo_async._plan.graph import Graph
from flujo_async._plan.graph_progress import Progress
from flujo_async.errors import DefinitionError, InvalidArgument

FAILED, CANCELLED, SKIPPED, SUCCEEDED = (
    StepStatus.FAILED,
    StepStatus.CANCELLED,
    StepStatus.SKIPPED,
    StepStatus.SUCCEEDED,
)


# Type checkers would find most of the mistakes below before the package does.
Depends: Any = flujo_async.Depends
any_of: Any = flujo_async.any_of
graph: Any = flujo_async.graph


def built(*arguments: Any, **options: Any) -> Graph:
    made = graph(*arguments, **options)
    assert isinstance(made, Graph)
    return made


def names(*arguments: Any) -> list[str]:
    return [node.name for node in built(*arguments).nodes]


def is_positive(number: int) -> bool:
    return number > 0


@step
async def fetch_a(url: str) -> int:
    return len(url)


@step
async def fetch_b() -> int:
    return 2


@step
async def maybe() -> int | None:
    return None


@step
async def text() -> str:
    return "text"


@step
async def total(
    a: Annotated[int, Depends(fetch_a)], b: Annotated[int, Depends(fetch_b, when=is_positive)], bonus: int
) -> int:
    return a + b + bonus


@step
async def best(quote: Annotated[int, Depends(any_of(fetch_a, fetch_b))]) -> int:
    return quote


@step
async def review(total: Annotated[int, Depends(total)]) -> Action:
    return Action("approve" if total else "reject")


@step
async def known(a: Annotated[int, Depends(fetch_a)]) -> Action[Literal["approve", "reject"]] | str:
    return Action("approve")


@step
async def publish() -> str:
    return "published"


@step
async def archive() -> str:
    return "archived"


EDGES = {review.on("approve"): publish, review.on("reject"): archive}


class TestBuilding:
    @pytest.mark.parametrize(
        ("made", "order"),
        [
            (lambda: names(fetch_a), ["fetch_a"]),
            (lambda: names(total), ["fetch_a", "fetch_b", "total"]),
            (lambda: names(total, fetch_a), ["fetch_a", "fetch_b", "total"]),
            (lambda: names(fetch_b, total), ["fetch_b", "fetch_a", "total"]),
            (lambda: names(best, total), ["fetch_a", "fetch_b", "best", "total"]),
            (lambda: names(review, EDGES), ["fetch_a", "fetch_b", "total", "review", "publish", "archive"]),
            (lambda: names(archive, review, EDGES)[-2:], ["archive", "publish"]),
            (lambda: names(review, {review.on("a"): (publish, archive)})[-2:], ["publish", "archive"]),
            (lambda: names(fetch_a, fetch_a), ["fetch_a"]),
        ],
    )
    def test_steps_are_found_by_what_depends_on_them(self, made: Callable[[], list[str]], order: list[str]) -> None:
        """Everything stands after what comes before it, in the order of the arguments."""
        assert made() == order

    def test_equal_graphs_are_equal(self) -> None:
        assert graph(review, EDGES) == graph(review, dict(EDGES))
        assert graph(review) != graph(review, EDGES)
        assert graph(total) != graph(total, on_error="finish")

    def test_a_graph_is_an_element_like_any_other(self) -> None:
        @step
        async def show(n: int) -> str:
            return str(n)

        @step
        async def prepare(n: int) -> dict[str, Any]:
            return {"url": "x" * n, "bonus": 1}

        pipeline = prepare >> graph(total) >> show
        assert pipeline.labels == ("prepare", "graph", "show")
        assert (map_each(graph(total)) >> map_each(show)).labels == ("map_each@1", "map_each@2")

    def test_a_graph_of_steps_without_entries_ignores_its_input(self) -> None:
        assert graph(fetch_b).inlets() == []
        assert graph(total).inlets()[0].type == Mapping[str, Any]

    def test_types_outside_of_a_graph_are_checked(self) -> None:
        @step
        async def number() -> int:
            return 1

        with pytest.raises(DefinitionError, match=r"step 'number' returns int, but step 'graph' takes Mapping"):
            assert number >> graph(total)
        with pytest.raises(DefinitionError, match=r"step 'total' returns int, but step 'upper' takes str"):
            assert graph(total) >> upper

    def test_several_sinks_make_a_dictionary(self) -> None:
        assert [node.name for node in built(review, EDGES).sinks()] == ["publish", "archive"]
        assert graph(review, EDGES).outlets()[0].type == dict[str, Any]

    def test_the_fingerprint_tells_edges_apart(self) -> None:
        structures = [
            graph(review).structure(),
            graph(review, {review.on("approve"): publish}).structure(),
            graph(review, {review.on("reject"): publish}).structure(),
            graph(total).structure(),
        ]
        assert all(structures.count(structure) == 1 for structure in structures)


@step
async def upper(text: str) -> str:
    return text.upper()


def with_annotation(annotation: Any, *, default: bool = False) -> Any:
    """Return a graph of one step whose parameter is annotated so."""

    async def taker(value):  # type: ignore[no-untyped-def]
        return value

    async def taker_with_default(value=0):  # type: ignore[no-untyped-def]
        return value

    function = taker_with_default if default else taker
    function.__annotations__["value"] = annotation
    return graph(step(function, name="taker"))


class TestMistakes:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: graph(), "at least one step"),
            (lambda: graph({}), "at least one step"),
            (lambda: graph(text >> upper), "takes steps, not the element"),
            (lambda: graph(parallel(fetch_a)), "takes steps, not the element 'parallel'"),
            (lambda: graph(len), "takes steps, not <built-in"),
            (lambda: graph(review, EDGES, publish), "its edges are a mapping, and the last"),
            (lambda: graph(review, {"approve": publish}), r"a mapping step.on.action. → step, not 'approve'"),
            (lambda: graph(review, {review.on("approve"): len}), "takes steps, not <built-in"),
            (lambda: graph(fetch_a, on_error="ignore"), "one of cancel, finish, not 'ignore'"),
            (lambda: any_of(fetch_a), "at least two different steps, to choose from; here: fetch_a"),
            (lambda: any_of(), "here: none"),
            (lambda: any_of(fetch_a, fetch_a), "here: fetch_a, fetch_a"),
            (lambda: any_of(fetch_a, fetch_b, fetch_a), "here: fetch_a, fetch_b, fetch_a"),
            (lambda: any_of(fetch_a, len), "takes steps, not <built-in.*decorate it"),
            (lambda: Depends(len), "takes steps, not <built-in"),
            (lambda: Depends(fetch_a, when=True), "plain function of the output, not True"),
            (lambda: Depends(fetch_a, when=fetch_b), "plain function of the output, not <step fetch_b>"),
            (lambda: Depends(fetch_a, when=fetch_b.function), "what has to be awaited belongs into a step"),
            (lambda: review.on(""), "a name that is not empty, not ''"),
            (lambda: review.on(cast("str", None)), "a name that is not empty, not None"),
            (lambda: graph(publish, {archive.on("a"): publish}), r"archive\.on\('a'\): 'archive' is no step of"),
            (lambda: graph(known, {known.on("aprove"): publish}), "no action 'aprove'; there are approve, reject"),
            (lambda: graph(review, {review.on("again"): fetch_a}), "cycle: review → fetch_a → total → review"),
            (lambda: graph(review, {review.on("again"): review}), "cycle: review → review"),
            (
                lambda: with_annotation(Annotated[str, Depends(fetch_a)]),
                "'fetch_a' returns int, but the parameter",
            ),
            (lambda: with_annotation(Annotated[int, Depends(maybe)]), r"'maybe' returns int \| None, but the par"),
            (
                lambda: with_annotation(Annotated[int, Depends(any_of(fetch_a, text))]),
                "'text' returns str, but the par",
            ),
            (
                lambda: with_annotation(Annotated[int, Depends(parallel(fetch_a))]),
                "takes steps, not the element",
            ),
        ],
    )
    def test_a_mistake_is_named(self, make: Any, message: str) -> None:
        with pytest.raises(DefinitionError, match=message):
            make()

    @pytest.mark.parametrize(
        "annotation",
        [
            Annotated[int | None, Depends(maybe)],
            Annotated[int, Depends(maybe, when=bool)],
            Annotated[float, Depends(fetch_a)],
            Annotated[int, Depends(fetch_a)] | None,  # pyright: ignore[reportOperatorIssue]
            Annotated[int | str, Depends(any_of(fetch_a, text))],
            Annotated[Any, Depends(text)],
            Annotated[Action, Depends(review)],
        ],
    )
    def test_what_fits_passes(self, annotation: Any) -> None:
        """A condition may let through only some of the types of an output, such as those that are not ``None``."""
        assert with_annotation(annotation)

    @pytest.mark.parametrize(
        ("other", "missing"),
        [
            (step(lambda x: x, name="other"), "x"),
            (step(lambda x, a: a, name="other"), "x"),
            (step(lambda a, *, y: a, name="other"), None),  # refused where its step is made
            (step(lambda a: a, name="other"), ""),
            (step(lambda x=1: x, name="other"), ""),
            (step(lambda **rest: rest, name="other"), ""),
            (step(lambda *rest: rest, name="other"), ""),
            (step(lambda: 1, name="other"), ""),
            (step(lambda a: a, name="other", fallback=step(lambda z: z, name="last")), ""),
            (step(lambda: 1, name="other", fallback=step(lambda z: z, name="last")), "z"),
        ],
    )
    def test_a_fallback_is_filled_by_name(self, other: Any, missing: str | None) -> None:
        """Or as the input, where its step takes an entry of the input."""

        def build() -> Any:
            @step(fallback=other)
            async def made(a: Annotated[int, Depends(fetch_b)]) -> Any:
                return a

            return graph(made)

        if missing == "":
            assert build()
        else:
            with pytest.raises(DefinitionError, match=f"gets the same arguments.*none is '{missing or 'y'}'"):
                build()

    def test_a_fallback_is_given_the_entry_that_its_step_takes(self) -> None:
        @step(fallback=step(lambda x: x, name="other"))
        async def made(b: Annotated[int, Depends(fetch_b)], entry: int) -> Any:
            return b + entry

        assert graph(made)

    def test_two_steps_of_one_name_are_refused(self) -> None:
        @step(name="fetch_a")
        async def other() -> int:
            return 1

        with pytest.raises(DefinitionError, match="two different steps of one graph are called 'fetch_a'"):
            graph(total, other)

    def test_a_step_that_can_never_run_is_refused(self) -> None:
        @step
        async def undo(done: Annotated[str, Depends(publish)]) -> str:
            return done

        with pytest.raises(DefinitionError, match=r"'undo' can never run.*different actions of step 'review'"):
            graph(review, {review.on("approve"): publish, review.on("reject"): undo})
        graph(review, {review.on("approve"): (publish, undo)})

    def test_a_step_that_can_do_without_an_input_is_reachable(self) -> None:
        @step
        async def report(done: Annotated[str | None, Depends(publish)]) -> str:
            return done or ""

        graph(review, {review.on("approve"): publish, review.on("reject"): report})

    def test_ways_that_meet_again_are_reachable(self) -> None:
        @step
        async def either(done: Annotated[str, Depends(any_of(publish, archive))]) -> str:
            return done

        graph(review, either, EDGES)
        graph(review, {**EDGES, review.on("hold"): upper, review.on("drop"): upper})

    def test_a_step_that_depends_on_others_stands_in_a_graph_only(self) -> None:
        with pytest.raises(DefinitionError, match="its parameter 'a', which depends on a step of a graph"):
            assert fetch_b >> total


class TestInput:
    @pytest.mark.parametrize("given", [{"url": "x", "bonus": 1}, {"url": "x", "bonus": None, "more": 1}])
    def test_an_input_with_all_entries_passes(self, given: Any) -> None:
        graph(total).check_input(given)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "lacks 'url' for step 'fetch_a', 'bonus' for step 'total'$"),
            ({"url": "x"}, "lacks 'bonus' for step 'total'$"),
            (None, "lacks 'url' for step 'fetch_a', 'bonus' for step 'total'$"),
            ("world", "'bonus' for step 'total', and is a mapping, not 'world'"),
        ],
    )
    def test_a_missing_entry_is_named(self, given: Any, message: str) -> None:
        with pytest.raises(DefinitionError, match=message):
            graph(total).check_input(given)

    def test_a_default_stands_in_for_an_entry(self) -> None:
        @step
        async def greet(name: str = "world") -> str:
            return name

        graph(greet).check_input({})
        assert graph(greet).inlets()[0].type == Mapping[str, Any] | None

    def test_the_input_reaches_a_graph_at_the_front(self) -> None:
        for chain in (graph(total) >> maybe, parallel(graph(total), maybe), parallel(graph(total) >> maybe)):
            with pytest.raises(DefinitionError, match="lacks"):
                chain.check_input({})

    def test_a_typed_dict_may_flow_into_a_graph(self) -> None:
        class Order(TypedDict):
            url: str
            bonus: int

        @step
        async def order() -> Order:
            return {"url": "x", "bonus": 1}

        assert order >> graph(total)


class TestActions:
    def test_an_action_can_be_stored_by_every_codec(self) -> None:
        for action in (Action("approve"), Action("reject", {"why": (1, 2)})):
            assert Codec().decode(Codec().encode(action)) == action

    def test_an_action_has_a_name(self) -> None:
        for name in ("", None):
            with pytest.raises(InvalidArgument, match="a name that is not empty"):
                Action(name)  # type: ignore[type-var]


def status(graph: Graph, **ended: StepStatus | str) -> Progress:
    """Return a graph of which some nodes have ended, in this order; text is the action that was chosen."""
    progress = Progress(graph)
    for place, (name, how) in enumerate(ended.items()):
        match how:
            case StepStatus.FAILED | StepStatus.CANCELLED:
                progress.lose(name, how)
            case StepStatus.SKIPPED:
                progress.skip(name)
            case _:
                progress.succeed(name, place, None if isinstance(how, StepStatus) else how)
    return progress


def node(name: str, *parameters: Any) -> Step[Any, Any]:
    """Return a step that depends on others: ``dep``, ``opt``, or groups of them."""

    async def run(**_: Any) -> Any: ...

    named = [
        inspect.Parameter(f"p{place}", inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
        for place, annotation in enumerate(parameters)
    ]
    run.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    run.__annotations__ = {item.name: item.annotation for item in named}
    return step(run, name=name)


A, B, C = node("a"), node("b"), node("c")
AND = node("x", Annotated[int, Depends(A)], Annotated[int, Depends(B)])
OPTIONAL = node("x", Annotated[int | None, Depends(A)], Annotated[int | None, Depends(B)])
HALF = node("x", Annotated[int, Depends(A)], Annotated[int | None, Depends(B)])
OR = node("x", Annotated[int, Depends(any_of(A, B))])
MIXED = node("x", Annotated[int, Depends(any_of(A, B))], Annotated[int, Depends(C)])


class TestVerdicts:
    @pytest.mark.parametrize(
        ("target", "ended", "verdict"),
        [
            (AND, {}, "wait"),
            (AND, {"a": SUCCEEDED}, "wait"),
            (AND, {"a": SUCCEEDED, "b": SUCCEEDED}, "run"),
            (AND, {"a": FAILED}, "cancel"),
            (AND, {"a": CANCELLED, "b": SUCCEEDED}, "cancel"),
            (AND, {"a": SKIPPED}, "wait"),
            (AND, {"a": SKIPPED, "b": SUCCEEDED}, "skip"),
            (AND, {"a": SKIPPED, "b": SKIPPED}, "skip"),
            (AND, {"a": SKIPPED, "b": FAILED}, "cancel"),
            (OPTIONAL, {"a": SKIPPED, "b": SUCCEEDED}, "run"),
            (OPTIONAL, {"a": SKIPPED, "b": SKIPPED}, "skip"),
            (HALF, {"a": SKIPPED, "b": SUCCEEDED}, "skip"),
            (HALF, {"a": SUCCEEDED, "b": SKIPPED}, "run"),
            (OR, {}, "wait"),
            (OR, {"a": SUCCEEDED}, "run"),
            (OR, {"b": SUCCEEDED, "a": FAILED}, "run"),
            (OR, {"a": FAILED}, "wait"),
            (OR, {"a": SKIPPED}, "wait"),
            (OR, {"a": FAILED, "b": CANCELLED}, "cancel"),
            (OR, {"a": FAILED, "b": SKIPPED}, "cancel"),
            (OR, {"a": SKIPPED, "b": SKIPPED}, "skip"),
            (MIXED, {"a": SUCCEEDED}, "wait"),
            (MIXED, {"a": FAILED, "c": FAILED}, "cancel"),
            (MIXED, {"b": SUCCEEDED, "c": SUCCEEDED}, "run"),
        ],
    )
    def test_what_is_done_with_a_node(self, target: Any, ended: dict[str, StepStatus], verdict: str) -> None:
        made = built(A, B, C, target)
        assert status(made, **ended).verdict(made.nodes[-1]) == verdict

    @pytest.mark.parametrize(
        ("ended", "verdict"),
        [
            ({}, "wait"),
            ({"a": "go"}, "wait"),
            ({"a": "go", "b": SUCCEEDED}, "run"),
            ({"a": "stay", "b": "go"}, "run"),
            ({"a": "go", "b": SKIPPED}, "run"),
            ({"a": "stay", "b": SUCCEEDED}, "skip"),
            ({"a": SUCCEEDED, "b": SKIPPED}, "skip"),
            ({"a": "go", "b": FAILED}, "cancel"),
        ],
    )
    def test_one_edge_that_is_taken_is_enough(self, ended: dict[str, Any], verdict: str) -> None:
        ways: Any = {A.on("go"): C, B.on("go"): C, A.on("stay"): node("other")}
        made = built(A, B, ways)
        assert status(made, **ended).verdict(next(item for item in made.nodes if item.name == "c")) == verdict

    def test_the_first_success_of_a_group_counts(self) -> None:
        made = built(OR)
        [group] = made.nodes[-1].dependencies
        assert status(made, b=SUCCEEDED, a=SUCCEEDED).source(group) == "b"
        assert status(made, a=SUCCEEDED, b=SUCCEEDED).source(group) == "a"
        assert status(made, a=FAILED).source(group) is None


class TestFailures:
    OTHER = node("other", Annotated[int, Depends(A)])
    BEHIND = node("behind", Annotated[int, Depends(A)])
    RESCUED = node("rescued", Annotated[int, Depends(any_of(BEHIND, B))])

    @pytest.mark.parametrize(
        ("given", "ended", "failed"),
        [
            ([AND], {"a": FAILED, "x": CANCELLED}, ["a"]),
            ([A], {"a": FAILED}, ["a"]),
            ([OR], {"a": FAILED}, []),
            ([OR], {"a": FAILED, "b": SUCCEEDED, "x": SUCCEEDED}, []),
            ([OR], {"b": SUCCEEDED, "x": FAILED, "a": FAILED}, ["x"]),
            ([OR], {"a": FAILED, "b": FAILED, "x": CANCELLED}, ["a", "b"]),
            ([OR], {"b": FAILED, "a": SKIPPED, "x": CANCELLED}, ["b"]),
            ([OR, OTHER], {"a": FAILED, "other": CANCELLED}, ["a"]),
            ([RESCUED], {"a": FAILED, "behind": CANCELLED}, []),
            ([RESCUED], {"behind": FAILED, "a": SUCCEEDED}, []),
            ([RESCUED], {"a": FAILED, "behind": CANCELLED, "b": FAILED, "rescued": CANCELLED}, ["a", "b"]),
            ([RESCUED, OTHER], {"a": FAILED, "behind": CANCELLED, "other": CANCELLED}, ["a"]),
        ],
    )
    def test_a_failure_counts_where_nothing_makes_up_for_it(
        self, given: list[Any], ended: dict[str, StepStatus], failed: list[str]
    ) -> None:
        assert status(built(*given), **ended).unexcused() == failed
