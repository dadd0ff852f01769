"""The table of rights: what each service may do on the brokers, and no more. Follows from who reads and writes what.

Source of what a request needs: Apache Kafka's documentation, security, "Operations and Resources on Protocols".
Read and Write imply Describe; a producer without transactions is idempotent by Write on its topic alone (Kafka 3.0).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from schemas.services import SERVICES, Service
from schemas.topics import DEAD_LETTERS, TOPICS

Resource = Literal["topic", "group", "transactional-id"]
TOOLS_GROUP = "modelwatch-tools"
"""Named by readers that are assigned partitions by themselves. They look its coordinator up, and join nothing."""
LETTERS_TRANSACTION = "modelwatch-letters"
"""Of whoever sends dead letters again: who begins later fences who began before, so that none is sent by both."""
SETUP = "modelwatch-setup"
PRINCIPALS = {
    "operators": "modelwatch-operators",
    "callers": "modelwatch-callers",
    "inference worker": "modelwatch-worker",
    "outliers": "modelwatch-outliers",
    "drift": "modelwatch-drift",
    "confusion": "modelwatch-confusion",
    "explanations": "modelwatch-explanations",
}
"""User names by service. One user for each, so that a stolen one opens no more than its service."""
GROUPS = {
    "inference worker": "modelwatch-inference",
    "outliers": "modelwatch-outliers",
    "drift": "modelwatch-drift",
    "confusion": "modelwatch-confusion",
    "explanations": "modelwatch-explanations",
}
"""Consumer groups, as the settings have them by default."""


@dataclass(frozen=True, slots=True)
class Right:
    """A principal may do something with a resource.

    Attributes:
        prefixed: the name is the beginning of the resources' names.
    """

    principal: str
    resource: Resource
    name: str
    operation: Literal["Read", "Write", "Create", "Describe", "Delete"]
    prefixed: bool = False


def rights() -> Iterator[Right]:
    """All of them, service by service; set-up first, which runs before the others."""
    for topic in TOPICS:
        yield Right(SETUP, "topic", topic.name, "Create")
        yield Right(SETUP, "topic", topic.name, "Describe")
    for service in SERVICES:
        yield from _of(service)


def _of(service: Service) -> Iterator[Right]:
    principal = PRINCIPALS[service.name]
    for topic in service.receives:
        yield Right(principal, "topic", topic.name, "Read")
    for topic in service.sends:
        yield Right(principal, "topic", topic.name, "Write")
    yield Right(principal, "group", TOOLS_GROUP, "Describe")
    if service.name == "operators":
        yield Right(principal, "topic", DEAD_LETTERS.name, "Delete")
        yield Right(principal, "transactional-id", LETTERS_TRANSACTION, "Write")
        return
    if service.name == "callers":
        yield Right(principal, "group", f"{principal}-", "Read", prefixed=True)
        return
    yield Right(principal, "group", GROUPS[service.name], "Read")
    if service.name == "inference worker":
        # MODELWATCH_GROUP, a hyphen and MODELWATCH_INSTANCE.
        yield Right(principal, "transactional-id", f"{GROUPS[service.name]}-", "Write", prefixed=True)
