"""`modelwatch pairs`: read the pairs as an agent would, and print a line each."""

import time
from collections import deque
from collections.abc import Iterator

import orjson
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
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
    consumer = assigned_consumer(settings, **{"enable.partition.eof": True})
    try:
        for value in _latest(consumer, partitions, last):
            _print_value(console, value, as_json)
        while follow:
            for message in consumer.consume(100, 0.2):
                if message.error() is None:
                    _print_value(console, message.value(), as_json)
    finally:
        consumer.close()


def _print_value(console: Console, value: bytes | None, as_json: bool) -> None:
    try:
        print_pair(console, read_pair(value), as_json)
    except Refusal as refusal:
        console.print(f"unreadable pair: {refusal}", style="red", markup=False)


def _latest(consumer: Consumer, partitions: int, last: int) -> list[bytes | None]:
    """The `last` pairs of each partition, in the order of their timestamps; the consumer stands behind them.

    Not every offset is a pair: each transaction's end has one, and so has what was written and taken back.
    """
    bounds = {
        number: consumer.get_watermark_offsets(TopicPartition(PAIRS.name, number), timeout=CALL_SECONDS)
        for number in range(partitions)
    }
    span = 2 * last
    while True:
        starts = {number: max(low, high - span) for number, (low, high) in bounds.items()}
        consumer.assign([TopicPartition(PAIRS.name, number, offset) for number, offset in starts.items()])
        found = {number: deque[Message](maxlen=last) for number in bounds}
        for message in _to_the_ends(consumer, partitions):
            found[message.partition()].append(message)
        if all(len(found[number]) == last or starts[number] == low for number, (low, _) in bounds.items()):
            messages = [message for own in found.values() for message in own]
            return [message.value() for message in sorted(messages, key=lambda one: one.timestamp()[1])]
        span *= 8


def _to_the_ends(consumer: Consumer, partitions: int) -> Iterator[Message]:
    ended, heard_at = set[int](), time.monotonic()
    while len(ended) < partitions:
        for message in consumer.consume(100, 0.2):
            heard_at = time.monotonic()
            if message.error() is None:
                yield message
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
        if time.monotonic() > heard_at + CALL_SECONDS:
            raise TransientError(f"the brokers sent nothing of {PAIRS.name} for {CALL_SECONDS:g} s")


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
