"""Training steps with a progress bar and checkpoints: stopped at any moment, a training goes on where it was."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Step = Callable[[NDArray[np.int64], int], dict[str, float]]
"""Trains on the items of these indices, given the step's number; returns figures such as the loss."""
Curve = list[dict[str, float]]
CURVE_FILE = "learning_curve.json"


@dataclass(frozen=True)
class Plan:
    """A training of `steps` batches.

    Attributes:
        items: how many there are to draw batches from.
        seed: gives the order of items, epoch by epoch.
        checkpoints: folder of the checkpoints; one that already holds some is taken up where it ends.
        every: steps between checkpoints, and of one point of the learning curve.
    """

    title: str
    items: int
    batch: int
    steps: int
    seed: int
    checkpoints: Path
    every: int = 200

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one pass over the items; what is left over is not used in that pass."""
        return self.items // self.batch

    def chosen(self, step: int) -> NDArray[np.int64]:
        """Indices of a step's items, in ascending order."""
        epoch, number = divmod(step, self.steps_per_epoch)
        return np.sort(_order(self.items, self.seed, epoch)[number * self.batch : (number + 1) * self.batch])


@lru_cache(maxsize=1)
def _order(items: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(items)


def run_steps(plan: Plan, step: Step, model: Any, optimizer: Any, until: int | None = None) -> Curve:
    """Run the steps that are not done yet.

    Args:
        until: stop after this step, as if interrupted there.

    Returns:
        Mean figures of each `plan.every` steps, `step` among them; also written to `learning_curve.json`.
    """
    import tensorflow as tf

    saved = tf.train.Checkpoint(model=model, optimizer=optimizer)
    manager = tf.train.CheckpointManager(saved, str(plan.checkpoints), max_to_keep=1)
    curve = _restore(saved, manager, plan)
    done, last = int(curve[-1]["step"]) if curve else 0, min(until or plan.steps, plan.steps)
    with progress_bar() as bar:
        task = bar.add_task(plan.title, total=last, completed=min(done, last))
        figures: Curve = []
        for number in range(done, last):
            figures.append(step(plan.chosen(number), number))
            bar.advance(task)
            if len(figures) == plan.every or number + 1 == last:
                curve.append({"step": number + 1, **_means(figures)})
                _save(manager, plan, curve)
                figures = []
                bar.update(task, description=f"{plan.title}, loss {curve[-1]['loss']:.4g}")
    return curve


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


def _means(figures: Curve) -> dict[str, float]:
    return {name: round(float(np.mean([each[name] for each in figures])), 5) for name in figures[0]}


def _save(manager: Any, plan: Plan, curve: Curve) -> None:
    """The curve first: a kill between the two leaves one that is longer than the checkpoint, and is cut to it."""
    (plan.checkpoints / CURVE_FILE).write_text(json.dumps(curve, indent=1), encoding="utf-8")
    manager.save(checkpoint_number=int(curve[-1]["step"]))


def _restore(saved: Any, manager: Any, plan: Plan) -> Curve:
    plan.checkpoints.mkdir(parents=True, exist_ok=True)
    if manager.latest_checkpoint is None:
        return []
    saved.restore(manager.latest_checkpoint).assert_existing_objects_matched()
    done = int(manager.latest_checkpoint.rsplit("-", 1)[1])
    Console(stderr=True).print(f"Going on from step {done} in {plan.checkpoints}", highlight=False)
    curve: Curve = json.loads((plan.checkpoints / CURVE_FILE).read_text(encoding="utf-8"))
    return [point for point in curve if point["step"] <= done]
