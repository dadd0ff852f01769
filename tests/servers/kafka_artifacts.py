"""Jars of Apache Kafka and of Strimzi's resources."""

import re
import shutil
import subprocess
from pathlib import Path

from tests.servers.maven import Artifacts, MissingServerError, cached, fetch

KAFKA_VERSION = "4.1.1"
LOG4J_VERSION = "2.24.3"
"""What Kafka 4.1 itself depends on; the binding must be of the same version."""
STRIMZI_VERSION = "0.49.1"
"""The classes of its custom resources: each field that a resource may have, and its type."""
LEAST_JAVA = 17
"""Kafka 4 brokers run on Java 17 or later (Kafka's documentation, compatibility)."""

KAFKA = (
    ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
    ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J_VERSION),
)
STRIMZI = (("io.strimzi", "api", STRIMZI_VERSION),)


def _check_java() -> None:
    if shutil.which("java") is None:
        raise MissingServerError(f"Apache Kafka needs Java {LEAST_JAVA} or later: no `java` on PATH")
    banner = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=30).stderr
    found = re.search(r'version "(\d+)', banner)
    if found is None or int(found[1]) < LEAST_JAVA:
        first_line = banner.splitlines()[0] if banner else "nothing"
        raise MissingServerError(f"Apache Kafka needs Java {LEAST_JAVA} or later: `java -version` says {first_line}")


def kafka_libraries() -> Path:
    """The folder of jars that runs Apache Kafka; fetched the first time, which takes seconds.

    Raises:
        MissingServerError: no fit Java, or no Maven, or Maven cannot reach the artifacts.
    """
    return _libraries(f"apache-kafka-{KAFKA_VERSION}", KAFKA)


def strimzi_libraries() -> Path:
    """The folder of jars with Strimzi's resource classes; likewise."""
    return _libraries(f"strimzi-api-{STRIMZI_VERSION}", STRIMZI)


def _libraries(name: str, artifacts: Artifacts) -> Path:
    _check_java()
    return cached(name, lambda folder: fetch(folder, name, artifacts))
