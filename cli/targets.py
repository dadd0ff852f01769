"""Which processes there are and where they answer: a file that `up` and `demo` keep, in Prometheus' own format.

The format is that of file-based service discovery, so that a Prometheus can be pointed at the same file.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from runtime.errors import ConfigurationError

FILE = "targets.json"
SERVICE = "service"
SCHEME = "__scheme__"


@contextmanager
def written_targets(folder: Path, urls: Mapping[str, str]) -> Iterator[Path]:
    """The file, for as long as the processes run.

    Args:
        urls: where each process answers, by its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE
    entries = [
        {"targets": [urlsplit(url).netloc], "labels": {SERVICE: name, SCHEME: urlsplit(url).scheme}}
        for name, url in urls.items()
    ]
    file.write_bytes(orjson.dumps(entries, option=orjson.OPT_INDENT_2))
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def read_targets(file: Path) -> dict[str, str]:
    """URLs by name, as `written_targets` wrote them.

    Raises:
        ConfigurationError: the file is there, but is not such a file.
    """
    try:
        return {
            entry["labels"][SERVICE]: f"{entry['labels'].get(SCHEME, 'http')}://{target}"
            for entry in orjson.loads(file.read_bytes())
            for target in entry["targets"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{file} does not say where the processes are ({error}); remove it") from error
