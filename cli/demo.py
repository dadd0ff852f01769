"""`modelwatch demo`: the whole story on embedded servers and real images, with a verdict."""

import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import urllib3
import yaml
from rich.console import Console
from rich.table import Table

from cli.ask import ask
from cli.demo_feedback import ENVIRONMENT, FeedbackAct
from cli.demo_monitoring import Monitoring
from cli.demo_verdict import Verdict
from cli.log_output import LogFiles
from cli.produce import ProduceOptions, Sent, send
from cli.stack import Ports, Stack, running_stack
from cli.topic_reader import read_topic
from runtime.errors import TransientError
from runtime.model_folder import load_model_folders
from schemas.base import utc_now
from schemas.messages import ExplanationRequest, InferencePair
from schemas.pairs import read_pair
from schemas.payloads.encode import encode_v1, encode_v2
from schemas.topics import DEAD_LETTERS, PAIRS
from training.datasets import TRUCK_INDEX, load_cifar10

BAD_MESSAGES = 21
PAIR_SECONDS = 120.0
ACCURACY_MARGIN = 0.02
HTTP_REQUESTS = 20
EXPLANATION_PRECISION = 0.95
EXPLANATION_SECONDS = 30.0
RECORD_OFF = {"x-modelwatch-record": "false"}


def run_demo(images: int, output: Path) -> bool:
    """Run it, write `report.json`, print the table; True if every check holds."""
    console = Console()
    began = time.monotonic()
    verdict = Verdict()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    console.print("Preparing CIFAR-10 …")
    load_cifar10()
    verdict.seconds["data"] = time.monotonic() - began
    console.print(f"Starting broker, record store, worker and agents (logs in {output / 'logs'}) …")
    try:
        environment = {**ENVIRONMENT, "MODELWATCH_STATE_FOLDER": str(output / "servers" / "state")}
        with running_stack(
            Ports(0, 0, 0, 0), output / "servers", 1, LogFiles(output / "logs"), environment=environment
        ) as stack:
            verdict.seconds["start"] = time.monotonic() - began - verdict.seconds["data"]
            _story(stack, images, verdict, output, console)
    finally:
        shutil.rmtree(output / "servers", ignore_errors=True)
        verdict.seconds["total"] = time.monotonic() - began
        _write(verdict, output)
    _print(verdict, console)
    console.print(f"Report: {output / 'report.json'}", highlight=False)
    return verdict.ok


def _story(stack: Stack, images: int, verdict: Verdict, output: Path, console: Console) -> None:
    console.print(f"Streaming {images} test images, {BAD_MESSAGES} bad messages, the truck, and the truck masked …")
    sent = send(ProduceOptions("cifar10", images, bad=BAD_MESSAGES, prefix="demo"), stack.settings, console)
    stream = _pairs(stack, sent.request_ids)
    monitoring = Monitoring(stack, verdict, console)
    began = time.monotonic()
    monitoring.drift(sent)
    verdict.seconds["drift"] = time.monotonic() - began
    truck = send(ProduceOptions("truck", 1, prefix="demo"), stack.settings, console)
    monitoring.masks()
    feedback = FeedbackAct(stack, verdict, console)
    began = time.monotonic()
    feedback.run()
    verdict.seconds["feedback"] = time.monotonic() - began
    request_ids = [name for one in (sent, truck, *monitoring.sent) for name in one.request_ids]
    request_ids += feedback.request_ids
    pairs = _pairs(stack, request_ids)
    letters = _dead_letters(stack, len(sent.bad_ids))
    verdict.counts |= {
        "sent": len(request_ids),
        "bad_sent": len(sent.bad_ids),
        "pairs": len(pairs),
        "dead_letters": len(letters),
    }
    _check_delivery(verdict, request_ids, sent.bad_ids, pairs, letters)
    by_id = {pair.request.request_id: pair for pair in pairs}
    if any(name not in by_id for name in request_ids):
        return  # the figures below would be of a part of the images
    monitoring.check_records(request_ids, sent)
    monitoring.check_masks()
    _check_answers(verdict, stack, sent, by_id)
    _check_truck(verdict, stack, by_id[truck.request_ids[0]])
    _check_explanation(verdict, stack, truck.request_ids[0], output, console)
    answered = [pair.response.answered_at.timestamp() for pair in stream]
    took = max(answered) - min(pair.request.sent_at.timestamp() for pair in stream)
    verdict.seconds["stream"] = took
    verdict.seconds["http_request_median"] = _http_median(stack)
    console.print(
        f"{len(stream)} images answered in {took:.2f} s: {len(stream) / took:,.0f} images/s; "
        f"a single HTTP request takes {verdict.seconds['http_request_median'] * 1000:.0f} ms (median).",
        highlight=False,
    )


def _http_median(stack: Stack) -> float:
    """Seconds of one V2 request on an idle worker, the median of `HTTP_REQUESTS`, one after another."""
    body = encode_v2(load_cifar10(progress=False).train_images[TRUCK_INDEX][None])
    seconds = []
    for _ in range(HTTP_REQUESTS):
        began = time.perf_counter()
        _ask(stack, "/v2/models/{model}/infer", body)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def _ask(stack: Stack, path: str, body: bytes) -> dict[str, Any]:
    """The worker's answer about an image that is not recorded as a pair."""
    answer = urllib3.PoolManager().request(
        "POST",
        stack.urls["worker-0"] + path.format(model=stack.settings.default_model),
        body=body,
        headers={"content-type": "application/json", **RECORD_OFF},
    )
    reply: dict[str, Any] = orjson.loads(answer.data)
    return reply


