"""The language of queries, against a plain reading of it in Python."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from ipclusterz.core.message import Status
from ipclusterz.store import QueryError
from ipclusterz.store.keys import GROUPS, KEYS, Kind, Shape
from ipclusterz.store.query import compile_query
from tests.store.helpers import NOON, OTHER, UUID, Desk, began, ended


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    """Ten tasks: of two clients, finished and not, failed and labelled."""
    with Desk(None, max_age=1e12) as made:
        made.store.note(
            begun=[
                *(began(i, label="night" if i % 2 else "") for i in range(6)),
                *(began(i, client=2, fn="fit") for i in range(100, 104)),
            ],
            ended=[
                *(ended(i, engine=i % 4, received=NOON + 100 + i) for i in range(4)),
                ended(4, engine=-1, status=Status.ABORTED, error=("TaskAborted", "by you")),
                ended(100, client=2, engine=3, status=Status.ERROR, error=("ValueError", "9")),
            ],
            payloads=[(2 << 40 | 101, 0, b"work")],
            outputs=[(1 << 40, 1, "hello "), (1 << 40, 1, "there"), (1 << 40, 2, "oh")],
            resubmitted=[(1 << 40 | 4, f"{UUID}_5")],
        )
        yield made


def found(desk: Desk, query: Any) -> set[str]:
    return {r["msg_id"] for r in desk.ask("query", query, ["msg_id"])}


ONE = [f"{UUID}_{i}" for i in range(6)]
TWO = [f"{OTHER}_{i}" for i in range(100, 104)]
ALL = {*ONE, *TWO}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ALL),
        (None, ALL),
        ({"msg_id": ONE[3]}, {ONE[3]}),
        ({"msg_id": {"$in": [ONE[1], TWO[1], "nobody_7", "rubbish"]}}, {ONE[1], TWO[1]}),
        ({"msg_id": {"$nin": ONE}}, set(TWO)),
        ({"msg_id": {"$ne": ONE[0]}}, ALL - {ONE[0]}),
        ({"msg_id": "rubbish"}, set()),
        ({"msg_id": f"{UUID}_007"}, set()),
        ({"msg_id": {"$gte": OTHER}}, set(TWO)),
        ({"client_uuid": OTHER}, set(TWO)),
        ({"client_uuid": {"$ne": OTHER}}, set(ONE)),
        ({"client_uuid": "nobody"}, set()),
        ({"client_uuid": {"$ne": "nobody"}}, ALL),
        ({"client_uuid": {"$in": [UUID, OTHER]}}, ALL),
        ({"engine_id": 3}, {ONE[3], TWO[0]}),
        ({"engine_id": 3.0}, {ONE[3], TWO[0]}),
        ({"engine_id": {"$gt": 0, "$lt": 3}}, {ONE[1], ONE[2]}),
        ({"engine_id": {"$lte": 1}}, {ONE[0], ONE[1]}),
        ({"engine_id": {"$mod": [2, 1]}}, {ONE[1], ONE[3], TWO[0]}),
        ({"engine_id": None}, {ONE[4], ONE[5], *TWO[1:]}),
        ({"engine_id": {"$ne": None}}, {*ONE[:4], TWO[0]}),
        ({"engine_id": {"$not": {"$gt": 0}}}, {ONE[0], ONE[4], ONE[5], *TWO[1:]}),
        ({"engine_id": {"$in": [0, None]}}, {ONE[0], ONE[4], ONE[5], *TWO[1:]}),
        ({"engine_id": {"$nin": [0, None]}}, {*ONE[1:4], TWO[0]}),
        ({"engine_id": {"$nin": [0]}}, ALL - {ONE[0]}),
        ({"engine_id": {"$in": []}}, set()),
        ({"engine_id": {"$nin": []}}, ALL),
        ({"engine_uuid": "e3"}, {ONE[3], TWO[0]}),
        ({"engine_host": "host1"}, {ONE[1], ONE[3], TWO[0]}),
        ({"completed": None}, {ONE[5], *TWO[1:]}),
        ({"completed": {"$exists": True}, "status": "ok"}, set(ONE[:4])),
        ({"received": {"$exists": False}}, {ONE[5], *TWO[1:]}),
        ({"submitted": {"$lt": NOON + 2}}, {ONE[0], ONE[1]}),
        ({"submitted": {"$gte": datetime.fromtimestamp(NOON + 102, UTC)}}, {*TWO[2:]}),
        ({"submitted": {"$lt": "2023-11-14T22:13:21+00:00"}}, {ONE[0]}),
        ({"submitted": {"$in": [NOON, NOON + 1]}}, {ONE[0], ONE[1]}),
        ({"submitted": {"$gt": float("inf")}}, set()),
        ({"status": "aborted"}, {ONE[4]}),
        ({"status": {"$in": ["ok", "error"]}}, {*ONE[:4], TWO[0]}),
        ({"status": {"$ne": "ok"}}, {ONE[4], ONE[5], *TWO}),
        ({"status": None}, {ONE[5], *TWO[1:]}),
        ({"queue": "task"}, ALL),
        ({"queue": "direct"}, set()),
        ({"op": "apply"}, ALL),
        ({"label": "night"}, {ONE[1], ONE[3], ONE[5]}),
        ({"label": {"$all": ["night", "night"]}}, {ONE[1], ONE[3], ONE[5]}),
        ({"label": {"$all": ["night", "day"]}}, set()),
        ({"label": {"$all": []}}, set()),
        ({"function": "fit"}, set(TWO)),
        ({"function": "0102"}, set(ONE)),
        ({"ename": "ValueError"}, {TWO[0]}),
        ({"error": "ValueError: 9"}, {TWO[0]}),
        ({"evalue": {"$exists": 1}}, {ONE[4], TWO[0]}),
        ({"stdout": "hello there"}, {ONE[0]}),
        ({"stderr": {"$exists": True}}, {ONE[0]}),
        ({"resubmitted": f"{UUID}_5"}, {ONE[4]}),
        ({"buffers": {"$exists": True}}, {TWO[1]}),
        ({"result_buffers": {"$exists": True}}, set()),
        ({"attempt": {"$eq": 1}}, {*ONE[:5], TWO[0]}),
        ({"$or": [{"engine_id": 0}, {"status": "error"}]}, {ONE[0], TWO[0]}),
        ({"$and": [{"engine_id": 3}, {"client_uuid": UUID}]}, {ONE[3]}),
        ({"$nor": [{"client_uuid": UUID}, {"engine_id": 3}]}, set(TWO[1:])),
        ({"$not": {"label": "night"}}, ALL - {ONE[1], ONE[3], ONE[5]}),
        ({"$not": {"$not": {"engine_id": 3}}}, {ONE[3], TWO[0]}),
        ({"$or": [{"engine_id": 0}, {}]}, ALL),
        ({"label": "night", "$or": [{"engine_id": 1}, {"engine_id": None}]}, {ONE[1], ONE[5]}),
        ({"label": "x' OR 1 --"}, set()),
        ({"label": {"$in": ['"]) OR 1 --', "night"]}}, {ONE[1], ONE[3], ONE[5]}),
    ],
    ids=lambda value: repr(value)[:60] if not isinstance(value, set) else "",
)
def test_a_query_finds(desk: Desk, query: Any, expected: set[str]) -> None:
    assert found(desk, query) == expected


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"engine_idd": 1}, "did you mean 'engine_id'?"),
        ({"complete": None}, "did you mean 'completed'?"),
        ({"zzz": None}, "there are msg_id"),
        ({7: 1}, "there is no key 7"),
        ({"1; DROP TABLE tasks": 1}, "there is no key"),
        ({"engine_id": {"$gr": 1}}, "'\\$gt'"),
        ({"engine_id": {"$where": 1}}, "there is no operator '\\$where'"),
        ({"engine_id": {"gt": 1}}, "did you mean '\\$gt'"),
        ({"engine_id": {5: 1}}, "there is no operator 5"),
        ({"engine_id": {}}, "empty"),
        ({"engine_id": "three"}, "a whole number, not with 'three'"),
        ({"engine_id": True}, "a whole number"),
        ({"engine_id": 1 << 70}, "a whole number"),
        ({"engine_id": [1]}, "a whole number"),
        ({"engine_id": {"$in": 3}}, "takes a list, not 3"),
        ({"engine_id": {"$in": ["x"]}}, "a whole number"),
        ({"engine_id": {"$all": [1, "x"]}}, "a whole number"),
        ({"engine_id": {"$mod": [0, 1]}}, "divisor"),
        ({"label": {"$mod": [2, 1]}}, "is for whole numbers"),
        ({"engine_id": {"$gt": None}}, "use \\$exists"),
        ({"engine_id": {"$not": 3}}, "or use \\$ne"),
        ({"engine_id": {"$exists": "yes"}}, "True or False"),
        ({"status": "okay"}, "did you mean 'ok'?"),
        ({"status": {"$gt": "ok"}}, "has no order"),
        ({"submitted": "yesterday"}, "no ISO time"),
        ({"submitted": b"x"}, "a time"),
        ({"submitted": float("nan")}, "a time"),
        ({"label": 3}, "compared with text"),
        ({"header": 3}, "ask for msg_id, client_uuid"),
        ({"buffers": b"x"}, "\\$exists only"),
        ({"$gt": 3}, "inside a key"),
        ({"$orr": []}, "did you mean '\\$or'"),
        ({"$or": []}, "at least one query"),
        ({"$or": {"engine_id": 3}}, "takes a list"),
        ({"$or": [3]}, "a query is a dict"),
        ({"$not": 3}, "a query is a dict"),
        ([("engine_id", 3)], "a query is a dict"),
        ({"submitted": {"$in": [1.0] * 501}}, "more than 500"),
    ],
    ids=lambda value: repr(value)[:60] if not isinstance(value, set) else "",
)
def test_a_query_that_makes_no_sense_says_what_was_meant(query: Any, text: str) -> None:
    with pytest.raises(QueryError, match=text):
        compile_query(query)


def test_depth_and_size_have_limits() -> None:
    deep: Any = {}
    for _ in range(40):
        deep = {"$not": deep}
    with pytest.raises(QueryError, match="nested"):
        compile_query(deep)
    inner: Any = {"$gt": 1}
    for _ in range(40):
        inner = {"$not": inner}
    with pytest.raises(QueryError, match="nested"):
        compile_query({"attempt": inner})
    with pytest.raises(QueryError, match="use .in with a list"):
        compile_query({"$or": [{"attempt": i} for i in range(600)]})


def test_many_names_in_a_list_are_one_condition(desk: Desk) -> None:
    many = [f"{UUID}_{i}" for i in range(50_000)]
    assert found(desk, {"msg_id": {"$in": many}}) == set(ONE)


def test_nothing_of_a_value_reaches_the_statement() -> None:
    evil = "'); DROP TABLE tasks; --"
    for key in KEYS.values():
        if key.kind not in (Kind.TEXT, Kind.TASK):
            continue
        for operator in ("$eq", "$ne", "$gt", "$in", "$nin", "$all"):
            value = [evil] if operator in ("$in", "$nin", "$all") else evil
            text, _ = compile_query({key.name: {operator: value}})
            assert "DROP" not in text


def test_negation_is_two_valued(desk: Desk) -> None:
    """For every pair of conditions: what a query does not find, its negation does."""
    leaves: list[dict[str, Any]] = [
        {"engine_id": {"$gt": 1}},
        {"engine_id": None},
        {"label": "night"},
        {"status": {"$in": ["ok", None]}},
        {"completed": {"$lt": NOON + 2}},
        {"client_uuid": "nobody"},
        {"msg_id": "nobody_1"},
    ]
    for one, two in itertools.product(leaves, repeat=2):
        for word in ("$and", "$or", "$nor"):
            query = {word: [one, {"$not": two}]}
            assert found(desk, {"$not": query}) == ALL - found(desk, query)
        both = found(desk, one) & found(desk, two)
        assert found(desk, {"$and": [one, two]}) == both
        assert found(desk, {"$or": [one, two]}) == found(desk, one) | found(desk, two)


def test_every_key_can_be_shown_and_its_statement_is_valid(desk: Desk) -> None:
    names = [*KEYS, *GROUPS]
    records = desk.ask("query", {"msg_id": ONE[0]}, names)
    assert list(records[0]) == names
    (record,) = records
    assert record["stdout"] == "hello there" and record["stderr"] == "oh"
    assert record["completed"] == datetime.fromtimestamp(NOON + 0.2, UTC)
    assert record["function"] == "0102"
    assert record["buffers"] == []
    assert record["result_metadata"]["engine_uuid"] == "e0"
    assert record["header"]["msg_id"] == ONE[0]


def test_the_msg_id_is_always_shown_and_buffers_only_if_asked(desk: Desk) -> None:
    (record,) = desk.ask("query", {"msg_id": TWO[1]}, "label")
    assert record == {"msg_id": TWO[1], "label": None}
    (record,) = desk.ask("query", {"msg_id": TWO[1]})
    assert "buffers" not in record and "result_buffers" not in record
    (record,) = desk.ask("query", {"msg_id": TWO[1]}, ["buffers"])
    assert record["buffers"] == [b"work"]


def test_an_unknown_key_to_show_is_named() -> None:
    with pytest.raises(QueryError, match="did you mean 'label'"):
        Shape(["lable"])


def test_conditions_are_valid_sql_for_all_keys_and_operators(desk: Desk) -> None:
    values = {Kind.TEXT: "x", Kind.TASK: "x_1", Kind.WHOLE: 1, Kind.TIME: 1.5}
    for key in KEYS.values():
        if key.kind is Kind.SHOWN:
            continue
        value: Any = values.get(key.kind) or next(iter(key.words or {}))
        for operator in ("$eq", "$ne", "$lt", "$lte", "$gt", "$gte"):
            if key.kind is Kind.WORD and operator[1] in "lg":
                continue
            found(desk, {key.name: {operator: value}})
        for operator in ("$in", "$nin", "$all"):
            found(desk, {key.name: {operator: [value, None]}})
        for flag in (True, False):
            found(desk, {key.name: {"$exists": flag}})
    assert sqlite3.sqlite_version_info >= (3, 35)
