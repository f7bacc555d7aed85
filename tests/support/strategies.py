"""Hypothesis strategies for records, derived from the structs' own field types."""

import typing
from typing import Any

import msgspec
from hypothesis import strategies as st

from schemas.records import Record

_INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)
_INT32 = st.integers(min_value=-(2**31), max_value=2**31 - 1)
_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
_FLOAT = st.floats(allow_nan=False, width=64)
_INT32_FIELDS = frozenset({"partition", "revision", "rule_version", "shard"})


def records(record_type: type[Record]) -> st.SearchStrategy[Record]:
    """Any record of a type, at the extremes of what its schema can hold."""
    fields = {info.name: _of(info.type, info.name) for info in msgspec.structs.fields(record_type)}
    return st.builds(record_type, **fields)


def _of(kind: Any, name: str) -> st.SearchStrategy[Any]:
    options = typing.get_args(kind)
    if type(None) in options:
        return st.none() | _of(next(option for option in options if option is not type(None)), name)
    origin = typing.get_origin(kind)
    if origin is list:
        return st.lists(_of(options[0], name), max_size=4)
    if origin is dict:
        return st.dictionaries(_TEXT, _TEXT, max_size=4)
    if isinstance(kind, type) and issubclass(kind, Record):
        return records(kind)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: _TEXT,
        bytes: st.binary(max_size=40),
        float: _FLOAT,
        bool: st.booleans(),
        int: _INT32 if name in _INT32_FIELDS else _INT64,
    }
    return plain[kind]
