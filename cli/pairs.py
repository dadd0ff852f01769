"""`modelwatch pairs`: read the pairs as an agent would, and print a line each."""

import time
from collections.abc import Iterator

import orjson
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console

from runtime.errors import TransientError
from runtime.kafka import assigned_consumer, cluster_topics
from runtime.settings import Settings, read_settings
from schemas.clock import elapsed
from schemas.messages import InferencePair
from schemas.pairs import read_pair
from schemas.refusal import Refusal
from schemas.topics import PAIRS

CALL_SECONDS = 10.0


def run_pairs(last: int, follow: bool, as_json: bool) -> None:
    """Print pairs until Ctrl-C, or until the end of the topic."""
    console = Console()
    settings = read_settings(Settings)
    partitions = cluster_topics(settings).get(PAIRS.name)
    if partitions is None:
        raise TransientError(f"topic {PAIRS.name} does not exist; run `modelwatch setup`")
    consumer = assigned_consumer(settings)
    try:
        ends = _assign_latest(consumer, partitions, last)
        for value in _values(consumer, ends, follow):
            try:
                pair = read_pair(value)
            except Refusal as refusal:
                console.print(f"unreadable pair: {refusal}", style="red", markup=False)
                continue
            print_pair(console, pair, as_json)
    finally:
        consumer.close()


def _assign_latest(consumer: Consumer, partitions: int, last: int) -> dict[int, int]:
    """Start `last` messages before the end of each partition; returns the ends."""
    ends, starts = {}, []
    for partition in range(partitions):
        low, high = consumer.get_watermark_offsets(TopicPartition(PAIRS.name, partition), timeout=CALL_SECONDS)
        ends[partition] = high
        starts.append(TopicPartition(PAIRS.name, partition, max(low, high - last)))
    consumer.assign(starts)
    return ends


def _values(consumer: Consumer, ends: dict[int, int], follow: bool) -> Iterator[bytes]:
    quiet_since = time.monotonic()
    while True:
        messages = [message for message in consumer.consume(100, 0.2) if message.error() is None]
        yield from (message.value() for message in messages)
        if messages:
            quiet_since = time.monotonic()
        if not follow:
            positions = {position.partition: position.offset for position in consumer.position(consumer.assignment())}
            at_end = all(positions.get(partition, -1) >= end for partition, end in ends.items())
            # Transaction markers at the end are never delivered: silence ends the wait for them.
            if at_end or time.monotonic() - quiet_since > 2:
                return


def print_pair(console: Console, pair: InferencePair, as_json: bool) -> None:
    """One line: when, id, model, answer, confidence, latency and where the time went."""
    if as_json:
        facts = pair.model_dump(mode="json", exclude={"request": {"image"}})
        console.print(orjson.dumps(facts).decode(), markup=False, highlight=False, soft_wrap=True)
        return
    response, timings = pair.response, pair.response.timings
    value = None if response.value is None else f"{response.value:.6g}"
    answer = response.label or value or response.outcome.value
    confidence = "" if response.confidence is None else f"{response.confidence:7.2%}"
    latency = elapsed(pair.request.sent_at.timestamp(), response.answered_at.timestamp())
    console.print(
        f"{response.answered_at:%H:%M:%S.%f}"[:-3]
        + f"  {pair.request.request_id:<32} {response.model}:{response.model_version}  {answer:<12} {confidence:>8}"
        f"  {latency * 1000:8.1f} ms (queue {timings.queue * 1000:.1f}, batch {timings.batch * 1000:.1f}, "
        f"compute {timings.compute * 1000:.1f} with {response.batch_size})",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
