"""The OpenAPI document says all there is to say, with examples that hold against its own schemas."""

from typing import Any

import jsonschema_rs
import pytest
from pydantic import TypeAdapter

from service.api.app import create_app
from service.api.submit import parse_options
from service.job import UpscaleOptions
from service.settings import Settings

DOCUMENT: dict[str, Any] = create_app(Settings()).openapi()
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
OPTIONS = OPERATIONS["POST /v1/upscale"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]


def contents(operation: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
    return [(kind, content) for body in bodies for kind, content in body.get("content", {}).items()]


def holds(value: Any, schema: dict[str, Any]) -> None:
    jsonschema_rs.validate({**schema, "components": DOCUMENT["components"]}, value)


def test_every_path_is_there():
    assert OPERATIONS.keys() == {
        *("POST /v1/upscale", "GET /v1/models", "GET /livez", "GET /readyz", "GET /metrics"),
        *("GET /v1/jobs/{job_id}", "DELETE /v1/jobs/{job_id}"),
        *("GET /v1/jobs/{job_id}/result", "GET /v1/jobs/{job_id}/events"),
    }


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_path_says_what_it_does_with_what_and_shows_it(name: str):
    operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["description"]
    for parameter in operation.get("parameters", []):
        assert parameter.get("description"), parameter["name"]
        shown = [parameter["example"]] if "example" in parameter else parameter["schema"]["examples"]
        for value in shown:
            holds(value, parameter["schema"])
    for status, answer in operation["responses"].items():
        assert answer["description"]
        for header in answer.get("headers", {}).values():
            holds(header["example"], header["schema"])
        if status in {"429", "503"}:
            assert "Retry-After" in answer["headers"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_examples_are_of_their_schemas(name: str):
    shown = 0
    for kind, content in contents(OPERATIONS[name]):
        values = [each["value"] for each in content.get("examples", {}).values()]
        values += [content["example"]] if "example" in content else []
        for value in values if kind.endswith("json") else []:
            holds(value, content.get("schema", {}))
        shown += len(values)
    assert shown


def test_problems_are_examples_of_what_the_service_says():
    for name, operation in OPERATIONS.items():
        for status, answer in operation["responses"].items():
            for slug, example in (
                answer.get("content", {}).get("application/problem+json", {}).get("examples", {}).items()
            ):
                value = example["value"]
                assert (str(value["status"]), value["type"].rpartition(":")[2]) == (status, slug), name
        if name != "GET /livez":
            assert operation["responses"]["default"]


def test_every_option_is_there_and_its_example_is_taken():
    in_query = {each["name"] for each in OPERATIONS["POST /v1/upscale"]["parameters"] if each["in"] == "query"}
    assert in_query == UpscaleOptions.model_fields.keys() == OPTIONS.keys() - {"image"}
    parse_options([(name, str(schema["example"])) for name, schema in OPTIONS.items() if name != "image"])


def test_headers_and_keys_are_documented():
    headers = {
        each["name"]
        for operation in OPERATIONS.values()
        for each in operation.get("parameters", [])
        if each["in"] == "header"
    }
    assert {name.lower() for name in headers} == {"prefer", "idempotency-key", "last-event-id"}
    schemes = DOCUMENT["components"]["securitySchemes"].values()
    assert {(each["type"], each.get("scheme", each.get("name"))) for each in schemes} == {
        ("http", "bearer"),
        ("apiKey", "X-API-Key"),
    }
    for name, operation in OPERATIONS.items():
        assert ("security" in operation) is ("/v1/" in name)


def test_the_models_example_is_one():
    example = OPERATIONS["GET /v1/models"]["responses"]["200"]["content"]["application/json"]["example"]
    from service.api.views import ModelsView

    assert TypeAdapter(ModelsView).validate_python(example)
