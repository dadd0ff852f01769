"""`modelwatch feedback`: send the truth about produced images, at a chosen accuracy, late, twice or corrected."""

import csv
import math
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from rich.console import Console
from rich.progress import track

from cli.topic_reader import read_topic
from runtime.errors import ConfigurationError, TransientError
from runtime.kafka import DeliveryGuard, cluster_topics, produce, producer
from runtime.model_folder import model_named
from runtime.settings import Settings, read_settings
from schemas.messages import Feedback
from schemas.model_spec import ModelSpec
from schemas.pairs import read_pair
from schemas.refusal import Refusal
from schemas.topics import FEEDBACK, PAIRS
from training.datasets import load_split

FLUSH_SECONDS = 60.0
PAIR_SECONDS = 60.0
CORRECTION = timedelta(seconds=1)
HEADERS = ("truth", "truth_index", "truth_label", "truth_value")
FORMS = {int: "truth_index", float: "truth_value", str: "truth_label"}

Truth = int | float | str
"""Class index, number of a regression model, or label."""


@dataclass(frozen=True)
class FeedbackOptions:
    """The command's options, in its order."""

    prefix: str | None = None
    csv: Path | None = None
    accuracy: float | None = None
    count: int | None = None
    delay: float = 0.0
    rate: float | None = None
    shuffle: bool = False
    duplicates: float = 0.0
    corrections: float = 0.0
    model: str | None = None
    seed: int = 0


def run_feedback(options: FeedbackOptions) -> None:
    """Send, and print a summary."""
    console = Console()
    truths = send_feedback(options, read_settings(Settings), console)
    console.print(f"Sent the truth about {len(truths)} requests to {FEEDBACK.name}.", highlight=False)


def send_feedback(options: FeedbackOptions, settings: Settings, console: Console) -> dict[str, Truth]:
    """Send all feedback of the options and wait until the brokers have it; returns the final truth by request id.

    Raises:
        ConfigurationError: an option is wrong, or there is nothing to send.
        TransientError: the brokers do not answer, or the topic is missing.
    """
    if options.csv is not None and not options.csv.is_file():
        raise ConfigurationError(f"--csv {options.csv} is no file")
    if FEEDBACK.name not in cluster_topics(settings):
        raise TransientError(f"topic {FEEDBACK.name} does not exist; run `modelwatch setup`")
    spec = _spec(options, settings)
    truths = _truths(options, spec, settings)
    if not truths:
        raise ConfigurationError(f"no request to tell the truth about: {options.csv or f'prefix {options.prefix}'}")
    messages = arrange(truths, options, len(spec.classes), datetime.now(timezone.utc))
    if options.delay:
        console.print(f"Waiting {options.delay:g} s …", highlight=False)
        time.sleep(options.delay)
    _send(settings, messages, options, console)
    return truths


def arrange(truths: Mapping[str, Truth], options: FeedbackOptions, classes: int, now: datetime) -> list[Feedback]:
    """Feedback in the order of sending: with what is wrong at first, and corrected later; twice; and shuffled."""
    chance = random.Random(options.seed)  # noqa: S311 - not for security
    final = [_feedback(name, truth, options, now + CORRECTION) for name, truth in truths.items()]
    wrong = [
        _feedback(name, truth + 1.0 if isinstance(truth, float) else (truth + 1) % classes, options, now)
        for name, truth in truths.items()
        if not isinstance(truth, str) and chance.random() < options.corrections
    ]
    again = [one for one in final if chance.random() < options.duplicates]
    messages = [*wrong, *final, *again]
    if options.shuffle:
        chance.shuffle(messages)
    return messages


def choose_truths(predicted: Mapping[str, int], accuracy: float, classes: int, seed: int) -> dict[str, int]:
    """A truth a request such that exactly the share `accuracy` of the predictions is right, to the nearest count."""
    chance = random.Random(seed)  # noqa: S311 - not for security
    right = set(chance.sample(sorted(predicted), round(accuracy * len(predicted))))
    return {
        name: index if name in right else (index + chance.randrange(1, classes)) % classes
        for name, index in predicted.items()
    }


