"""JSON Schemas of the messages, from the pydantic models: what writers in other languages validate against."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from schemas.base import Message
from schemas.messages import MESSAGES, Feedback, InferenceResponse, Outcome

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TRUTH_FORMS = ("truth_index", "truth_label", "truth_one_hot", "truth_probabilities", "truth_value", "truth", "truths")
ANSWERS = ("probabilities", "value")

Schema = dict[str, Any]


class _Generator(GenerateJsonSchema):
    """Without a title for each field, which would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def message_schemas() -> dict[str, Schema]:
    """One self-contained schema (draft 2020-12) a message, by message name."""
    schemas = {}
    for model in MESSAGES:
        schema = model.model_json_schema(schema_generator=_Generator)
        for name, part in {model.__name__: schema, **schema.get("$defs", {})}.items():
            _add_rules(name, part)
        schemas[model.__name__] = {"$schema": DIALECT, "$id": schema_id(model), **schema}
    return schemas


def component_schemas() -> dict[str, Schema]:
    """The same schemas with their shared parts apart, each part once, for `components/schemas` of AsyncAPI."""
    models = [(model, "validation") for model in MESSAGES]
    template = "#/components/schemas/{model}"
    _, definitions = models_json_schema(models, ref_template=template, schema_generator=_Generator)  # type: ignore[arg-type]
    components: dict[str, Schema] = definitions["$defs"]
    for name, schema in components.items():
        _add_rules(name, schema)
    return components


def schema_id(model: type[Message]) -> str:
    """Identifier of the current version of a message's schema, such as `urn:modelwatch:InferencePair:1`."""
    return f"urn:modelwatch:{model.__name__}:{model.model_fields['schema_version'].default}"


def _add_rules(name: str, schema: Schema) -> None:
    """Add the rules between fields that pydantic checks in validators and therefore cannot export."""
    if name == Feedback.__name__:
        schema["oneOf"] = [_given(form) for form in TRUTH_FORMS]
    if name == InferenceResponse.__name__:
        expired = {"required": ["outcome"], "properties": {"outcome": {"const": Outcome.EXPIRED.value}}}
        schema |= {
            "if": expired,
            "then": {"properties": {answer: {"type": "null"} for answer in ANSWERS}},
            "else": {"oneOf": [_given(answer) for answer in ANSWERS]},
        }


def _given(field: str) -> Schema:
    return {"required": [field], "properties": {field: {"not": {"type": "null"}}}}
