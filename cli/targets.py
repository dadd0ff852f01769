"""Which processes there are and where they answer: a file that `up` and `demo` write, in Prometheus' own format.

The format is that of file-based service discovery (`file_sd_configs`), so that Prometheus and `modelwatch top` read the
same file. It stays when the processes end: who watches them sees that they are down.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from runtime.errors import ConfigurationError

TARGETS_FILE = "targets.json"
"""In the data folder."""
JOB, JOB_PREFIX = "job", "modelwatch-"
"""Label that rules and dashboards know a service by, and the beginning of its value."""


def write_targets(folder: Path, urls: Mapping[str, str]) -> None:
    """Write one entry a process; renamed, so that no reader sees half a file.

    Args:
        urls: where each process answers, by its name: the service, or the service and a number (`worker-0`).
    """
    targets = [
        {"targets": [urlsplit(url).netloc], "labels": {JOB: f"{JOB_PREFIX}{name.partition('-')[0]}"}}
        for name, url in urls.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    half = folder / f"{TARGETS_FILE}.tmp"
    half.write_bytes(orjson.dumps(targets, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    half.replace(folder / TARGETS_FILE)


def read_targets(file: Path) -> dict[str, str]:
    """URLs by name: the service; numbered, where several processes are of one.

    Raises:
        ConfigurationError: the file is there, but is not such a file.
    """
    try:
        found = [
            (str(entry["labels"][JOB]).removeprefix(JOB_PREFIX), f"http://{target}")
            for entry in orjson.loads(file.read_bytes())
            for target in entry["targets"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{file} does not say where the processes are ({error!r}); remove it") from error
    several, seen = Counter(name for name, _ in found), Counter[str]()
    urls = {}
    for name, url in found:
        urls[f"{name}-{seen[name]}" if several[name] > 1 else name] = url
        seen[name] += 1
    return urls
