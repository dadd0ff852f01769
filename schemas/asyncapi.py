"""The AsyncAPI 3.0.0 document: every topic, what may be on it, and who sends and receives it.

Sources: AsyncAPI specification 3.0.0; its Kafka bindings, version 0.5.0.
"""

from collections.abc import Iterator
from typing import Any

from schemas.json_schema import Schema, component_schemas
from schemas.letters import OURS
from schemas.request_formats import REQUEST_FORMATS, RequestFormat
from schemas.services import SERVICES, Service
from schemas.topics import REQUESTS, TOPICS, Topic, topic_configs

CONTRACT_VERSION = "1.0.0"
"""Version of the contracts as a whole; a message's own is its `schema_version`."""
KAFKA_BINDING = "0.5.0"
DEFAULT_PARTITIONS = 4
"""Default of the setting MODELWATCH_KAFKA_PARTITIONS, with which `modelwatch setup` creates topics."""

BINARY: Schema = {"type": "string", "format": "binary"}
HEADER_MEANINGS = {
    "content-type": "Format of the value",
    "model": "Which model is asked or has answered",
    "deadline": "RFC 3339 time, or seconds since the epoch; after it the answer is `expired`, without a prediction",
    "traceparent": "W3C trace context, carried on to the pair and to every result",
    "ce_specversion": "CloudEvents version",
    "ce_id": "Id of the event; of a request without a key, its id",
    "ce_type": "Kind of event, such as modelwatch.inference.pair.v1",
    "ce_source": "Who sent it, such as /modelwatch/inference",
    "ce_time": "RFC 3339 time of the event; of a request, when it was sent",
    "topic": "Topic of the refused message",
    "partition": "Its partition",
    "offset": "Its offset",
    "stage": "Service that refused it",
    "reason": "Why, from the closed list in docs/messages.md",
    "error": "What exactly was wrong, at most 1024 characters",
    "time": "RFC 3339 time of the refusal",
}
EVENT_HEADERS = ("ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "content-type", "model")
REQUEST_HEADERS = ("content-type", "model", "deadline", "traceparent", "ce_id", "ce_time")


def asyncapi_document() -> dict[str, Any]:
    """The whole document; every `$ref` in it points into the document itself."""
    formats = {f"{form.name}Payload": form.schema for form in REQUEST_FORMATS}
    return {
        "asyncapi": "3.0.0",
        "id": "urn:modelwatch:contracts",
        "info": _info(),
        "defaultContentType": "application/json",
        "servers": {"kafka": _server()},
        "channels": {topic.name: _channel(topic, config) for topic, config in topic_configs()},
        "operations": dict(_operations()),
        "components": {
            "messages": {name: message for topic in TOPICS for name, message in _messages(topic)},
            "schemas": component_schemas() | formats | _header_schemas(),
        },
    }


def _info() -> dict[str, Any]:
    services = "\n".join(f"- {service.name}: {service.description}" for service in SERVICES)
    return {
        "title": "modelwatch",
        "version": CONTRACT_VERSION,
        "description": f"Topics of the monitoring pipeline. Each operation is tagged with its service:\n\n{services}",
        "tags": [{"name": service.name, "description": service.description} for service in SERVICES],
    }


def _server() -> dict[str, Any]:
    return {
        "host": "{bootstrap}",
        "protocol": "kafka",
        "description": "The Kafka brokers",
        "variables": {"bootstrap": {"default": "127.0.0.1:9092", "description": "KAFKA_BOOTSTRAP_SERVERS"}},
    }


def _channel(topic: Topic, config: dict[str, str]) -> dict[str, Any]:
    return {
        "address": topic.name,
        "description": f"{topic.description}. Key: {topic.key}. Written by: {topic.written_by}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name, _ in _messages(topic)},
        "bindings": {
            "kafka": {
                "partitions": DEFAULT_PARTITIONS,
                "topicConfiguration": {
                    "cleanup.policy": config["cleanup.policy"].split(","),
                    "retention.ms": int(config["retention.ms"]),
                    "max.message.bytes": int(config["max.message.bytes"]),
                },
                "bindingVersion": KAFKA_BINDING,
            }
        },
    }


def _messages(topic: Topic) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and definition of each kind of message that may be on the topic."""
    if topic is REQUESTS:
        for form in REQUEST_FORMATS:
            yield form.name, _request_message(form, topic)
    elif topic.message is None:
        yield "DeadLetter", _message("DeadLetter", topic, "application/octet-stream", "DeadLetterHeaders", BINARY)
    else:
        name = topic.message.__name__
        sent_by_callers = any(topic in service.sends for service in SERVICES if service.name == "callers")
        headers = "CallerHeaders" if sent_by_callers else "EventHeaders"
        payload = {"$ref": f"#/components/schemas/{name}"}
        yield name, _message(name, topic, "application/json", headers, payload)


def _request_message(form: RequestFormat, topic: Topic) -> dict[str, Any]:
    payload = {"$ref": f"#/components/schemas/{form.name}Payload"}
    message = _message(form.name, topic, form.content_type, "RequestHeaders", payload)
    message["summary"] = form.summary
    if form.example is not None:
        message["examples"] = [{"name": "one", "payload": form.example, "headers": {"content-type": form.content_type}}]
    return message


def _message(name: str, topic: Topic, content_type: str, headers: str, payload: Schema) -> dict[str, Any]:
    return {
        "name": name,
        "title": name,
        "contentType": content_type,
        "headers": {"$ref": f"#/components/schemas/{headers}"},
        "payload": payload,
        "bindings": {
            "kafka": {"key": {"type": "string", "description": topic.key}, "bindingVersion": KAFKA_BINDING},
        },
    }


def _header_schemas() -> dict[str, Schema]:
    optional_events = _headers((*EVENT_HEADERS, "traceparent"), required=())
    request = _headers(REQUEST_HEADERS, required=("content-type",))
    request["properties"]["content-type"]["enum"] = sorted({form.content_type for form in REQUEST_FORMATS})
    request["patternProperties"] = {"^attribute-": {"type": "string", "maxLength": 256}}
    return {
        "RequestHeaders": request,
        "CallerHeaders": optional_events,
        "EventHeaders": _headers((*EVENT_HEADERS, "traceparent"), required=EVENT_HEADERS),
        "DeadLetterHeaders": _headers(OURS, required=OURS),
    }


def _headers(names: tuple[str, ...], required: tuple[str, ...]) -> Schema:
    """An object of text headers; further ones are allowed, as the original ones of a dead letter are."""
    properties = {name: {"type": "string", "description": HEADER_MEANINGS[name]} for name in names}
    schema: Schema = {"type": "object", "properties": properties}
    return schema | ({"required": list(required)} if required else {})


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for service in SERVICES:
        for topic in service.receives:
            yield _operation(service, "receive", topic)
        for topic in service.sends:
            yield _operation(service, "send", topic)


def _operation(service: Service, action: str, topic: Topic) -> tuple[str, dict[str, Any]]:
    channel = f"#/channels/{topic.name}"
    return f"{service.name.replace(' ', '-')}.{action}.{topic.name}", {
        "action": action,
        "summary": f"{service.name}: {action} {topic.name}",
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{name}"} for name, _ in _messages(topic)],
        "tags": [{"name": service.name}],
    }
