"""Definitions as documents: what is written down is read back equal, whatever it is made of."""

import json
from datetime import timedelta
from enum import Enum
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from flujo_async import (
    Action,
    Depends,
    Pipeline,
    Retry,
    any_of,
    as_step,
    branch,
    child,
    graph,
    loop,
    map_each,
    parallel,
    sleep,
    step,
    wait_for,
    workflow,
)
from flujo_async._plan.yaml_text import yaml_text
from flujo_async.errors import DefinitionError


class Approval(BaseModel):
    by: str


class Color(Enum):
    RED = 1
    BLUE = 2


@step
async def fetch(value: Any) -> Any:
    return value


@step
def store(value: Any) -> Any:
    return value


@step(retry=Retry(max_attempts=3, base=timedelta(seconds=2), retry_on=(OSError, ValueError)), timeout=5, fallback=fetch)
async def charge(value: Any) -> Any:
    return value


@workflow(name="order", version="2.0.0")
async def order(value: Any) -> Any:
    return await fetch(value)


def is_done(value: Any) -> bool:
    return bool(value)


def pick(value: Any) -> Any:
    return value


@step
async def left() -> int:
    return 1


@step
async def right() -> int:
    return 2


@step
async def joined(
    a: Annotated[int, Depends(left, when=is_done)], b: Annotated[int, Depends(any_of(left, right))], bonus: int = 0
) -> Action:
    return Action("approve", a + b + bonus)


@step
async def publish(review: Annotated[Action, Depends(joined)]) -> Any:
    return review.value


@step
async def archive() -> None: ...


PIECES = {piece.name: piece for piece in (fetch, store, charge, order, left, right, joined, publish, archive)} | {
    "is_done": is_done,
    "pick": pick,
    "Approval": Approval,
    "Color.RED": Color.RED,
    "Color.BLUE": Color.BLUE,
}
APPROVED = graph(joined, {joined.on("approve"): publish, joined.on("reject"): [archive, publish]}, on_error="finish")

leaves = st.sampled_from(
    [
        fetch,
        store,
        charge,
        order,
        sleep(timedelta(seconds=1.5)),
        sleep(60),
        wait_for("approval", schema=Approval, prompt="Is it fine?", timeout=timedelta(days=3), default=None),
        wait_for("answer", schema=str, timeout=1, default={"by": ("nobody",)}),
        wait_for("color", timeout=1, default=Color.RED),
        wait_for("anything"),
        graph(left, right),
        graph(joined),
        APPROVED,
    ]
)
limits = st.fixed_dictionaries(
    {"max_concurrency": st.none() | st.integers(1, 9), "on_error": st.sampled_from(["cancel", "finish", "ignore"])}
)
keys = st.sampled_from([1, "a", None, True, 2.5, ("a", 1), b"raw", Color.RED, Color.BLUE, "a/b"])


def sequences(elements: Any) -> Any:
    def joined_up(parts: list[Any]) -> Any:
        chain = parts[0]
        for part in parts[1:]:
            try:
                chain = chain >> part
            except DefinitionError:  # two elements of one name, or types that do not fit
                continue
        return chain

    return st.lists(elements, min_size=1, max_size=3).map(joined_up)


def composites(parts: Any) -> Any:
    bodies = sequences(parts)
    named = st.lists(bodies, min_size=1, max_size=3, unique_by=lambda body: body.name)
    chosen = st.dictionaries(keys, bodies, min_size=1, max_size=3)
    return st.one_of(
        st.builds(lambda branches, options: parallel(*branches, **options), named, limits),
        st.builds(lambda body, options: map_each(body, **options), bodies, limits),
        st.builds(lambda cases, default: branch(pick, cases, default=default), chosen, st.none() | bodies),
        st.builds(lambda turns: loop(fetch >> store, until=is_done, max_iterations=turns), st.integers(1, 5)),
        st.builds(lambda body, name: as_step(body, name=name), bodies, st.sampled_from(["one", "two"])),
        st.builds(lambda body, name: child(body, name=name), bodies, st.sampled_from(["one", None])),
    )


pipelines = sequences(st.recursive(leaves, composites, max_leaves=6))


@given(pipelines)
def test_what_is_written_down_is_read_back_equal(chain: Any) -> None:
    data = chain.to_dict()
    assert data["schema"] == 1
    stored = json.loads(json.dumps(data, allow_nan=False))
    assert stored == data
    pipeline = Pipeline.from_dict(stored, {name: PIECES[name] for name in data["names"]})
    assert pipeline == Pipeline(chain.elements())
    assert pipeline.to_dict() == data
    assert pipeline.structure() == Pipeline(chain.elements()).structure()


