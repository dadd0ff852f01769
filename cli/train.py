"""`modelwatch train`: model and detectors, from raw data to a calibrated model folder and its card."""

import json
import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from runtime.model_folder import load_model_folder
from runtime.spec_file import SPEC_FILE

Folder = Annotated[Path, typer.Option(help="The model's folder.")]
Work = Annotated[Path, typer.Option(help="Where unfinished trainings are kept.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result on the same machine.")]
Anew = Annotated[bool, typer.Option("--anew", help="Forget an unfinished training instead of going on with it.")]
WithReport = Annotated[bool, typer.Option(help="Measure the report and write the model card afterwards.")]
WithoutFashion = Annotated[
    bool, typer.Option("--without-fashion-mnist", help="Leave out the comparison with Fashion-MNIST.")
]
FalsePositives = Annotated[
    float, typer.Option(min=0.0005, max=0.5, help="Share of clean images that may be flagged as outliers.")
]
PValue = Annotated[float, typer.Option(min=1e-6, max=0.5, help="Chance of a false alarm of a drift test.")]
Correction = Annotated[Literal["bonferroni", "fdr"], typer.Option(help="Correction for testing many features at once.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes of the auto-encoder over the training images.")]
REFERENCE = Path("models/cifar10-resnet32")
WORK = Path("build/train")

train_app = typer.Typer(
    help="Train and calibrate the reference model and its detectors, and measure them. A GPU is used if TensorFlow "
    "sees one. Interrupted, the same command goes on from its last checkpoint.",
    no_args_is_help=True,
)


@train_app.command()
def resnet32(
    folder: Folder = REFERENCE,
    weights: Annotated[Path | None, typer.Option(help="Take the weights from this .npz file; train nothing.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 22,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after this step; a later call goes on there.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace weights that the folder has already.")] = False,
    seed: Seed = 0,
    work: Work = WORK,
    anew: Anew = False,
) -> None:
    """Train the classifier (hours on a CPU), and fit the temperature of its confidence."""
    from training.command import ResnetCommand, run_resnet32

    _prepare()
    run_resnet32(ResnetCommand(folder, weights, epochs, steps, replace, seed, work, anew))


@train_app.command()
def temperature(folder: Folder = REFERENCE) -> None:
    """Fit the temperature of the classifier's confidence on held-out images."""
    from training.image_folder import image_folder
    from training.temperature import calibrate_temperature

    image_folder(folder, by_class=True)
    _prepare()
    section = calibrate_temperature(load_model_folder(folder))
    _say(f"temperature {section.temperature}, fitted to {section.images} images ({section.source})")


@train_app.command()
def outliers(
    folder: Folder = REFERENCE,
    false_positive_rate: FalsePositives = 0.01,
    epochs: Epochs = 20,
    latent: Annotated[int, typer.Option(min=1, help="Length of the latent vector.")] = 512,
    calibrate_only: Annotated[
        bool, typer.Option("--calibrate-only", help="Keep the auto-encoder; set the threshold anew.")
    ] = False,
    seed: Seed = 0,
    work: Work = WORK,
    anew: Anew = False,
    report: WithReport = True,
    without_fashion_mnist: WithoutFashion = False,
) -> None:
    """Train the outlier detector's auto-encoder (half an hour on two cores), and calibrate its threshold."""
    from training.command import OutliersCommand, run_outliers

    _check(folder, report and not without_fashion_mnist)
    _prepare()
    run_outliers(OutliersCommand(folder, false_positive_rate, epochs, latent, calibrate_only, seed, work, anew))
    _report_after(folder, report, without_fashion_mnist)


