"""`modelwatch explain`: ask why a model answered as it did, wait for the answer, and write a picture of it."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import uuid_utils
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cli.ask import ask
from cli.sources import SUFFIXES
from cli.times import duration
from elasticsearch import ApiError, Elasticsearch, TransportError
from runtime.errors import ConfigurationError, TransientError
from runtime.model_folder import model_named
from runtime.record_indices import INFERENCES, all_of
from runtime.settings import Settings, read_settings
from schemas.base import utc_now
from schemas.explanation_options import Scalar, read_options
from schemas.headers import CONTENT_TYPE
from schemas.messages import Explanation, ExplanationRequest, ImageDtype, Tensor
from schemas.payloads import decode_request
from schemas.refusal import Refusal

MAX_OUTLIERS = 10_000
EXPLAINED = ("ok", "no_anchor")
Prediction = tuple[str, str | None, str | None]
"""Request id, model, version."""
COLUMNS = ("answer", "outcome", "precision", "coverage", "segments", "evaluations", "seconds")


@dataclass(frozen=True)
class ExplainOptions:
    """The command's options, in its order."""

    request_id: str | None = None
    image: Path | None = None
    all_outliers: bool = False
    last: str = "1h"
    model: str | None = None
    method: str = "anchors"
    options: tuple[str, ...] = ()
    timeout: float = 30.0
    output: Path = Path("build/explanations")


def run_explain(options: ExplainOptions, as_json: bool) -> bool:
    """Ask, wait, print, write overlays; True if everything was explained.

    Raises:
        ConfigurationError: an option is wrong, or there is nothing to ask about.
        TransientError: a server does not answer, or no agent does in time.
    """
    settings, console = read_settings(Settings), Console(stderr=as_json)
    questions = list(_questions(options, settings))
    answers = ask(settings, questions, options.timeout, console)
    options.output.mkdir(parents=True, exist_ok=True)
    for answer in answers:
        if answer.overlay_png is not None:
            _picture(options.output, answer).write_bytes(answer.overlay_png)
    if as_json:
        shown = [_summary(answer, options.output) for answer in answers]
        print(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())  # noqa: T201
    else:
        print_answers(console, answers, options.output)
    return all(answer.outcome in EXPLAINED for answer in answers)


def _questions(options: ExplainOptions, settings: Settings) -> Iterator[ExplanationRequest]:
    given = [options.request_id is not None, options.image is not None, options.all_outliers]
    if sum(given) != 1:
        raise ConfigurationError("say what to explain: the id of a request, --image FILE, or --all-outliers")
    fields: dict[str, Any] = {
        "method": options.method,
        "options": _checked_options(options),
        "asked_by": "modelwatch explain",
        "asked_at": utc_now(),
    }
    if options.image is not None:
        image = _read_image(options.image, options.model, settings)
        yield ExplanationRequest(
            request_id=f"{options.image.stem[:200]}-{uuid_utils.uuid7()}", image=image, model=options.model, **fields
        )
        return
    flagged = [] if options.request_id else _outliers(settings, options)
    for request_id, model, version in flagged or [(str(options.request_id), options.model, None)]:
        yield ExplanationRequest(request_id=request_id, model=model, model_version=version, **fields)