@given(pipelines)
def test_everything_can_be_drawn(chain: Any) -> None:
    """Boxes are closed, and every arrow leads from a node to a node."""
    lines = [line.strip() for line in chain.to_mermaid().splitlines()]
    assert lines[0] == "flowchart TD"
    drawn = [line for line in lines if line.startswith("n") and " " not in line.partition('"')[0]]
    known = {line.partition("[")[0].partition("{")[0].partition("(")[0] for line in drawn}
    arrows = [line.split('"')[0] + line.split('"')[-1] for line in lines[1:] if "->" in line or "=>" in line]
    assert sum(line.startswith("subgraph ") for line in lines) == lines.count("end")
    for arrow in arrows:
        assert {arrow.split()[0], arrow.split()[-1]} <= known


def test_a_step_tells_its_options() -> None:
    [element] = charge.to_dict()["elements"]
    assert element == {
        "kind": "step",
        "step": "charge",
        "options": {
            "retry": {
                "max_attempts": 3,
                "base": 2.0,
                "factor": 2.0,
                "cap": 60.0,
                "jitter": 1.0,
                "retry_on": ["OSError", "ValueError"],
                "give_up_on": [],
            },
            "timeout": 5.0,
            "effect": "idempotent",
            "run_in": "loop",
            "fallback": "fetch",
        },
    }


def test_a_graph_tells_its_edges() -> None:
    data: Any = APPROVED.to_dict()
    [element] = data["elements"]
    assert [item["step"] for item in element["steps"]] == ["left", "right", "joined", "publish", "archive"]
    assert element["steps"][2]["depends"] == [
        {"parameter": "a", "on": ["left"], "when": "is_done"},
        {"parameter": "b", "on": ["left", "right"], "when": None},
    ]
    assert element["edges"] == [
        {"from": "joined", "action": "approve", "to": "publish"},
        {"from": "joined", "action": "reject", "to": "publish"},
        {"from": "joined", "action": "reject", "to": "archive"},
    ]
    assert element["on_error"] == "finish"
    assert data["names"] == ["left", "right", "joined", "publish", "archive"]


def test_different_things_of_one_name_are_numbered() -> None:
    other = step(lambda value: value, name="fetch")
    chain = as_step(fetch >> store, name="first") >> as_step(other >> store, name="second") >> fetch
    data = chain.to_dict()
    assert data["names"] == ["fetch", "store", "fetch@2"]
    given = {"fetch": fetch, "store": store, "fetch@2": other}
    assert Pipeline.from_dict(data, given) == chain
    assert Pipeline.from_dict(data, {**given, "fetch@2": fetch}) != chain


def test_a_method_is_one_thing_however_often_it_is_looked_up() -> None:
    class Limit:
        def is_reached(self, value: Any) -> bool:
            return bool(value)

    limit = Limit()
    chain = loop(fetch, until=limit.is_reached, max_iterations=2) >> loop(
        store, until=limit.is_reached, max_iterations=2
    )
    assert chain.to_dict()["names"] == ["is_reached", "fetch", "store"]


MISTAKES: list[tuple[Any, str]] = [
    ({"schema": 2, "names": [], "elements": []}, "schema 1; here: 2"),
    ({}, "schema 1; here: None"),
    ({"schema": 1, "names": ["fetch", "gone", "lost"], "elements": []}, "not given: 'gone', 'lost'"),
    ({"schema": 1, "names": [], "elements": [{"kind": "step", "step": "gone"}]}, "not given: 'gone'"),
    ({"schema": 1, "names": [], "elements": [{"kind": "step", "step": "pick"}]}, "'pick' is a step in the document"),
    ({"schema": 1, "names": [], "elements": [{"kind": "workflow", "workflow": "fetch"}]}, "'fetch' is a workflow"),
    ({"schema": 1, "names": [], "elements": [{"kind": "sleep"}]}, "not an element of a document"),
    ({"schema": 1, "names": [], "elements": [{"kind": "sleep", "duration": -1}]}, "not negative"),
    ({"schema": 1, "names": [], "elements": [{"kind": "teleport"}]}, "not an element of a document.*teleport"),
    ({"schema": 1, "names": [], "elements": ["fetch"]}, "not an element of a document: 'fetch'"),
    ({"schema": 1, "names": [], "elements": [{"kind": "map_each", "body": {}}]}, "not an element of a document"),
    ({"schema": 1, "names": [], "elements": {}}, "not an element of a document"),
    ({"schema": 1, "names": [], "elements": []}, "at least one step"),
    ({"schema": 1, "names": [], "elements": [{"kind": "block", "name": 1, "body": [{}]}]}, "not an element"),
]


