"""Jars of real servers: resolved once through the machine's own Maven, and kept in the user's cache folder."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_dir

RESOLVE_SECONDS = 300
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>modelwatch.tests</groupId>
  <artifactId>jars</artifactId>
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
Artifacts = tuple[tuple[str, str, str], ...]
"""Group, name and version of each."""


class MissingServerError(Exception):
    """A real server cannot be run here; the text is one line that names what is missing."""


def fetch(into: Path, name: str, artifacts: Artifacts) -> None:
    """Put the jars of the artifacts, and of all that they need when they run, into a folder.

    Raises:
        MissingServerError: no Maven, or it cannot reach the artifacts.
    """
    if shutil.which("mvn") is None:
        raise MissingServerError(f"the jars of {name} are not cached yet and no `mvn` is on PATH to fetch them")
    into.mkdir(parents=True)
    pom = into / "pom.xml"
    pom.write_text(POM.format(dependencies="\n".join(DEPENDENCY.format(*one) for one in artifacts)))
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={into}"]
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
    pom.unlink()


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name in the user's cache; the first time `make` fills it, wholly or not at all."""
    target = Path(user_cache_dir("modelwatch")) / name
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
            made = Path(temporary) / "made"
            make(made)
            try:
                made.rename(target)
            except OSError:
                # Another test run was quicker, and what it made is the same.
                if not target.is_dir():
                    raise
    return target
