"""Asks every process for its metrics and its health, all at once."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import orjson
import urllib3
from prometheus_client.parser import text_string_to_metric_families

from cli.top.readings import Labels, Samples, Scrape

TIMEOUT_SECONDS = 3.0
PREFIXES = ("modelwatch_", "process_")


class Scraper:
    """Reads the processes at `urls`, given by name; a context manager."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = dict(urls)
        timeout = urllib3.Timeout(TIMEOUT_SECONDS)
        self._http = urllib3.PoolManager(num_pools=len(urls) + 1, maxsize=2, timeout=timeout, retries=False)
        self._threads = ThreadPoolExecutor(max_workers=max(1, len(urls)), thread_name_prefix="scrape")

    def __enter__(self) -> "Scraper":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._http.clear()

    def read(self) -> dict[str, Scrape]:
        """A reading of each process, by name; never raises because one is down."""
        return {scrape.name: scrape for scrape in self._threads.map(self._one, self._urls.items())}

    def _one(self, target: tuple[str, str]) -> Scrape:
        name, url = target
        try:
            body = self._get(f"{url}/metrics")
            samples = parse(body.data.decode()) if body.status == 200 else None
            at = time.monotonic()
            health = self._get(f"{url}/health/ready")
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            return Scrape(name, url, time.monotonic(), note=_reason(error))
        if samples is None:
            return Scrape(name, url, at, note=f"/metrics answers with status {body.status}")
        ready = health.status == 200
        return Scrape(name, url, at, samples, ready, "" if ready else _unready(health.data))

    def _get(self, url: str) -> Any:
        return self._http.request("GET", url)


def parse(text: str) -> Samples:
    """Samples of the Prometheus text format, those of ours and of the process.

    Raises:
        ValueError: it is something else.
    """
    samples: dict[str, list[tuple[Labels, float]]] = {}
    for name, labels, value in _samples(text):
        if name.startswith(PREFIXES):
            samples.setdefault(name, []).append((labels, value))
    return samples


def _samples(text: str) -> Iterator[tuple[str, Labels, float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def _unready(body: bytes) -> str:
    """What it waits for, from the answer of /health/ready."""
    try:
        checks: Mapping[str, str] = orjson.loads(body)["checks"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "not ready"
    waits: Sequence[str] = [f"{name}: {state}" for name, state in checks.items() if state != "ok"]
    return "; ".join(waits) or "not ready"


def _reason(error: Exception) -> str:
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "nothing listens there"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return f"no answer within {TIMEOUT_SECONDS:g} s"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
