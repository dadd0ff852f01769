"""Gives each service its rights on the brokers: the table of `schemas.acls`, as Kafka's access control lists."""

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from runtime.errors import ConfigurationError
from runtime.kafka import admin
from runtime.settings import Settings
from schemas.acls import Right, rights

RESOURCES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional-id": ResourceType.TRANSACTIONAL_ID,
}
ANY_HOST = "*"
PLACEHOLDER = "{name}"


def create_acls(settings: Settings, principal: str) -> int:
    """Set all rights; safe to repeat. Returns how many there are.

    Args:
        principal: what the brokers call a user, `{name}` for its name: `User:{name}` with SASL, `User:CN={name}` for
            certificates with nothing but a common name.

    Raises:
        ConfigurationError: `principal` has another form, or the brokers refuse: this user may not `Alter` the cluster,
            or they have no authorizer.
    """
    if PLACEHOLDER not in principal or ":" not in principal:
        raise ConfigurationError(
            f"--acls {principal!r}: write what the brokers call a user, with {{name}} for its name, as in User:{{name}}"
        )
    bindings = [_binding(right, principal) for right in rights()]
    client = admin(settings)  # whose end would be that of its requests
    for future in client.create_acls(bindings, request_timeout=30).values():
        try:
            future.result()
        except KafkaException as failure:
            raise ConfigurationError(
                f"the brokers do not take the rights: {failure.args[0].str()}; the user that sets them needs Alter on "
                "the cluster, and the brokers an authorizer"
            ) from failure
    return len(bindings)


def _binding(right: Right, principal: str) -> AclBinding:
    pattern = ResourcePatternType.PREFIXED if right.prefixed else ResourcePatternType.LITERAL
    return AclBinding(
        RESOURCES[right.resource],
        right.name,
        pattern,
        principal.replace(PLACEHOLDER, right.principal),
        ANY_HOST,
        AclOperation[right.operation.upper()],
        AclPermissionType.ALLOW,
    )
