"""What `modelwatch train resnet32` and `outliers` do, step by step, with what they tell the user."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from runtime.errors import ConfigurationError
from runtime.model_folder import load_model_folder
from training.outliers import calibrate_outliers, train_outliers
from training.reference_model import WEIGHTS_FILE, install_classifier, model_from_arrays
from training.resnet32 import ResnetOptions, train_resnet32
from training.splits import AUTOENCODER_SPLIT, THRESHOLD_SPLIT
from training.temperature import calibrate_temperature
from training.vae import VaeOptions
from training.work_folder import WORK, start_anew, work_folder


@dataclass(frozen=True)
class ResnetCommand:
    """Options of `modelwatch train resnet32`."""

    folder: Path
    weights: Path | None = None
    epochs: int = ResnetOptions.epochs
    steps: int | None = None
    replace: bool = False
    seed: int = 0
    work: Path = WORK
    anew: bool = False


@dataclass(frozen=True)
class OutliersCommand:
    """Options of `modelwatch train outliers`."""

    folder: Path
    false_positive_rate: float
    epochs: int = VaeOptions.epochs
    latent: int = VaeOptions.latent
    calibrate_only: bool = False
    seed: int = 0
    work: Path = WORK
    anew: bool = False


def run_resnet32(command: ResnetCommand) -> None:
    """Train or take the weights, put them into the folder, and fit their temperature.

    Stopped after `steps`, it leaves the folder alone.

    Raises:
        ConfigurationError: the folder has weights already and is not to get others, or the given ones are not usable.
    """
    partial = command.steps is not None and command.weights is None
    if (command.folder / WEIGHTS_FILE).exists() and not command.replace and not partial:
        raise ConfigurationError(
            f"{command.folder / WEIGHTS_FILE} exists: give --replace to put others in its place, --folder for another "
            "folder, or --steps to train only so far"
        )
    if command.weights is not None:
        model = model_from_arrays(command.weights)
    else:
        options = ResnetOptions(epochs=command.epochs, seed=command.seed)
        work = work_folder(command.work, "resnet32", options)
        if command.anew:
            start_anew(work)
        model, curve = train_resnet32(options, work, command.steps)
        last = curve[-1]
        _say(f"step {last['step']}: loss {last['loss']:.3f}, accuracy on the batches {last['accuracy']:.3f}")
        _say(f"Learning curve: {work / 'learning_curve.json'}")
        if last["step"] < options.steps(50_000):
            _say(f"Not finished, so {command.folder} is left as it is; the same command without --steps goes on")
            return
    install_classifier(model, command.folder)
    section = calibrate_temperature(load_model_folder(command.folder))
    _say(f"{command.folder / WEIGHTS_FILE} written; temperature {section.temperature}")
    _say("Detectors look at the classifier's answers: run `modelwatch train drift` next")


def run_outliers(command: OutliersCommand) -> None:
    """Train and calibrate, or only calibrate."""
    if command.calibrate_only:
        section = calibrate_outliers(command.folder, command.false_positive_rate)
    else:
        options = VaeOptions(epochs=command.epochs, latent=command.latent, seed=command.seed)
        if command.anew:
            start_anew(work_folder(command.work, "outliers", options, AUTOENCODER_SPLIT))
        section = train_outliers(command.folder, options, command.false_positive_rate, command.work)
    _say(
        f"threshold {section.threshold:g}: {command.false_positive_rate:.2%} of clean images above it, from "
        f"{len(THRESHOLD_SPLIT)} images ({THRESHOLD_SPLIT})"
    )


def _say(text: str) -> None:
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
