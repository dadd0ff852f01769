"""What topics and record store hold of the models beside the lab's own, read for their books."""

from collections.abc import Collection, Iterable
from typing import Any

import orjson

from agents.confusion.sums import Sums
from agents.confusion.told_sums import LIFETIME, ToldSums, read_sums
from cli.replay.messages import consumed
from runtime.settings import Settings
from schemas.letters import DeadLetter, read_letter
from schemas.topics import PERFORMANCE_SUMS, REQUESTS
from tests.faults.agents import Store, reports
from tests.faults.side_ledger import Answer, Found, Group, Refused
from tests.servers.messages import read

FIELDS = ["outlier.score", "feedback.truth", "response.predicted"]
IDS = 500
"""In one look at the store."""


def answer_of(value: bytes) -> Answer:
    """The answer in a message of `inference.pairs`."""
    pair = orjson.loads(value)
    return Answer(pair["request"]["request_id"], pair["response"]["model"], pair["response"]["model_version"])


def letter_of(message: Any) -> DeadLetter:
    """The letter in a consumed message of `inference.dead-letters`."""
    return read_letter(message.key(), message.value(), message.headers() or [])


def refused_of(letter: DeadLetter) -> Refused | None:
    """A refused request; None of letters about something else."""
    if letter.topic != REQUESTS.name or letter.key is None:
        return None
    return Refused(letter.key.decode(errors="replace"), letter.reason)


def lifetime_counts(settings: Settings) -> dict[Group, tuple[int, int]]:
    """Pairs and truths that the confusion agent counts over the lifetime of each version."""
    messages = sorted(map(consumed, read(settings, PERFORMANCE_SUMS.name)), key=lambda one: (one.partition, one.offset))
    return counts_of(read_sums(message, settings.kafka_partitions) for message in messages)


def counts_of(log: Iterable[ToldSums | None]) -> dict[Group, tuple[int, int]]:
    """Of each partition, what its owner of the highest epoch told last; over all partitions."""
    latest: dict[tuple[Group, int], ToldSums] = {}
    for told in log:
        if told is None or told.window != LIFETIME:
            continue
        key = (told.model, told.version), told.partition
        if told.sums is None:
            latest.pop(key, None)
        elif key not in latest or told.epoch >= latest[key].epoch:
            latest[key] = told
    counts = dict[Group, tuple[int, int]]()
    for (group, _), told in latest.items():
        pairs, labelled = counts.get(group, (0, 0))
        own = told.sums or Sums()
        counts[group] = pairs + own["pairs"], labelled + own["labelled"]
    return counts


def look(
    settings: Settings, store: Store, answers: list[Answer], letters: list[Refused], models: Collection[str]
) -> Found:
    """What there is of these models while the load goes on; for their answers and refusals somebody else looks."""
    records = records_of(store, sorted({one.record for one in answers}))
    windows = [one for one in reports(settings).values() if one.model in models]
    counts = {group: count for group, count in lifetime_counts(settings).items() if group[0] in models}
    return Found(answers, letters, records, windows, counts)


def records_of(store: Store, ids: list[str]) -> dict[str, dict[str, Any]]:
    """The records of these ids, in whatever index.

    Raises:
        AssertionError: one is in two indices.
    """
    found: dict[str, dict[str, Any]] = {}
    for index in store.call("GET", "modelwatch-inferences-*/_mapping"):
        for start in range(0, len(ids), IDS):
            asked = {"ids": ids[start : start + IDS]}
            answer = store.call("POST", f"{index}/_mget?_source_includes={','.join(FIELDS)}", asked)
            for one in answer["docs"]:
                if one.get("found", "_source" in one):
                    assert one["_id"] not in found, f"{one['_id']} is in two indices"
                    found[one["_id"]] = one.get("_source", {})
    return found