def _pairs(stack: Stack, request_ids: list[str]) -> list[InferencePair]:
    """Every pair on the topic once all of `request_ids` are there."""
    missing = set(request_ids)
    pairs = []
    try:
        for message in read_topic(stack.settings, PAIRS.name, lambda: not missing, PAIR_SECONDS):
            pair = read_pair(message.value())
            missing.discard(pair.request.request_id)
            pairs.append(pair)
    except TransientError:
        return pairs  # the delivery check says how many are missing
    return pairs


def _dead_letters(stack: Stack, count: int) -> list[str]:
    """Keys of the dead letters."""
    keys: list[str] = []
    try:
        for message in read_topic(stack.settings, DEAD_LETTERS.name, lambda: len(keys) >= count, 30.0):
            keys.append((message.key() or b"").decode())
    except TransientError:
        return keys  # as above
    return keys


def _check_delivery(
    verdict: Verdict, request_ids: list[str], bad_ids: list[str], pairs: list[InferencePair], letters: list[str]
) -> None:
    wanted = Counter(request_ids)
    found = Counter(pair.request.request_id for pair in pairs)
    missing, extra = sum((wanted - found).values()), sum((found - wanted).values())
    verdict.check(
        "every request has exactly one pair",
        f"{wanted.total()} pairs, 0 missing, 0 extra",
        f"{found.total()} pairs, {missing} missing, {extra} extra",
        wanted == found,
    )
    verdict.check(
        "dead letters are the bad messages sent on purpose",
        f"{len(bad_ids)}",
        f"{len(letters)}",
        Counter(letters) == Counter(bad_ids),
    )


def _check_answers(verdict: Verdict, stack: Stack, sent: Sent, by_id: dict[str, InferencePair]) -> None:
    labels = load_cifar10(progress=False).test_labels
    answered = [
        (by_id[name].response.predicted, int(name.rsplit("-", 1)[1])) for name in sent.request_ids if name in by_id
    ]
    accuracy = float(np.mean([predicted == int(labels[index]) for predicted, index in answered])) if answered else 0.0
    stated = card_figures(stack)["test_accuracy"]
    verdict.check(
        "accuracy agrees with the model card",
        f"{stated:.4f} ± {ACCURACY_MARGIN}",
        f"{accuracy:.4f}",
        abs(accuracy - stated) <= ACCURACY_MARGIN,
    )


def _check_truck(verdict: Verdict, stack: Stack, pair: InferencePair) -> None:
    response = pair.response
    verdict.check(
        "the truck is a truck", "truck", f"{response.label} ({response.confidence:.4f})", response.label == "truck"
    )
    truck = load_cifar10(progress=False).train_images[TRUCK_INDEX]
    for name, path, body in (
        ("V2", "/v2/models/{model}/infer", encode_v2(truck[None])),
        ("V1, as in the article", "/v1/models/{model}/:predict", encode_v1(truck[None].astype(np.float32) / 255)),
    ):
        reply = _ask(stack, path, body)
        probabilities = (
            reply["predictions"][0] if "predictions" in reply else reply.get("outputs", [{}])[0].get("data", [])
        )
        predicted = int(np.argmax(probabilities)) if probabilities else None
        verdict.check(f"the truck by HTTP ({name})", "class 9", f"class {predicted}", predicted == 9)


def _check_explanation(verdict: Verdict, stack: Stack, request_id: str, output: Path, console: Console) -> None:
    """The truck's, asked by the id of its request; its picture goes beside the report."""
    question = ExplanationRequest(request_id=request_id, asked_by="modelwatch demo", asked_at=utc_now())
    [answer] = ask(stack.settings, [question], EXPLANATION_SECONDS, console)
    if answer.overlay_png is not None:
        (output / "truck.png").write_bytes(answer.overlay_png)
    verdict.seconds["explanation"] = answer.seconds
    precision = answer.precision or 0.0
    observed = f"precision {precision:.3f}, coverage {answer.coverage or 0.0:.3f}, {len(answer.anchor or ())} segments"
    verdict.check(
        "the truck's explanation holds",
        f"an anchor of precision >= {EXPLANATION_PRECISION}",
        observed if answer.outcome == "ok" else f"{answer.outcome}: {answer.reason}",
        answer.outcome == "ok" and bool(answer.anchor) and precision >= EXPLANATION_PRECISION,
    )


def card_figures(stack: Stack) -> dict[str, float]:
    """The figures in the front matter of the default model's card."""
    folder = load_model_folders(stack.settings.models)[stack.settings.default_model]
    front_matter = (folder.path / "MODEL_CARD.md").read_text().split("---")[1]
    figures: dict[str, float] = yaml.safe_load(front_matter)
    return figures


def _write(verdict: Verdict, output: Path) -> None:
    report = {
        "checks": verdict.checks,
        "counts": verdict.counts,
        "seconds": {name: round(value, 3) for name, value in verdict.seconds.items()},
    }
    (output / "report.json").write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))


def _print(verdict: Verdict, console: Console) -> None:
    table = Table("check", "expected", "observed", "ok", box=None, pad_edge=False)
    for check in verdict.checks:
        table.add_row(
            check["name"],
            str(check["expected"]),
            str(check["observed"]),
            "[green]yes[/]" if check["ok"] else "[red]NO[/]",
        )
    console.print(table)
