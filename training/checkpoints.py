"""Epochs with a progress bar and a checkpoint after each: stopped at any moment, a training goes on where it was."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Step = Callable[[NDArray[np.int64], int], float]
"""Trains on the items of these indices, given the step's number; returns the loss."""


@dataclass(frozen=True)
class Epochs:
    """How long to train, and where checkpoints are kept."""

    title: str
    epochs: int
    batch: int
    seed: int
    checkpoints: Path


def train_epochs(plan: Epochs, items: int, step: Step, model: Any, optimizer: Any) -> list[float]:
    """Run the epochs that are not done yet; returns the mean loss of each of all epochs.

    The order of items is drawn from the seed and the epoch's number. A last batch that is not full is left out.
    """
    import tensorflow as tf

    saved = tf.train.Checkpoint(model=model, optimizer=optimizer)
    manager = tf.train.CheckpointManager(saved, str(plan.checkpoints), max_to_keep=1)
    losses = _restore(saved, manager, plan)
    per_epoch = items // plan.batch
    with progress_bar() as bar:
        task = bar.add_task(plan.title, total=plan.epochs * per_epoch, completed=len(losses) * per_epoch)
        for epoch in range(len(losses), plan.epochs):
            order = np.random.default_rng([plan.seed, epoch]).permutation(items)[: per_epoch * plan.batch]
            total = 0.0
            for number, chosen in enumerate(order.reshape(per_epoch, plan.batch)):
                total += step(np.sort(chosen), epoch * per_epoch + number)
                bar.advance(task)
            losses.append(total / per_epoch)
            bar.update(task, description=f"{plan.title}: epoch {epoch + 1}, loss {losses[-1]:.1f}")
            manager.save(checkpoint_number=epoch + 1)
            _losses_file(plan).write_text(json.dumps(losses))
    return losses


def progress_bar() -> Progress:
    """A bar on standard error with what is done, and how long it took and will take."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _restore(saved: Any, manager: Any, plan: Epochs) -> list[float]:
    if manager.latest_checkpoint is None:
        return []
    saved.restore(manager.latest_checkpoint).assert_existing_objects_matched()
    done = int(manager.latest_checkpoint.rsplit("-", 1)[1])
    losses: list[float] = json.loads(_losses_file(plan).read_text())
    return losses[:done]


def _losses_file(plan: Epochs) -> Path:
    return plan.checkpoints / "losses.json"
