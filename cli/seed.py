"""`modelwatch seed`: the article's story as traffic for a pipeline that runs: clean, drifting, masked, right, wrong."""

import time
from dataclasses import replace

from rich.console import Console

from cli.demo.monitoring import CORRUPTIONS, MASKS
from cli.feedback import FeedbackOptions, send_feedback
from cli.produce import ProduceOptions, send
from runtime.settings import Settings, read_settings
from training.datasets import load_cifar10

BAD_MESSAGES = 7


def story(images: int, rate: float | None, prefix: str) -> list[tuple[ProduceOptions, float | None]]:
    """What is sent, in order, and the accuracy of the feedback about it, None where there is none."""

    def of(name: str) -> ProduceOptions:
        return ProduceOptions("cifar10", images, rate=rate, prefix=f"{prefix}-{name}")

    return [
        (replace(of("clean"), bad=BAD_MESSAGES), 0.9),
        *((replace(of(corruption), corruption=corruption), None) for corruption in CORRUPTIONS),
        *((replace(of(f"mask-{side}"), source="truck", count=1, mask=side), None) for side in MASKS),
        (of("again"), 0.4),
    ]


def run_seed(images: int, rate: float | None) -> None:
    """Send all of it, saying what comes."""
    console, settings = Console(), read_settings(Settings)
    console.print("Preparing CIFAR-10 …")
    load_cifar10()
    prefix = time.strftime("seed-%Y%m%dT%H%M%S")
    for options, accuracy in story(images, rate, prefix):
        told = "" if accuracy is None else f", then feedback that calls {accuracy:.0%} of the answers right"
        console.print(
            f"Sending {options.count} × {(options.prefix or '').removeprefix(prefix + '-')}{told} …", highlight=False
        )
        send(options, settings, console)
        if accuracy is not None:
            send_feedback(FeedbackOptions(options.prefix, accuracy=accuracy, shuffle=True), settings, console)
    console.print(f"Done. Request ids begin with {prefix}-", highlight=False, markup=False)
