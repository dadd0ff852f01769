"""A training that is stopped and resumed ends where one without a break ends, and says how far it is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.loop import CURVE_FILE, Curve, Plan, run_steps


def plan(folder: Path, steps: int = 50) -> Plan:
    return Plan("Testing", items=100, batch=16, steps=steps, seed=3, checkpoints=folder, every=10)


def train(folder: Path, until: int | None = None) -> tuple[NDArray[np.float32], Curve]:
    """A linear model of random numbers, anew in this call but for its checkpoint."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    model = tf_keras.Sequential([tf_keras.layers.InputLayer((4,)), tf_keras.layers.Dense(1)])
    optimizer = tf_keras.optimizers.SGD(0.05, momentum=0.9)
    optimizer.build(model.trainable_weights)
    numbers = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)

    def step(chosen: NDArray[np.int64], number: int) -> dict[str, float]:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(numbers[chosen, :4]) - numbers[chosen, 4:]) ** 2)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_weights), model.trainable_weights, strict=True)
        )
        return {"loss": float(loss)}

    curve = run_steps(plan(folder), step, model, optimizer, until)
    weights: Any = model.get_weights()[0]
    return weights, curve


def test_a_training_in_two_parts_is_the_same_as_in_one(tmp_path: Path) -> None:
    whole, curve = train(tmp_path / "whole")
    first, part = train(tmp_path / "parts", until=30)
    second, resumed = train(tmp_path / "parts")
    assert not np.array_equal(first, whole)
    assert np.array_equal(second, whole)
    assert resumed == curve
    assert [point["step"] for point in part] == [10, 20, 30]
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert json.loads((tmp_path / "parts" / CURVE_FILE).read_text()) == curve


def test_a_finished_training_is_not_run_again(tmp_path: Path) -> None:
    done, curve = train(tmp_path)
    again, same = train(tmp_path)
    assert np.array_equal(done, again)
    assert same == curve


def test_every_item_is_drawn_once_an_epoch_in_an_order_of_its_own(tmp_path: Path) -> None:
    steps = [plan(tmp_path).chosen(step) for step in range(12)]
    first, second = np.concatenate(steps[:6]), np.concatenate(steps[6:])
    assert plan(tmp_path).steps_per_epoch == 6
    assert len(set(first.tolist())) == len(set(second.tolist())) == 96
    assert not np.array_equal(steps[0], steps[6])
    assert np.array_equal(steps[3], plan(tmp_path).chosen(3))
