"""Questions to the explanations agent, and its answers as they come."""

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from confluent_kafka import TopicPartition
from rich.console import Console
from rich.progress import Progress

from runtime import kafka
from runtime.errors import TransientError
from runtime.settings import Settings
from schemas.base import utc_now
from schemas.messages import Explanation, ExplanationRequest
from schemas.topics import EXPLANATION_REQUESTS, EXPLANATIONS

AT_ONCE = 16
"""Questions under way: fewer than an agent lets in, so that others may ask, too."""
GRACE_SECONDS = 5.0
"""An answer may come this long after its deadline."""
FLUSH_SECONDS = 30.0


def ask(
    settings: Settings,
    questions: Sequence[ExplanationRequest],
    timeout: float,
    console: Console,
    at_once: int = AT_ONCE,
) -> list[Explanation]:
    """Send questions and wait for the answer to each, in order.

    Args:
        timeout: seconds from when a question is sent to its deadline.
        at_once: unanswered questions at any time.

    Raises:
        TransientError: the brokers do not answer, the topic is missing, or an answer does not come in time.
    """
    missing = {EXPLANATION_REQUESTS.name, EXPLANATIONS.name} - kafka.cluster_topics(settings).keys()
    if missing:
        raise TransientError(f"topics are missing: {', '.join(sorted(missing))}; run `modelwatch setup`")
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("Explaining", total=len(questions))
        conversation = _Conversation(settings, timeout, at_once)
        try:
            for answered in conversation.run(questions):
                progress.update(bar, completed=answered)
        finally:
            conversation.close()
    return conversation.answers


class _Conversation:
    """Questions sent and answers read; an answer names the place of its question in the log."""

    def __init__(self, settings: Settings, timeout: float, at_once: int) -> None:
        self._timeout = timeout
        self._at_once = at_once
        self._producer = kafka.producer(settings)
        self._guard = kafka.DeliveryGuard()
        self._consumer = kafka.assigned_consumer(settings)
        count = kafka.cluster_topics(settings)[EXPLANATIONS.name]
        partitions = [TopicPartition(EXPLANATIONS.name, number) for number in range(count)]
        # From where the topic ends now: no answer to a question that is not yet asked can be before.
        for one in partitions:
            one.offset = self._consumer.get_watermark_offsets(one, timeout=10)[1]
        self._consumer.assign(partitions)
        self._places: dict[tuple[int, int], int] = {}
        self._early: dict[tuple[int, int], Explanation] = {}
        self._found: dict[int, Explanation] = {}
        self._sent = 0

    @property
    def answers(self) -> list[Explanation]:
        """In the order of the questions."""
        return [self._found[number] for number in sorted(self._found)]

    def run(self, questions: Sequence[ExplanationRequest]) -> Iterator[int]:
        """Send and read until all are answered; yields how many are."""
        last = time.monotonic()
        while len(self._found) < len(questions):
            while self._sent < len(questions) and self._sent - len(self._found) < self._at_once:
                self._send(self._sent, questions[self._sent])
                self._sent += 1
            self._producer.poll(0)
            self._guard.check()
            before = len(self._found)
            self._read()
            if len(self._found) > before:
                last = time.monotonic()
                yield len(self._found)
            elif time.monotonic() - last > self._timeout + GRACE_SECONDS:
                raise TransientError(
                    f"{len(questions) - len(self._found)} of {len(questions)} questions are not answered within "
                    f"{self._timeout:g} s; does an explanations agent run? Their answers will be in the records"
                )

    def close(self) -> None:
        """Leave."""
        self._producer.flush(FLUSH_SECONDS)
        self._consumer.close()

    def _send(self, number: int, question: ExplanationRequest) -> None:
        now = utc_now()
        timed = question.model_copy(update={"asked_at": now, "deadline": now + timedelta(seconds=self._timeout)})

        def delivered(error: Any, message: Any) -> None:
            self._guard.on_delivery(error, message)
            if error is None:
                place = message.partition(), message.offset()
                self._places[place] = number
                if place in self._early:
                    self._found[number] = self._early.pop(place)

        value = timed.model_dump_json(exclude_none=True).encode()
        kafka.produce(self._producer, EXPLANATION_REQUESTS.name, delivered, value=value, key=question.request_id)

    def _read(self) -> None:
        for message in self._consumer.consume(100, 0.05):
            if message.error() is not None:
                continue
            answer = Explanation.model_validate_json(message.value())
            if answer.question is None:
                continue
            place = answer.question.partition, answer.question.offset
            number = self._places.get(place)
            if number is None:
                self._early[place] = answer  # somebody else's, or ours before we know where it lies
            else:
                self._found.setdefault(number, answer)
