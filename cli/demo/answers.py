"""The demo's checks of single answers: the truck by Kafka and by HTTP, the accuracy on clean images, an explanation."""

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import urllib3
import yaml
from rich.console import Console

from cli.ask import ask
from cli.demo.verdict import Verdict
from cli.produce import Sent
from cli.stack import Stack
from runtime.model_folder import model_named
from schemas.base import utc_now
from schemas.messages import Explanation, ExplanationRequest, InferencePair
from schemas.payloads.encode import encode_v1, encode_v2
from training.datasets import TRUCK_INDEX, load_cifar10

ACCURACY_DEVIATIONS = 3
"""Standard deviations that chance may make of the card's accuracy, where there are fewer than `ENOUGH_IMAGES`."""
ACCURACY_MARGIN = 0.02
ENOUGH_IMAGES = 1000
HTTP_REQUESTS = 20
EXPLANATION_PRECISION = 0.95
EXPLANATION_SECONDS = 30.0
RECORD_OFF = {"x-modelwatch-record": "false"}


def check_accuracy(verdict: Verdict, stack: Stack, sent: Sent, pairs: Mapping[str, InferencePair]) -> None:
    """The share of clean test images answered rightly is what the model card says."""
    labels = load_cifar10(progress=False).test_labels
    right = [pairs[name].response.predicted == int(labels[int(name.rsplit("-", 1)[1])]) for name in sent.request_ids]
    accuracy, stated = float(np.mean(right)), card_figures(stack)["test_accuracy"]
    chance = ACCURACY_DEVIATIONS * math.sqrt(stated * (1 - stated) / len(right))
    margin = ACCURACY_MARGIN if len(right) >= ENOUGH_IMAGES else max(ACCURACY_MARGIN, chance)
    verdict.check(
        "accuracy agrees with the model card",
        f"{stated:.4f} ± {margin:.4f}",
        f"{accuracy:.4f}",
        abs(accuracy - stated) <= margin,
    )


def check_truck(verdict: Verdict, stack: Stack, pair: InferencePair) -> None:
    """The truck is a truck, by Kafka and in both HTTP dialects."""
    response = pair.response
    observed = f"{response.label} ({response.confidence or 0.0:.4f})"
    verdict.check("the truck is a truck", "truck", observed, response.label == "truck")
    truck = load_cifar10(progress=False).train_images[TRUCK_INDEX]
    model = model_named(None, stack.settings).spec.name
    for name, path, body in (
        ("V2", f"/v2/models/{model}/infer", encode_v2(truck[None])),
        ("V1, as in the article", f"/v1/models/{model}/:predict", encode_v1(truck[None].astype(np.float32) / 255)),
    ):
        reply = _post(stack, path, body)
        probabilities = (
            reply["predictions"][0] if "predictions" in reply else reply.get("outputs", [{}])[0].get("data", [])
        )
        predicted = int(np.argmax(probabilities)) if probabilities else None
        verdict.check(f"the truck by HTTP ({name})", "class 9", f"class {predicted}", predicted == 9)


def check_explanation(verdict: Verdict, stack: Stack, request_id: str, console: Console) -> Explanation:
    """The truck's, asked by the id of its request."""
    question = ExplanationRequest(request_id=request_id, asked_by="modelwatch demo", asked_at=utc_now())
    [answer] = ask(stack.settings, [question], EXPLANATION_SECONDS, console)
    precision, segments = answer.precision or 0.0, len(answer.anchor or ())
    observed = (
        f"precision {precision:.3f}, coverage {answer.coverage or 0.0:.3f}, "
        f"{segments} segment{'' if segments == 1 else 's'}"
    )
    verdict.check(
        "the truck's explanation holds",
        f"an anchor of precision >= {EXPLANATION_PRECISION}",
        observed if answer.outcome == "ok" else f"{answer.outcome}: {answer.reason}",
        answer.outcome == "ok" and bool(answer.anchor) and precision >= EXPLANATION_PRECISION,
    )
    return answer


def http_median(stack: Stack) -> float:
    """Seconds of one V2 request on an idle worker, the median of `HTTP_REQUESTS`, one after another."""
    body = encode_v2(load_cifar10(progress=False).train_images[TRUCK_INDEX][None])
    url, seconds = f"/v2/models/{model_named(None, stack.settings).spec.name}/infer", []
    for _ in range(HTTP_REQUESTS):
        began = time.perf_counter()
        _post(stack, url, body)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def card_figures(stack: Stack) -> dict[str, float]:
    """The figures in the front matter of the default model's card."""
    folder = model_named(None, stack.settings)
    front_matter = (folder.path / "MODEL_CARD.md").read_text().split("---")[1]
    figures: dict[str, float] = yaml.safe_load(front_matter)
    return figures


def _post(stack: Stack, path: str, body: bytes) -> dict[str, Any]:
    """The worker's answer about an image that is not recorded as a pair."""
    answer = urllib3.PoolManager().request(
        "POST",
        stack.urls["worker-0"] + path,
        body=body,
        headers={"content-type": "application/json", **RECORD_OFF},
    )
    reply: dict[str, Any] = orjson.loads(answer.data)
    return reply