@train_app.command()
def drift(
    folder: Folder = REFERENCE,
    p_value: PValue = 0.05,
    correction: Correction = "bonferroni",
    window_size: Annotated[int, typer.Option(min=20, help="Images of a window.")] = 1000,
    max_age_seconds: Annotated[float, typer.Option(min=1, help="A window is closed after this time.")] = 3600.0,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Images between starts of windows; default no overlap.")
    ] = None,
    seed: Seed = 0,
    report: WithReport = True,
    without_fashion_mnist: WithoutFashion = False,
) -> None:
    """Make the drift detectors: a random encoder, and reference features of held-out images (a minute)."""
    from training.drift import DriftOptions, train_drift

    _check(folder, report and not without_fashion_mnist)
    _prepare()
    options = DriftOptions(
        p_value=p_value,
        correction=correction,
        window_size=window_size,
        max_age_seconds=max_age_seconds,
        stride=stride,
        seed=seed,
    )
    for name, spec in train_drift(folder, options).items():
        _say(f"{name}: reference of {spec.source}, p-value {spec.p_value}, {spec.correction}")
    _report_after(folder, report, without_fashion_mnist)


@train_app.command("all")
def train_all(
    folder: Folder = REFERENCE,
    false_positive_rate: FalsePositives = 0.01,
    epochs: Epochs = 20,
    p_value: PValue = 0.05,
    correction: Correction = "bonferroni",
    seed: Seed = 0,
    work: Work = WORK,
    without_fashion_mnist: WithoutFashion = False,
) -> None:
    """The classifier if the folder has none, temperature, outlier detector, drift detectors, report and card."""
    from training.command import OutliersCommand, ResnetCommand, run_outliers, run_resnet32
    from training.drift import DriftOptions, train_drift
    from training.fashion_mnist import fashion_mnist_file
    from training.image_folder import image_folder
    from training.reference_model import WEIGHTS_FILE
    from training.temperature import calibrate_temperature

    if not without_fashion_mnist:
        fashion_mnist_file()
    if (folder / SPEC_FILE).exists():
        image_folder(folder, by_class=True)
    _prepare()
    if (folder / WEIGHTS_FILE).exists():
        _say(f"{folder / WEIGHTS_FILE} is there and kept; `modelwatch train resnet32 --replace` trains it anew")
        calibrate_temperature(load_model_folder(folder))
    else:
        run_resnet32(ResnetCommand(folder, seed=seed, work=work))
    run_outliers(OutliersCommand(folder, false_positive_rate, epochs, seed=seed, work=work))
    train_drift(folder, DriftOptions(p_value=p_value, correction=correction, seed=seed))
    _report_after(folder, True, without_fashion_mnist)


@train_app.command()
def report(
    folder: Folder = REFERENCE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    write: Annotated[bool, typer.Option(help="Write report.json and MODEL_CARD.md into the folder.")] = True,
    without_fashion_mnist: WithoutFashion = False,
) -> None:
    """Measure every figure of the model card from the folder's files (minutes), and print them."""
    from training.report.command import run_report

    _check(folder, not without_fashion_mnist, by_class=True)
    _prepare()
    measured = run_report(folder, write, not without_fashion_mnist)
    if as_json:
        typer.echo(json.dumps(measured, indent=2))
    else:
        from training.report.table import print_report

        print_report(measured, Console())


def _report_after(folder: Path, wanted: bool, without_fashion_mnist: bool) -> None:
    if not wanted:
        _say("The model card still tells of what was there before: `modelwatch train report` writes it anew")
        return
    from training.report.command import run_report

    run_report(folder, True, not without_fashion_mnist)
    _say(f"Measured: {folder / 'MODEL_CARD.md'}")


def _check(folder: Path, fashion_mnist: bool, by_class: bool = False) -> None:
    """What can be known to be missing is said at once, not after TensorFlow's import or half an hour's training."""
    from training.fashion_mnist import fashion_mnist_file
    from training.image_folder import image_folder

    image_folder(folder, by_class)
    if fashion_mnist:
        fashion_mnist_file()


def _prepare() -> None:
    """Import TensorFlow without the lines that its native code writes past every setting."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import tensorflow as tf
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def _say(text: str) -> None:
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