def _truths(options: FeedbackOptions, spec: ModelSpec, settings: Settings) -> dict[str, Truth]:
    if options.csv is not None:
        return dict(_from_csv(options.csv, spec))
    if not spec.classes:
        raise ConfigurationError(f"{spec.name} is a regression model: the truth about it comes from --csv")
    if options.prefix is None:
        raise ConfigurationError("say which requests: --prefix, as `modelwatch produce` printed it, or --csv")
    predicted = _predictions(options, spec, settings)
    if options.accuracy is not None:
        return dict(choose_truths(predicted, options.accuracy, len(spec.classes), options.seed))
    labels = load_split("test", progress=False)[1]
    try:
        return {name: int(labels[int(name.rsplit("-", 1)[1])]) for name in predicted}
    except (ValueError, IndexError) as error:
        raise ConfigurationError(
            f"ids that begin with {options.prefix}- are not those of CIFAR-10 test images; give --accuracy or --csv"
        ) from error


def _predictions(options: FeedbackOptions, spec: ModelSpec, settings: Settings) -> dict[str, int]:
    """What the model answered to the requests of the prefix; the last answer to each."""
    found: dict[str, int] = {}
    for message in read_topic(settings, PAIRS.name, lambda: True, PAIR_SECONDS):
        if not (message.key() or b"").startswith(f"{options.prefix}-".encode()):
            continue
        try:
            pair = read_pair(message.value())
        except Refusal:
            continue
        if pair.response.predicted is not None and pair.response.model == spec.name:
            found[pair.request.request_id] = pair.response.predicted
    names = sorted(found)[: options.count]
    return {name: found[name] for name in names}


def _from_csv(path: Path, spec: ModelSpec) -> Iterator[tuple[str, Truth]]:
    """Rows `id,truth`: a class index or a label, or a regression model's number. A first row that says so is passed
    over; `id,truth_index` and `id,truth_label` say which of the two it is."""
    header = "truth"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if number == 1 and len(row) == 2 and row[0] == "id" and row[1] in HEADERS:
                    header = row[1]
                    continue
                if not row:
                    continue
                if len(row) != 2 or not row[0] or not row[1]:
                    raise ConfigurationError(f"{path}, line {number}: expected id,truth; found {','.join(row)!r}")
                yield row[0], _truth(row[1], spec, header, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def _truth(text: str, spec: ModelSpec, header: str, where: str) -> Truth:
    if not spec.classes:
        return _number(text, spec, where)
    is_index, is_label = text.isascii() and text.isdigit() and len(text) < 10, text in spec.labels
    if header == "truth_label" or (header == "truth" and is_label and not is_index):
        if not is_label:
            raise ConfigurationError(f"{where}: {text!r} is no label of {spec.name}: {', '.join(spec.labels[:50])}")
        return text
    if not is_index or int(text) >= len(spec.labels):
        expected = f"a class of {spec.name}: an index from 0 to {len(spec.labels) - 1}"
        raise ConfigurationError(f"{where}: {text!r} is not {expected}{', or a label' * (header == 'truth')}")
    if header == "truth" and any(name.isdigit() and name != str(place) for place, name in enumerate(spec.labels)):
        raise ConfigurationError(
            f"{where}: {text!r} may be a class's index or its label, as labels of {spec.name} are numbers; begin the "
            "file with the line id,truth_index or id,truth_label"
        )
    return int(text)


def _number(text: str, spec: ModelSpec, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigurationError(f"{where}: {text!r} is no number, and {spec.name} is a regression model")
    return number


def _spec(options: FeedbackOptions, settings: Settings) -> ModelSpec:
    return model_named(options.model, settings).spec


def _feedback(name: str, truth: Truth, options: FeedbackOptions, given_at: datetime) -> Feedback:
    return Feedback.model_validate(
        {
            "request_id": name,
            "model": options.model,
            "source": "modelwatch feedback",
            "given_at": given_at,
            FORMS[type(truth)]: truth,
        }
    )


def _send(settings: Settings, messages: list[Feedback], options: FeedbackOptions, console: Console) -> None:
    client, guard, began = producer(settings), DeliveryGuard(), time.monotonic()
    for number, one in enumerate(track(messages, "Sending", console=console, transient=True)):
        if options.rate:
            time.sleep(max(0.0, began + number / options.rate - time.monotonic()))
        value = one.model_dump_json(exclude_none=True).encode()
        produce(client, FEEDBACK.name, guard.on_delivery, value=value, key=one.request_id)
        client.poll(0)
        guard.check()
    if client.flush(FLUSH_SECONDS):
        raise TransientError(f"{len(client)} messages were not accepted within {FLUSH_SECONDS:g} s")
    guard.check()
