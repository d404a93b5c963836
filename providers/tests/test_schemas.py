"""What becomes of a tool's schema, for each part of JSON Schema that upstreams know."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.dialects.schemas import MOST_PARTS, cleaned, is_strict, parameters

PROFILES = ("openai", "gemini", "minimal")


def root(**properties: Any) -> Any:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("schema", "clean"),
    [
        ({}, root()),
        ({"$schema": "s", "$id": "i", **root(a={"$comment": "c", "type": "string"})}, root(a={"type": "string"})),
        ({"type": "object", "required": None}, root()),
        ({"type": "object", "properties": None}, root()),
        ({"type": "array", "properties": {"a": {"type": "string"}}}, root(a={"type": "string"})),
        ({**root(a={"type": "string"}), "required": ["a"]}, {**root(a={"type": "string"}), "required": ["a"]}),
        (
            {"allOf": [root(a={"type": "string"}), {"properties": {"b": {"type": "number"}}}], "required": ["a"]},
            root(a={"type": "string"}, b={"type": "number"}),
        ),
        ({"$ref": "#"}, root()),
        ({"$ref": "https://elsewhere/schema"}, root()),
    ],
)
def test_the_root_is_an_object_with_properties_everywhere(profile: str, schema: Any, clean: Any) -> None:
    assert cleaned(schema, profile) == clean


@pytest.mark.parametrize("profile", PROFILES)
def test_properties_may_be_called_like_keywords(profile: str) -> None:
    names = ("$schema", "$id", "$comment", "title", "default", "not", "if", "properties", "required", "enum", "$ref")
    schema = root(**{name: {"type": "string"} for name in names}, inner=root(title={"type": "string"}))
    assert cleaned(schema, profile) == schema


@pytest.mark.parametrize(
    ("schema", "clean"),
    [
        (root(n={"type": ["string", "null"], "exclusiveMinimum": 0}), None),
        (root(a={"enum": [{"$id": 1}], "default": {"$schema": 2}, "const": {"$comment": 3}}), None),
        ({**root(a={"$ref": "#/$defs/a"}), "$defs": {"a": {"type": "string"}}}, None),
        (
            {
                "anyOf": [{"properties": {"a": {}}, "required": ["a"]}, {"$ref": "#/$defs/b"}],
                "required": ["a"],
                "$defs": {"b": {"properties": {"b": {}}}},
            },
            {**root(a={}, b={}), "$defs": {"b": {"properties": {"b": {}}}}},
        ),
        (
            {"$ref": "#/$defs/t", "$defs": {"t": {**root(a={"$ref": "#/$defs/t"}), "required": ["a"]}}},
            {
                **root(a={"$ref": "#/$defs/t"}),
                "required": ["a"],
                "$defs": {"t": {**root(a={"$ref": "#/$defs/t"}), "required": ["a"]}},
            },
        ),
    ],
)
def test_most_of_json_schema_stays_for_openai(schema: Any, clean: Any) -> None:
    assert cleaned(schema) == (clean or schema)


@pytest.mark.parametrize(
    ("given", "narrow"),
    [
        ({"const": "a"}, {"enum": ["a"], "type": "string"}),
        ({"const": 3}, {"enum": ["3"], "type": "string"}),
        ({"enum": [1, 2, True]}, {"enum": ["1", "2", "true"], "type": "string"}),
        ({"enum": ["a", None], "type": ["string", "null"]}, {"enum": ["a"], "type": "string", "nullable": True}),
        ({"enum": [None]}, {"type": "string", "nullable": True}),
        ({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 9}, {"minimum": 0, "maximum": 9}),
        ({"type": "integer", "exclusiveMinimum": True, "minimum": 4}, {"minimum": 4}),
        (
            {
                **{"type": "string", "default": 1, "examples": [1], "title": "t", "not": {}, "if": {}, "then": {}},
                **{"else": {}, "contentEncoding": "base64", "$anchor": "x", "unevaluatedItems": False},
            },
            {"type": "string"},
        ),
        (
            {
                **{"type": "object", "additionalProperties": False, "patternProperties": {"x": {}}},
                **{"propertyNames": {}, "dependentRequired": {"a": ["b"]}, "dependentSchemas": {}, "dependencies": {}},
            },
            {"type": "object"},
        ),
        ({"type": "string", "format": "date-time"}, {"type": "string", "format": "date-time"}),
        ({"type": "string", "format": "uri"}, {"type": "string"}),
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
        ({"type": "null"}, {"type": "string", "nullable": True}),
        ({"type": "array"}, {"type": "array", "items": {"type": "string"}}),
        ({"type": "array", "items": {}}, {"type": "array", "items": {"type": "string"}}),
        ({"type": "array", "items": [{"type": "number"}, {}]}, {"type": "array", "items": {"type": "number"}}),
        ({"prefixItems": [{"type": "number"}]}, {"type": "array", "items": {"type": "number"}}),
        ({}, {"type": "string"}),
        (True, {"type": "string"}),
        ({"description": "d"}, {"type": "string", "description": "d"}),
        ({"minimum": 1}, {"type": "number", "minimum": 1}),
        ({"properties": {"a": {}}}, root(a={"type": "string"})),
        (
            {"type": "object", "properties": {"a": {}}, "required": ["a", "gone", 3]},
            {**root(a={"type": "string"}), "required": ["a"]},
        ),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, {"type": "integer", "nullable": True}),
        (
            {**root(a={"type": "string"}), "anyOf": [{"required": ["a"]}]},
            root(a={"type": "string"}),
        ),
        (
            {"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}}], "description": "d"},
            {**root(a={"type": "string"}), "description": "d"},
        ),
        ({"$ref": "#/$defs/word", "description": "d"}, {"type": "string", "description": "d"}),
        ({"$ref": "#/$defs/gone"}, {"type": "string"}),
        ({"$ref": "#/$defs/loop"}, {"type": "object"}),
        (
            {"$ref": "#/$defs/tree"},
            root(children={"type": "array", "items": {"type": "object"}}),
        ),
    ],
)
@pytest.mark.parametrize("profile", ["gemini", "minimal"])
def test_what_gemini_does_not_know_is_said_in_what_it_knows(given: Any, narrow: Any, profile: str) -> None:
    definitions = {
        "word": {"type": "string", "description": "a word"},
        "loop": {"$ref": "#/$defs/loop"},
        "tree": root(children={"type": "array", "items": {"$ref": "#/$defs/tree"}}),
    }
    clean = cleaned({**root(p=given), "$defs": definitions}, profile)
    assert clean == root(p={"type": narrow.get("type", "integer"), **narrow})


@pytest.mark.parametrize(
    ("given", "gemini", "minimal"),
    [
        (
            {"oneOf": [{"type": "string"}, {"type": "integer"}], "description": "d"},
            {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            {"type": "string", "description": "d"},
        ),
        (
            {"type": ["integer", "string", "null"]},
            {"anyOf": [{"type": "integer", "nullable": True}, {"type": "string", "nullable": True}]},
            {"type": "integer", "nullable": True},
        ),
        (
            {"anyOf": [{"type": "null"}, root(a={}), {"type": "string"}]},
            {"anyOf": [{**root(a={"type": "string"}), "nullable": True}, {"type": "string", "nullable": True}]},
            {**root(a={"type": "string"}), "nullable": True},
        ),
    ],
)
def test_choices_between_schemas_stand_alone_and_the_smallest_servers_get_the_first(
    given: Any, gemini: Any, minimal: Any
) -> None:
    assert cleaned(root(p=given), "gemini") == root(p=gemini)
    assert cleaned(root(p=given), "minimal") == root(p=minimal)


def nested(depth: int) -> Any:
    return root(a=nested(depth - 1)) if depth else {"type": "string"}


def test_the_smallest_servers_get_ten_levels() -> None:
    told = json.dumps(cleaned(nested(20), "minimal"))
    assert told.count('"a"') == 11
    assert json.dumps(cleaned(nested(20), "gemini")).count('"a"') == 20


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    "loop",
    [
        {"$ref": "#/$defs/a"},
        {"anyOf": [{"allOf": [{"$ref": "#/$defs/a"}]}]},
        {"allOf": [{"$ref": "#/$defs/a"}]},
        {"oneOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]},
        {"items": {"allOf": [{"$ref": "#/$defs/a"}]}},
        {"properties": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}},
    ],
)
def test_references_to_oneself_end_somewhere(loop: Any, profile: str) -> None:
    schema = {**root(p={"$ref": "#/$defs/a"}), "$defs": {"a": loop}}
    assert set(cleaned(schema, profile)["properties"]) == {"p"}
    assert "properties" in cleaned({"$ref": "#/$defs/a", "$defs": {"a": loop}}, profile)
    assert "properties" in cleaned({**loop, "$defs": {"a": loop}}, profile)


def test_references_that_multiply_end_somewhere() -> None:
    definitions = {f"d{n}": root(**{f"p{i}": {"$ref": f"#/$defs/d{n + 1}"} for i in range(8)}) for n in range(12)}
    clean = cleaned({**root(a={"$ref": "#/$defs/d0"}), "$defs": definitions}, "gemini")
    assert json.dumps(clean).count('"type"') <= 2 * MOST_PARTS


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {}, "additionalProperties": False, "required": []}, True),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": False, "required": ["a"]}, True),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": False, "required": []}, False),
        ({"type": "object", "properties": {}}, False),
        ({"type": "array", "items": {"type": "object", "properties": {}}}, False),
    ],
)
def test_strict_is_kept_where_the_schema_fits_it(schema: Any, strict: bool) -> None:
    assert is_strict(schema) is strict


def test_a_schema_is_cleaned_once_for_each_profile() -> None:
    tool = {"name": "t", "input_schema": root(a={"type": "string", "title": "A"})}
    assert parameters(tool) is parameters(dict(tool))
    assert parameters(tool) != parameters(tool, "gemini")


WORDS = ("a", "title", "$id", "type", "$ref", "properties", "items", "default", "anyOf", "enum", "null")
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.sampled_from(WORDS), st.just("#/$defs/a"))
KINDS = st.sampled_from(["object", "string", "array", "integer", "null", "nonsense"])


def keywords(inner: Any) -> Any:
    named = st.dictionaries(st.sampled_from(WORDS), inner, max_size=3)
    lists = st.lists(inner, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.one_of(KINDS, st.lists(KINDS, max_size=3), VALUES),
            "properties": st.one_of(named, VALUES),
            "$defs": named,
            "items": st.one_of(inner, lists),
            "prefixItems": lists,
            "anyOf": st.one_of(lists, VALUES),
            "oneOf": lists,
            "allOf": st.one_of(lists, VALUES),
            "$ref": st.sampled_from(["#", "#/$defs/a", "#/properties/a", "#/$defs/title", "x", 3]),
            "enum": st.one_of(st.lists(VALUES, max_size=3), VALUES),
            "const": VALUES,
            "required": st.one_of(st.lists(VALUES, max_size=3), VALUES),
            "exclusiveMinimum": VALUES,
            "minimum": st.integers(),
            "format": VALUES,
            "nullable": VALUES,
            "title": VALUES,
            "description": st.text(max_size=3),
            "additionalProperties": st.one_of(inner, st.booleans()),
            "not": inner,
        },
    )


SCHEMAS = keywords(st.recursive(VALUES, keywords, max_leaves=12))


@settings(max_examples=400, deadline=None)
@given(SCHEMAS, st.sampled_from(PROFILES))
def test_whatever_comes_in_is_cleaned_once_and_for_all_and_keeps_its_names(schema: Any, profile: str) -> None:
    clean = cleaned(schema, profile)
    assert cleaned(clean, profile) == clean
    assert clean["type"] == "object"
    given_names = schema.get("properties") if isinstance(schema.get("properties"), dict) else {}
    assert set(given_names) <= set(clean["properties"])
    if profile != "openai":
        assert "$ref" not in keywords_in(clean)
        obeys_gemini(clean)
    if not {"anyOf", "oneOf", "allOf", "$ref"} & set(schema):
        assert set(given_names) == set(clean["properties"])


def keywords_in(schema: Any) -> set[str]:
    """Of a narrowed schema, properties' names left out."""
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    inner += [schema["items"]] if "items" in schema else []
    return set(schema).union(*map(keywords_in, inner))


def obeys_gemini(schema: Any) -> None:
    for value in schema.get("properties", {}).values():
        assert "type" in value or set(value) == {"anyOf"}
        obeys_gemini(value)
    if schema.get("type") == "array":
        obeys_gemini(schema["items"])
    assert "anyOf" not in schema or set(schema) == {"anyOf"}
    assert all(isinstance(value, str) for value in schema.get("enum", ()))
    assert isinstance(schema.get("type", ""), str)
    assert schema.get("type") != "null"