def read_pairs(texts: Iterable[str]) -> dict[str, Scalar]:
    """Options from texts NAME=VALUE; a value that is no number, `true` or `false` is taken as it is.

    Raises:
        ConfigurationError: a text without `=`.
    """
    chosen: dict[str, Scalar] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigurationError(f"option {text!r} is not NAME=VALUE, such as preset=article or n_segments=12")
        try:
            chosen[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            chosen[name] = value
    return chosen


def _checked_options(options: ExplainOptions) -> Mapping[str, Scalar]:
    chosen = read_pairs(options.options)
    try:
        read_options(options.method, chosen)
    except Refusal as refusal:
        raise ConfigurationError(refusal.detail) from refusal
    return chosen


def _read_image(path: Path, model: str | None, settings: Settings) -> Tensor:
    spec = model_named(model, settings).spec
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigurationError(f"{path} is no image: files ending {', '.join(SUFFIXES)} are read")
    headers: list[tuple[str, bytes | None]] = [(CONTENT_TYPE, SUFFIXES[path.suffix.lower()].encode())]
    try:
        images = decode_request(path.read_bytes(), None, headers, time.time(), {spec.name: spec}, spec.name).images
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except Refusal as refusal:
        raise ConfigurationError(f"{path}: {refusal.detail}") from refusal
    if len(images) != 1:
        raise ConfigurationError(f"{path} holds {len(images)} images; one is explained at a time")
    return Tensor(dtype=ImageDtype(images.dtype.name), shape=images.shape[1:], data=images[0].tobytes())


def _outliers(settings: Settings, options: ExplainOptions) -> list[Prediction]:
    """The flagged pairs since `--last`, the oldest first."""
    since = utc_now() - duration("--last", options.last)
    key, ca_certs = settings.elasticsearch_api_key, settings.elasticsearch_ca_certs
    secure: dict[str, Any] = {"ca_certs": str(ca_certs)} if ca_certs else {}
    store = Elasticsearch(
        settings.elasticsearch_url, request_timeout=30, api_key=key.get_secret_value() if key else None, **secure
    )
    try:
        return list(_flagged(store, since, options.model))
    except (ApiError, TransportError) as error:
        raise TransientError(f"the record store does not answer: {error}; is ELASTICSEARCH_URL right?") from error
    finally:
        store.close()


def _flagged(store: Elasticsearch, since: datetime, model: str | None) -> Iterator[Prediction]:
    terms: list[dict[str, Any]] = [
        {"term": {"outlier.is_outlier": True}},
        {"range": {"@timestamp": {"gte": since.isoformat()}}},
    ]
    if model is not None:
        terms.append({"term": {"model": model}})
    found = store.search(
        index=all_of(INFERENCES),
        query={"bool": {"filter": terms}},
        size=MAX_OUTLIERS,
        sort=[{"@timestamp": "asc"}],
        source_includes=["request_id", "response.model", "response.model_version"],
        allow_no_indices=True,
    )["hits"]["hits"]
    if not found:
        raise ConfigurationError(f"no pair was flagged since {since:%Y-%m-%d %H:%M:%S} UTC; reach back with --last")
    for hit in found:
        source = hit["_source"]
        yield source["request_id"], source["response"]["model"], source["response"]["model_version"]


def _picture(folder: Path, answer: Explanation) -> Path:
    """Where the overlay goes; ids may hold anything."""
    name = f"{answer.request_id[:150]}-{answer.model[:64]}-{answer.method}"
    return folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.png"


def _summary(answer: Explanation, folder: Path) -> dict[str, Any]:
    left_out = {"schema_version", "anchor_mask", "segments", "importance", "overlay_png"}
    overlay = str(_picture(folder, answer)) if answer.overlay_png is not None else None
    return answer.model_dump(mode="json", exclude=left_out) | {"segments": _segments(answer), "overlay": overlay}


def _segments(answer: Explanation) -> int | None:
    return max(answer.segments.data) + 1 if answer.segments is not None else None


def print_answers(console: Console, answers: Sequence[Explanation], folder: Path) -> None:
    table = Table(Column("id", overflow="fold"), *(Column(name, no_wrap=True) for name in COLUMNS), box=None)
    for answer in answers:
        held = "" if answer.anchor is None else f"{len(answer.anchor)} of {_segments(answer)}"
        figures = ("" if one is None else f"{one:.3f}" for one in (answer.precision, answer.coverage))
        evaluations, seconds = str(answer.distinct_evaluations), f"{answer.seconds:.2f}"
        table.add_row(
            Text(answer.request_id), Text(answer.label or ""), answer.outcome, *figures, held, evaluations, seconds
        )
    console.print(table)
    for answer in answers:
        if answer.reason:
            console.print(f"{answer.request_id}: {answer.reason}", markup=False, highlight=False)
    drawn = [_picture(folder, answer) for answer in answers if answer.overlay_png is not None]
    if drawn:
        where = str(drawn[0]) if len(drawn) == 1 else f"{len(drawn)} pictures in {folder}"
        console.print(f"Overlay: {where}", markup=False, highlight=False)
