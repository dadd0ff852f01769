"""Elasticsearch on this machine: one node, assembled from its published jars and started in seconds."""

import urllib.error
import urllib.request
from pathlib import Path

from runtime.embedded import free_ports
from tests.servers.elasticsearch_artifacts import java, zstandard
from tests.servers.server_process import ServerProcess

HOST = "127.0.0.1"
JVM = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
"""A small heap and the quick compiler only: a test's node lives for minutes."""
QUIET = ["-Dlog4j.shutdownHookEnabled=false", "-Dlog4j2.disable.jmx=true", "-Dio.netty.noUnsafe=true"]
"""As Elasticsearch's own start script has them: the node's last lines get into its log, too."""
NATIVE = ["--enable-native-access=ALL-UNNAMED", "-Dorg.elasticsearch.nativeaccess.enableVectorLibrary=false"]
"""Its library for vectors is in no repository; it does the same in Java then."""
LOGGING = """status = error
appender.file.type = File
appender.file.name = file
appender.file.fileName = {file}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d %p %c{{1}} %m%n
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
"""
CONFIGURATION = """cluster.name: modelwatch-tests
node.name: test
discovery.type: single-node
path.data: {folder}/data
path.logs: {folder}/logs
http.host: {host}
http.port: {http}
transport.host: {host}
transport.port: {transport}
# How full this machine's disk is shall not decide what a test sees.
cluster.routing.allocation.disk.threshold_enabled: false
"""


class Elasticsearch(ServerProcess):
    """A node that can be stopped, killed and started again on its data and its ports.

    It has what is in the server itself: no security and no lifecycle management, whose jars are in no repository.

    Args:
        folder: for configuration, data and logs; its own.
        home: see `elasticsearch_home`.

    Raises:
        MissingServerError: Java or a library is missing.
    """

    name = "elasticsearch"
    title = "Elasticsearch"

    def __init__(self, folder: Path, home: Path) -> None:
        super().__init__(folder)
        self._home = home
        self._java, self._zstandard = java(), zstandard()
        self.port, self._transport_port = free_ports(2, HOST)

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"http://{HOST}:{self.port}"

    def _command(self) -> list[str]:
        options = [*JVM, *QUIET, *NATIVE, f"-Des.nativelibs.path={self.folder / 'native'}", "--add-modules=jdk.net"]
        folders = [str(self._home), str(self.folder / "config")]
        class_path = f"{self._home / 'launcher'}:{self._home / 'lib'}/*"
        return [self._java, *options, "-cp", class_path, "ElasticsearchNode", *folders]

    def _prepare(self) -> None:
        for name in ("config", "data", "logs", "native"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "native" / "libzstd.so").symlink_to(self._zstandard)
        places = {"folder": self.folder, "host": HOST, "http": self.port, "transport": self._transport_port}
        (self.folder / "config" / "elasticsearch.yml").write_text(CONFIGURATION.format(**places))
        logging = LOGGING.format(file=self.logs / "elasticsearch.log")
        (self.folder / "config" / "log4j2.properties").write_text(logging)

    def _answers(self) -> bool:
        health = f"{self.url}/_cluster/health?wait_for_status=yellow&wait_for_no_initializing_shards=true&timeout=1s"
        try:
            with urllib.request.urlopen(health, timeout=3) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
