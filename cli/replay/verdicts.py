"""Judges recorded pairs again, and compares with the verdict that their records hold."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agents.outliers.detector import OutlierDetector
from agents.outliers.records import index_of
from agents.outliers.verdicts import judge
from agents.pairs import ReadPair, read_pairs, record_id_of
from cli.replay.differences import Audit
from cli.replay.log_reader import offsets_at, read_from
from cli.replay.messages import Consumed, batches
from elasticsearch import ApiError, AsyncElasticsearch, TransportError
from runtime.errors import TransientError
from runtime.settings import Settings
from schemas.messages import OutlierVerdict
from schemas.model_spec import ModelSpec
from schemas.topics import PAIRS

TOLERANCE = 1e-5
"""Of a score, as a share of its threshold: so far may another processor's rounding carry it."""
FIELDS = ["outlier.score", "outlier.threshold", "outlier.is_outlier", "outlier.detector"]


async def audit_verdicts(
    settings: Settings,
    store: AsyncElasticsearch,
    specs: Mapping[str, ModelSpec],
    detectors: Mapping[str, OutlierDetector],
    begin: float,
    end: float,
    older: Sequence[Mapping[str, OutlierDetector]] = (),
) -> Audit:
    """Compare the verdict on every pair from `begin` to `end` (seconds since the epoch).

    Args:
        older: detectors of earlier versions, of which some verdicts may be; they are known by their hashes.
    """
    audit = Audit()
    for messages in _between(settings, begin, end):
        pairs, _ = read_pairs(messages, specs, time.time(), settings.max_ahead_seconds)
        verdicts = judge(pairs, detectors)
        judged = [(read, verdict) for read, verdict in zip(pairs, verdicts, strict=True) if verdict is not None]
        stored = await _stored(store, [read for read, _ in judged])
        for verdict, record in zip(_as_recorded(judged, stored, older), stored, strict=True):
            _compare(audit, verdict, record)
    return audit


def _as_recorded(
    judged: Sequence[tuple[ReadPair, OutlierVerdict]],
    stored: Sequence[dict[str, Any] | None],
    older: Sequence[Mapping[str, OutlierDetector]],
) -> list[OutlierVerdict]:
    """The verdicts, each by the detector that its record names where that is among the older ones."""
    verdicts = [verdict for _, verdict in judged]
    for detectors in older:
        rows = [
            row for row, (read, _) in enumerate(judged) if _is_of(detectors.get(read.pair.request.model), stored[row])
        ]
        again = judge([judged[row][0] for row in rows], detectors)
        for row, verdict in zip(rows, again, strict=True):
            verdicts[row] = verdict or verdicts[row]
    return verdicts


def _is_of(detector: OutlierDetector | None, record: dict[str, Any] | None) -> bool:
    recorded = (record or {}).get("outlier", {}).get("detector")
    return detector is not None and recorded == detector.identity.model_dump()


def _between(settings: Settings, begin: float, end: float) -> Iterator[list[Consumed]]:
    for messages in batches(read_from(settings, PAIRS.name, offsets_at(settings, PAIRS.name, begin))):
        yield [message for message in messages if message.timestamp <= end]


async def _stored(store: AsyncElasticsearch, pairs: Sequence[ReadPair]) -> list[dict[str, Any] | None]:
    """The pairs' records, None where there is none."""
    if not pairs:
        return []
    wanted = [{"_index": index_of(read), "_id": record_id_of(read.pair)} for read in pairs]
    try:
        answer = await store.mget(docs=wanted, source_includes=FIELDS)
    except (ApiError, TransportError) as error:
        raise TransientError(f"the record store does not answer: {error}") from error
    return [found.get("_source") if found.get("found") else None for found in answer["docs"]]


def _compare(audit: Audit, verdict: OutlierVerdict, record: dict[str, Any] | None) -> None:
    name = verdict.request_id
    if record is None or "outlier" not in record:
        audit.add(name, "record", "none" if record is None else "no verdict", f"score {verdict.score:.6g}")
        return
    recorded = record["outlier"]
    if recorded["detector"] != verdict.detector.model_dump():
        of_then, of_now = recorded["detector"]["sha256"], verdict.detector.sha256
        audit.leave_out(
            name, f"judged by a detector ({of_then[:12]}…) that is not here any more; here is {of_now[:12]}…"
        )
        return
    audit.compared += 1
    tolerance = TOLERANCE * max(verdict.threshold, abs(verdict.score))
    margin = abs(verdict.score - verdict.threshold) / tolerance
    audit.compare_verdicts(name, "verdict", recorded["is_outlier"], verdict.is_outlier, margin)
    audit.compare_numbers(name, "score", (recorded["score"],), (verdict.score,), tolerance)
    audit.compare_numbers(name, "threshold", (recorded["threshold"],), (verdict.threshold,), tolerance)