@pytest.mark.parametrize(("data", "message"), MISTAKES)
def test_what_is_no_document_is_refused(data: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        Pipeline.from_dict(data, PIECES)


def test_steps_that_depend_on_others_than_the_document_says_are_refused() -> None:
    @step(name="joined")
    async def changed(a: Annotated[int, Depends(left)], b: Annotated[int, Depends(right)]) -> int:
        return a + b

    @step(name="joined")
    async def grown(a: Annotated[int, Depends(store)]) -> int:
        return a

    data = graph(joined).to_dict()
    with pytest.raises(DefinitionError, match="step 'joined' depends on other steps than the document says"):
        Pipeline.from_dict(data, {**PIECES, "joined": changed})
    with pytest.raises(DefinitionError, match="depend on steps that are not in the document"):
        Pipeline.from_dict(data, {**PIECES, "joined": grown})


def test_an_edge_to_nowhere_is_refused() -> None:
    data: Any = APPROVED.to_dict()
    data["elements"][0]["edges"][0]["to"] = "gone"
    with pytest.raises(DefinitionError, match=r"not an element of a document.*gone"):
        Pipeline.from_dict(data, PIECES)


class TestYaml:
    def test_a_pipeline_as_yaml(self) -> None:
        chain = map_each(fetch, max_concurrency=2)
        assert chain.to_yaml() == (
            "schema: 1\n"
            "names:\n"
            "  - fetch\n"
            "elements:\n"
            "  - kind: map_each\n"
            "    body:\n"
            "      - kind: step\n"
            "        step: fetch\n"
            "        options:\n"
            "          retry:\n"
            "            max_attempts: 1\n"
            "            base: 1.0\n"
            "            factor: 2.0\n"
            "            cap: 60.0\n"
            "            jitter: 1.0\n"
            "            retry_on:\n"
            "              - Exception\n"
            "            give_up_on: []\n"
            "          effect: idempotent\n"
            "          run_in: loop\n"
            "    max_concurrency: 2\n"
            "    on_error: cancel\n"
        )

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, "null"),
            (True, "true"),
            (-3, "-3"),
            (1e-5, "1.0e-05"),
            (1.5e-5, "1.5e-05"),
            (1e22, "1.0e+22"),
            ("word", "word"),
            ("two words", '"two words"'),
            ("", '""'),
            ("yes", '"yes"'),
            ("Null", '"Null"'),
            ("1", '"1"'),
            ('a "b" \\', '"a \\"b\\" \\\\"'),
            ("line\nbreak", '"line\\U0000000abreak"'),
            ("é 😀", '"é 😀"'),
            ("\u2028\x7f\ud800", '"\\U00002028\\U0000007f\\U0000d800"'),
            ([], "[]"),
            ({}, "{}"),
            ([[1], []], "- - 1\n- []"),
            ([{"a": [1, {"b": None}]}], "- a:\n    - 1\n    - b: null"),
            ({"on": {"a b": 1}}, '"on":\n  "a b": 1'),
        ],
    )
    def test_forms(self, value: Any, text: str) -> None:
        assert yaml_text(value) == text + "\n"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(json_values)
def test_a_parser_reads_yaml_as_it_was_written(value: Any) -> None:
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(yaml_text(value)) == value


def test_a_flow_chart() -> None:
    chain = branch(pick, {"fine": store, "<odd>": sleep(5)}) >> APPROVED
    assert chain.to_mermaid() == (
        "flowchart TD\n"
        '    n1{"pick"}\n'
        '    n2["store"]\n'
        '    n3(["sleep 5 s"])\n'
        '    subgraph n4["graph"]\n'
        '        n5["left"]\n'
        '        n6["right"]\n'
        '        n7["joined"]\n'
        '        n8["publish"]\n'
        '        n9["archive"]\n'
        "    end\n"
        '    n1 -->|"fine"| n2\n'
        '    n1 -->|"#60;odd#62;"| n3\n'
        '    n5 -->|"a when is_done"| n7\n'
        '    n5 -.->|"b"| n7\n'
        '    n6 -.->|"b"| n7\n'
        '    n7 -->|"review"| n8\n'
        '    n7 ==>|"approve or reject"| n8\n'
        '    n7 ==>|"reject"| n9\n'
        "    n2 --> n5\n"
        "    n2 --> n6\n"
        "    n3 --> n5\n"
        "    n3 --> n6\n"
    )
