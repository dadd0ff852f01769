"""Runs a command on an Apache Kafka of its own: `python -m tests.servers.with_kafka modelwatch bench worker --json`.

One node, with the whole compiler and the heap of a small production broker; gone afterwards.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.servers.apache_kafka import ApacheKafka
from tests.servers.kafka_artifacts import kafka_libraries
from tests.servers.maven import MissingServerError

JVM = ["-Xmx1g", "-XX:+UseG1GC"]


def main() -> int:
    """Start the broker, run the command with KAFKA_BOOTSTRAP_SERVERS set, stop the broker; the command's status."""
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        libraries = kafka_libraries()
    except MissingServerError as reason:
        print(reason, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="modelwatch-kafka-") as folder:
        broker = ApacheKafka(Path(folder) / "kafka", libraries, jvm=JVM)
        try:
            broker.start()
            environment = os.environ | {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap}
            return subprocess.run(sys.argv[1:], env=environment).returncode
        finally:
            broker.kill()


if __name__ == "__main__":
    sys.exit(main())
