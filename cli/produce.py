"""`modelwatch produce`: send images, at a rate or as fast as it goes, and say what was sent."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.sources import Change, Source, open_source
from runtime.errors import ConfigurationError, TransientError
from runtime.kafka import DeliveryGuard, cluster_topics, produce, producer
from runtime.model_folder import model_named
from runtime.settings import Settings, read_settings
from schemas.headers import CE_TIME, CONTENT_TYPE, MODEL, rfc3339
from schemas.model_spec import ModelSpec
from schemas.payloads import decode_request
from schemas.refusal import Reason, Refusal
from schemas.topics import REQUESTS

FLUSH_SECONDS = 60.0
MISFITS = (Reason.WRONG_SHAPE, Reason.WRONG_DTYPE)
"""Why a model takes no image of a kind."""
OutgoingMessage = tuple[str, list[tuple[str, bytes]], bytes]
"""Request id, headers, value."""
BAD_MESSAGES: tuple[tuple[str, bytes], ...] = (
    ("image/png", b"\x89PNG\r\n\x1a\n truncated"),
    ("image/jpeg", b"\xff\xd8\xff\xe0 not a picture"),
    ("application/json", b'{"instances": [[[1, 2'),
    ("application/json", b'{"no": "image"}'),
    ("application/x-npy", b"\x93NUMPY\x01\x00"),
    ("text/plain", b"hello"),
    ("image/png", b""),
)
"""Messages that every worker refuses, for showing that it does."""


@dataclass(frozen=True)
class ProduceOptions:
    """The command's options, in its order."""

    source: str
    count: int | None = None
    start: int = 0
    rate: float | None = None
    payload: str | None = None
    model: str | None = None
    corruption: str | None = None
    severity: int = 5
    mask: int | None = None
    bad: int = 0
    prefix: str | None = None
    seed: int = 0


@dataclass
class Sent:
    """What was sent."""

    prefix: str
    request_ids: list[str] = field(default_factory=list)
    bad_ids: list[str] = field(default_factory=list)
    sent_bytes: int = 0
    seconds: float = 0.0


def run_produce(options: ProduceOptions) -> None:
    """Send and print a summary."""
    console = Console()
    sent = send(options, read_settings(Settings), console)
    total = len(sent.request_ids) + len(sent.bad_ids)
    console.print(
        f"Sent {len(sent.request_ids)} images and {len(sent.bad_ids)} bad messages to {REQUESTS.name} in "
        f"{sent.seconds:.1f} s: {total / sent.seconds:,.0f} messages/s, "
        f"{sent.sent_bytes / sent.seconds / 1e6:.1f} MB/s. "
        f"Request ids begin with {sent.prefix}-",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def send(options: ProduceOptions, settings: Settings, console: Console) -> Sent:
    """Send all messages of the options and wait until the brokers have them.

    Raises:
        ConfigurationError: an option is wrong.
        TransientError: the brokers do not answer, the topic is missing, or a message was not accepted.
    """
    if REQUESTS.name not in cluster_topics(settings):
        raise TransientError(f"topic {REQUESTS.name} does not exist; run `modelwatch setup`")
    change = Change(options.corruption, options.severity, options.mask, options.seed)
    source = _fitting(
        open_source(options.source, options.start, options.count, options.payload, change),
        model_named(options.model, settings).spec,
    )
    sent = Sent(options.prefix or time.strftime("%Y%m%dT%H%M%S"))
    client, guard = producer(settings), DeliveryGuard()
    began = time.monotonic()
    messages = _with_progress(_messages(source, options, sent), source.total + options.bad, console)
    for number, (request_id, headers, value) in enumerate(messages):
        if options.rate:
            _wait_until(began + number / options.rate, client.poll)
        headers = [*headers, (CE_TIME, rfc3339(time.time()).encode())]
        produce(client, REQUESTS.name, guard.on_delivery, value=value, key=request_id, headers=headers)
        client.poll(0)
        sent.sent_bytes += len(value)
        guard.check()
    if client.flush(FLUSH_SECONDS):
        raise TransientError(f"{len(client)} messages were not accepted within {FLUSH_SECONDS:g} s")
    guard.check()
    sent.seconds = max(time.monotonic() - began, 1e-9)
    return sent


def _fitting(source: Source, spec: ModelSpec) -> Source:
    """The source, if the model takes what it begins with.

    Raises:
        ConfigurationError: the worker would refuse it, and all that is like it.
    """
    first = next(source.messages, None)
    if first is None:
        return source
    _, content_type, value = first
    try:
        decode_request(value, None, [(CONTENT_TYPE, content_type.encode())], time.time(), {spec.name: spec}, spec.name)
    except Refusal as refusal:
        if refusal.reason not in MISFITS:  # a file that is damaged, perhaps on purpose: others may not be
            return Source(source.total, chain([first], source.messages))
        raise ConfigurationError(
            f"model {spec.name} would refuse this: {refusal.detail}; nothing was sent. Name a model that takes it "
            "(--model), or images that it takes"
        ) from refusal
    return Source(source.total, chain([first], source.messages))


def _messages(
    source: Source, options: ProduceOptions, sent: Sent
) -> Iterator[tuple[str, list[tuple[str, bytes]], bytes]]:
    """Good messages in order, with the bad ones at random places among them."""
    model = [(MODEL, options.model.encode())] if options.model else []
    places = random.Random(options.seed).choices(range(source.total), k=options.bad)  # noqa: S311 - not for security
    bad_before = {place: places.count(place) for place in set(places)}
    for number, (name, content_type, value) in enumerate(source.messages):
        for _ in range(bad_before.get(number, 0)):
            bad_type, bad_value = BAD_MESSAGES[len(sent.bad_ids) % len(BAD_MESSAGES)]
            sent.bad_ids.append(f"{sent.prefix}-bad-{len(sent.bad_ids):05d}")
            yield sent.bad_ids[-1], [(CONTENT_TYPE, bad_type.encode()), *model], bad_value
        suffix = f"-{number:05d}" if options.source == "truck" else ""
        sent.request_ids.append(f"{sent.prefix}-{name}{suffix}")
        yield sent.request_ids[-1], [(CONTENT_TYPE, content_type.encode()), *model], value


def _with_progress(messages: Iterator[OutgoingMessage], total: int, console: Console) -> Iterator[OutgoingMessage]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(messages, total=total, description="Sending")


def _wait_until(moment: float, poll: Callable[[float], int]) -> None:
    """Sleep until `moment`, serving delivery reports meanwhile."""
    while (left := moment - time.monotonic()) > 0:
        poll(min(left, 0.05))
