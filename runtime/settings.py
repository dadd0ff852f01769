"""Settings that every process has. Read once at the entry point, from the environment, and passed down."""

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from runtime.errors import ConfigurationError
from runtime.known_variables import KNOWN
from runtime.spelling import nearest
from schemas.clock import MAX_AHEAD_SECONDS

BROKER = re.compile(r"[^\s:/@,\[\]]+:\d{1,5}|\[[0-9a-fA-F:.]+(%[^\s\]]+)?\]:\d{1,5}")
STORE = re.compile(r"https?://([^\s/@]+@)?([^\s:/@,\[\]]+|\[[0-9a-fA-F:.]+\]):\d{1,5}(/\S*)?")
URL_CREDENTIALS = re.compile(r"//[^/\s]*@")
PREFIX = "MODELWATCH_"
PROJECT_MODELS = Path(__file__).resolve().parent.parent / "models"


def _either(name: str) -> AliasChoices:
    return AliasChoices(name, f"{PREFIX}{name}")


class Settings(BaseSettings):
    """Common settings; each process's own class extends this one. Every field's variable is `MODELWATCH_<FIELD>`."""

    model_config = SettingsConfigDict(
        env_prefix="MODELWATCH_",
        # What a file of variables leaves empty is not set.
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
        populate_by_name=True,
        protected_namespaces=(),
    )

    kafka_bootstrap_servers: str = Field("127.0.0.1:9092", validation_alias=_either("KAFKA_BOOTSTRAP_SERVERS"))
    """Kafka brokers, `host:port,host:port`."""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How the brokers are spoken to."""
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """SASL mechanism, with a SASL protocol."""
    kafka_sasl_username: str | None = None
    """SASL user."""
    kafka_sasl_password: SecretStr | None = None
    """SASL password."""
    kafka_ssl_ca_location: Path | None = None
    """PEM file of the authority that signed the brokers' certificates."""
    kafka_ssl_certificate_location: Path | None = None
    """PEM file of this client's certificate (mutual TLS)."""
    kafka_ssl_key_location: Path | None = None
    """PEM file of this client's key (mutual TLS)."""
    kafka_ssl_key_password: SecretStr | None = None
    """Password of the client's key."""
    kafka_replication_factor: int = Field(1, ge=1)
    """Copies of each partition that `modelwatch setup` asks for. Production: 3."""
    kafka_partitions: int = Field(4, ge=1)
    """Partitions of each topic that `modelwatch setup` creates, and the fewest that `modelwatch doctor` expects."""

    elasticsearch_url: str = Field("http://127.0.0.1:9200", validation_alias=_either("ELASTICSEARCH_URL"))
    """Record store."""
    elasticsearch_api_key: SecretStr | None = None
    """API key of the record store."""
    elasticsearch_ca_certs: Path | None = None
    """PEM file of the authority that signed the record store's certificate."""
    record_retention_days: int = Field(30, ge=1)
    """Days that `modelwatch setup` lets records live, where the record store has index lifecycle management."""

    models: Path = PROJECT_MODELS
    """Folder of model folders: each holds a model.yaml."""
    default_model: str | None = None
    """Model of a request that names none. Where it is not set, the only model there is; of several, requests must name
    theirs."""
    max_ahead_seconds: float = Field(MAX_AHEAD_SECONDS, ge=0, le=86_400)
    """A moment in a message (`ce_time`, `sent_at`, `given_at`, `answered_at`) may lie so far ahead of the message's
    arrival at the broker, and that of the reader's clock; beyond it, the message is refused."""

    instance: str = Field(default_factory=socket.gethostname, pattern=r"^[A-Za-z0-9._-]{1,100}$")
    """Name of this instance, unique among the replicas of its service and the same after a restart."""
    host: str = "127.0.0.1"
    """Address the HTTP server binds to. Containers set 0.0.0.0."""
    port: int = Field(8080, ge=0, le=65535)
    """Port of the HTTP server: /metrics, /health, and for the worker the inference endpoints. 0: any free one."""
    http_certificate_location: Path | None = None
    """PEM file of the HTTP server's certificate chain; with it the server speaks HTTPS only."""
    http_key_location: Path | None = None
    """PEM file of that certificate's key."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """`auto`: readable on a terminal, JSON otherwise."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level logged."""

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _brokers_have_ports(cls, value: str) -> str:
        for broker in value.split(","):
            if not BROKER.fullmatch(broker.strip()):
                raise ValueError(
                    f"{broker.strip()!r} is not host:port; the port is required: whose the default one is, nobody said"
                )
        return value

    @field_validator("elasticsearch_url")
    @classmethod
    def _store_has_a_port(cls, value: str) -> str:
        if not STORE.fullmatch(value):
            raise ValueError("it must be http://host:port or https://host:port")
        return value

    @model_validator(mode="after")
    def _sasl_is_whole(self) -> "Settings":
        if self.kafka_security_protocol.startswith("SASL"):
            needed = ("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password")
            absent = [f"MODELWATCH_{name.upper()}" for name in needed if not getattr(self, name)]
            if absent:
                raise ValueError(
                    f"MODELWATCH_KAFKA_SECURITY_PROTOCOL is {self.kafka_security_protocol}, which needs "
                    f"{' and '.join(absent)} as well"
                )
        return self


class AgentSettings(Settings):
    """What every agent adds to the common settings."""

    session_timeout_ms: int = Field(30_000, ge=1_000)
    """An instance silent for this long loses its partitions to the others."""
    batch_size: int = Field(256, ge=1, le=10_000)
    """Most messages computed together."""
    batch_seconds: float = Field(0.1, gt=0, le=10)
    """Longest wait for a batch to fill."""
    batch_bytes: int = Field(8 << 20, ge=1 << 16, le=1 << 30)
    """Most bytes of the messages computed together; a larger message is computed alone."""
    bytes_in_flight: int = Field(24 << 20, ge=1 << 16, le=1 << 34)
    """Bytes of messages between being fetched and being safe, from which on no more are fetched; of each stream that
    the agent reads. What one fetch brings (2 MiB of each partition) comes on top; decoded they take more."""
    batches_in_flight: int = Field(3, ge=1, le=64)
    """Batches whose results are on their way to the servers. Bounds memory while a server is away."""


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A sentence about each variable that looks like one of ours and is none, of any service."""
    return [
        f"{name} is set, but nothing reads a variable of that name{nearest(name, KNOWN, PREFIX)}"
        for name in sorted(environment)
        if name.startswith(PREFIX) and name not in KNOWN
    ]


S = TypeVar("S", bound=Settings)


def _is_secret(cls: type[Settings], name: str) -> bool:
    """Whether the value of a field, or of its variable, must not be shown."""
    field = cls.model_fields.get(name.removeprefix("MODELWATCH_").lower())
    return field is None or "SecretStr" in str(field.annotation)


def read_settings(cls: type[S], **overrides: Any) -> S:
    """The settings from the environment, `overrides` on top.

    Raises:
        ConfigurationError: naming each wrong variable and what is wrong with it; never the value of a secret.
    """
    try:
        return cls(**overrides)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            if not problem["loc"]:  # of several settings, which the text names
                lines.append(problem["msg"].removeprefix("Value error, "))
                continue
            field = str(problem["loc"][0])
            name = field if field.isupper() else f"MODELWATCH_{field.upper()}"
            secret = _is_secret(cls, field)
            shown = URL_CREDENTIALS.sub("//…@", repr(problem.get("input")))
            found = "" if secret else f" (found {shown})"
            lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}{found}")
        raise ConfigurationError("; ".join(lines)) from None
