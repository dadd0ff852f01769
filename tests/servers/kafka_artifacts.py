"""Jars of Apache Kafka and of Strimzi's resources: resolved once through Maven, and kept in the user's cache folder."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from platformdirs import user_cache_dir

KAFKA_VERSION = "4.1.1"
LOG4J_VERSION = "2.24.3"
"""What Kafka 4.1 itself depends on; the binding must be of the same version."""
STRIMZI_VERSION = "0.49.1"
"""The classes of its custom resources: each field that a resource may have, and its type."""
LEAST_JAVA = 17
"""Kafka 4 brokers run on Java 17 or later (Kafka's documentation, compatibility)."""
RESOLVE_SECONDS = 300

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>modelwatch.tests</groupId>
  <artifactId>{name}</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
{dependencies}
  </dependencies>
</project>
"""
DEPENDENCY = """    <dependency>
      <groupId>{}</groupId>
      <artifactId>{}</artifactId>
      <version>{}</version>
    </dependency>"""
KAFKA = (
    ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
    ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J_VERSION),
)
STRIMZI = (("io.strimzi", "api", STRIMZI_VERSION),)
Artifacts = tuple[tuple[str, str, str], ...]
"""Group, name and version of each."""


class MissingServerError(Exception):
    """A real server cannot be run here; the text is one line that names what is missing."""


def _check_java() -> None:
    if shutil.which("java") is None:
        raise MissingServerError(f"Apache Kafka needs Java {LEAST_JAVA} or later: no `java` on PATH")
    banner = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=30).stderr
    found = re.search(r'version "(\d+)', banner)
    if found is None or int(found[1]) < LEAST_JAVA:
        first_line = banner.splitlines()[0] if banner else "nothing"
        raise MissingServerError(f"Apache Kafka needs Java {LEAST_JAVA} or later: `java -version` says {first_line}")


def _resolve(into: Path, name: str, artifacts: Artifacts) -> None:
    if shutil.which("mvn") is None:
        raise MissingServerError(f"the jars of {name} are not cached yet and no `mvn` is on PATH to fetch them")
    pom = into / "pom.xml"
    pom.write_text(POM.format(name=name, dependencies="\n".join(DEPENDENCY.format(*one) for one in artifacts)))
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={into / 'libs'}"]
    try:
        done = subprocess.run(
            ["mvn", "-q", "-B", "-Dstyle.color=never", "-f", str(pom), *goal],
            capture_output=True,
            text=True,
            timeout=RESOLVE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise MissingServerError(f"mvn did not fetch the jars of {name} within {RESOLVE_SECONDS} s") from None
    if done.returncode != 0:
        errors = [line for line in done.stdout.splitlines() if "ERROR" in line]
        reason = errors[0] if errors else f"status {done.returncode}"
        raise MissingServerError(f"mvn could not fetch the jars of {name}: {reason}")


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
    target = Path(user_cache_dir("modelwatch")) / name
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
            _resolve(Path(temporary), name, artifacts)
            try:
                (Path(temporary) / "libs").rename(target)
            except OSError:
                # Another test run was quicker, and its jars are the same.
                if not target.is_dir():
                    raise
    return target
