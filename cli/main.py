"""The `modelwatch` command: each sub-command's work is in a module of its own, imported when it is called."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.letters.app import letters_app
from cli.train import train_app
from runtime import tensorflow_environment
from runtime.errors import CONFIGURATION_EXIT, ConfigurationError, ModelwatchError
from runtime.logging import quieten
from runtime.settings import unknown_variables

tensorflow_environment.prepare()

app = typer.Typer(
    help="Production monitoring for machine-learning classifiers on Kafka.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench_app = typer.Typer(help="Measure a part of the pipeline against the bare libraries.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")
app.add_typer(train_app, name="train")
app.add_typer(letters_app, name="letters")

MAX_PORT = 65535
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def _port_option(text: str) -> Any:
    return typer.Option(min=0, max=MAX_PORT, help=text)


@app.command()
def up(
    kafka_port: Annotated[int, _port_option("Port of the embedded broker; 0 for any.")] = 9092,
    elasticsearch_port: Annotated[int, _port_option("Port of the embedded record store; 0 for any.")] = 9200,
    worker_port: Annotated[int, _port_option("HTTP port of the first worker; 0 for any.")] = 8080,
    agents_port: Annotated[int, _port_option("HTTP port of the first agent; 0 for any.")] = 8090,
    workers: Annotated[int, typer.Option(min=1, help="Inference workers to run.")] = 1,
    data: Annotated[Path, typer.Option(help="Where the embedded servers keep their data.")] = Path("build/up"),
) -> None:
    """Run the pipeline until Ctrl-C, on embedded servers unless KAFKA_BOOTSTRAP_SERVERS or ELASTICSEARCH_URL is set."""
    from cli.stack import Ports
    from cli.up import run_up

    run_up(Ports(kafka_port, elasticsearch_port, worker_port, agents_port), workers, data)


@app.command()
def setup(
    acls: Annotated[
        str | None,
        typer.Option(metavar="PRINCIPAL", help="Also give each service's user its rights, e.g. 'User:{name}'."),
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to go on trying while a server does not answer.")] = 0.0,
) -> None:
    """Create the topics on the brokers and the index templates in the record store. Safe to repeat."""
    from cli.setup import run_setup

    run_setup(acls, wait)


@app.command()
def seed(
    images: Annotated[int, typer.Option(min=10, max=10000, help="Images of each act.")] = 1000,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Images a second; default as fast as possible.")] = 100.0,
) -> None:
    """Send the article's story to a running pipeline: clean, drifting and masked images, good and bad feedback."""
    from cli.seed import run_seed

    run_seed(images, rate)


@app.command()
def produce(
    source: Annotated[
        str, typer.Argument(help="`cifar10` (test images), `truck`, a folder of images, or one image file.")
    ] = "cifar10",
    count: Annotated[int | None, typer.Option(min=1, help="Images to send; default all of the source.")] = None,
    start: Annotated[int, typer.Option(min=0, help="First image of the source.")] = 0,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Images a second; default as fast as possible.")] = None,
    payload: Annotated[
        str | None, typer.Option("--format", help="png, jpeg, npy, json, v2 or v1; default png, npy under a mask.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask; default the workers' default model.")] = None,
    corruption: Annotated[str | None, typer.Option(help="Corrupt each image, e.g. gaussian_noise.")] = None,
    severity: Annotated[int, typer.Option(min=1, max=5, help="Severity of the corruption.")] = 5,
    mask: Annotated[int | None, typer.Option(min=1, max=31, help="Noise a square of this many pixels a side.")] = None,
    bad: Annotated[int, typer.Option(min=0, help="Unreadable messages to mix in, on purpose.")] = 0,
    prefix: Annotated[str | None, typer.Option(help="Start of the request ids; default made from the time.")] = None,
    seed: Annotated[int, typer.Option(help="For corruption, mask and the place of bad messages.")] = 0,
) -> None:
    """Send images to inference.requests."""
    from cli.produce import ProduceOptions, run_produce

    run_produce(
        ProduceOptions(source, count, start, rate, payload, model, corruption, severity, mask, bad, prefix, seed)
    )


@app.command()
def feedback(
    prefix: Annotated[str | None, typer.Option(help="Start of the request ids, as `produce` printed it.")] = None,
    csv: Annotated[
        Path | None,
        typer.Option(help="File of rows id,truth instead; truth: class index, label, or a regression model's number."),
    ] = None,
    accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of right answers to feign; default the data set's labels.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Requests to tell about, by id; default all.")] = None,
    delay: Annotated[float, typer.Option(min=0, help="Seconds to wait first.")] = 0.0,
    rate: Annotated[
        float | None, typer.Option(min=0.01, help="Messages a second; default as fast as possible.")
    ] = None,
    shuffle: Annotated[bool, typer.Option(help="Send in random order.")] = False,
    duplicates: Annotated[float, typer.Option(min=0, max=1, help="Share that is sent twice.")] = 0.0,
    corrections: Annotated[float, typer.Option(min=0, max=1, help="Share that is wrong at first.")] = 0.0,
    model: Annotated[str | None, typer.Option(help="Model that answered; default the workers' default model.")] = None,
    seed: Annotated[int, typer.Option(help="For all that is random.")] = 0,
) -> None:
    """Send the truth about produced images to inference.feedback."""
    from cli.feedback import FeedbackOptions, run_feedback

    run_feedback(
        FeedbackOptions(prefix, csv, accuracy, count, delay, rate, shuffle, duplicates, corrections, model, seed)
    )


@app.command()
def pairs(
    last: Annotated[int, typer.Option(min=0, help="Show this many of each partition's latest pairs first.")] = 10,
    follow: Annotated[bool, typer.Option(help="Go on with new pairs until Ctrl-C.")] = True,
    as_json: Json = False,
) -> None:
    """Show request/response pairs as they are published."""
    from cli.pairs import run_pairs

    run_pairs(last, follow, as_json)


@app.command()
def top(
    urls: Annotated[
        list[str] | None, typer.Argument(metavar="[URL]...", help="Processes to watch; default: those of `up`.")
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder of `up`, whose targets.json says where the processes are.")] = Path(
        "build/up"
    ),
    workers: Annotated[int, typer.Option(min=0, help="Workers, where there is no such file.")] = 1,
    worker_port: Annotated[int, _port_option("Port of the first worker, likewise.")] = 8080,
    agents_port: Annotated[int, _port_option("Port of the first agent, likewise.")] = 8090,
    interval: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two readings.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end; so does output to a file.")] = False,
) -> None:
    """Watch the processes live, from their own /metrics, until Ctrl-C. With --once, exit status 1 if none answers."""
    from cli.stack import Ports
    from cli.top.command import run_top

    ports = Ports(worker=worker_port, agents=agents_port)
    raise typer.Exit(0 if run_top(urls or (), data, workers, ports, interval, once) else 1)


@app.command()
def demo(
    images: Annotated[int, typer.Option(min=100, max=10000, help="Test images to stream.")] = 1000,
    output: Annotated[Path, typer.Option(help="Folder of report.html, report.json and the logs.")] = Path("build/demo"),
) -> None:
    """Run the whole story on embedded servers with real CIFAR-10, and check it. Exit status 0 only if all holds."""
    from cli.demo.command import run_demo

    raise typer.Exit(0 if run_demo(images, output) else 1)


@app.command()
def doctor(
    load: Annotated[bool, typer.Option(help="Load each model as the worker does, which takes some seconds.")] = True,
) -> None:
    """Check Python, disk, ports, settings, model folders, broker and record store, and say what to do."""
    from cli.doctor import run_doctor

    raise typer.Exit(0 if run_doctor(load) else 1)


@app.command()
def explain(
    request_id: Annotated[str | None, typer.Argument(metavar="ID", help="Id of an earlier request.")] = None,
    image: Annotated[Path | None, typer.Option(help="Explain the answer about this image file instead.")] = None,
    all_outliers: Annotated[bool, typer.Option("--all-outliers", help="Explain every flagged pair.")] = False,
    last: Annotated[str, typer.Option(help="How far back --all-outliers reaches, e.g. 30m, 1h, 2d.")] = "1h",
    model: Annotated[str | None, typer.Option(help="Model; default that of the request, or the default model.")] = None,
    method: Annotated[str, typer.Option(help="anchors or occlusion.")] = "anchors",
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of the method, e.g. preset=article; repeatable.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Deadline of each explanation, in seconds.")] = 30.0,
    output: Annotated[Path, typer.Option(help="Folder of the overlay pictures.")] = Path("build/explanations"),
    as_json: Json = False,
) -> None:
    """Why did the model answer that? Asks the explanations agent. Exit status 1 if anything is not explained."""
    from cli.explain import ExplainOptions, run_explain

    options = ExplainOptions(request_id, image, all_outliers, last, model, method, tuple(option or ()), timeout, output)
    raise typer.Exit(0 if run_explain(options, as_json) else 1)


@app.command()
def replay(
    begin: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="RFC 3339, e.g. 2026-01-31T12:00:00Z; default: all.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="RFC 3339; default: now.")] = None,
    older: Annotated[
        list[Path] | None,
        typer.Option(
            "--older-models", help="Folder of model folders as they were, for detectors retrained since; repeatable."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute drift windows and outlier verdicts again, and compare. Exit status 1 if anything is not as recorded; what
    can no longer be computed is said."""
    from cli.replay.command import run_replay

    raise typer.Exit(0 if run_replay(begin, end, older or (), as_json) else 1)


@bench_app.command("worker")
def bench_worker(
    seconds: Annotated[float, typer.Option(min=1, help="Time for each figure.")] = 6.0,
    formats: Annotated[str, typer.Option(help="Payload formats, comma-separated.")] = "png,jpeg,npy,json,v2,v1",
    as_json: Json = False,
) -> None:
    """Throughput and latency of the inference worker, beside the bare model and a bare Kafka copy."""
    from cli.bench.worker import run_bench_worker

    report = run_bench_worker(seconds, formats.split(","), Console(stderr=True))
    if as_json:
        typer.echo(json.dumps(report, indent=2))


@bench_app.command("outliers")
def bench_outliers(
    pairs: Annotated[int, typer.Option(min=2000, help="Pairs in the agent's backlog.")] = 10_000,
    seconds: Annotated[float, typer.Option(min=1, help="Time for alibi-detect alone, before and after.")] = 6.0,
    as_json: Json = False,
) -> None:
    """The outliers agent, from Kafka to the record store, beside alibi-detect's `predict` alone."""
    from cli.bench.agents import run_bench_outliers

    report = run_bench_outliers(pairs, seconds, Console(stderr=True))
    if as_json:
        typer.echo(json.dumps(report, indent=2))


@bench_app.command("drift")
def bench_drift(
    pairs: Annotated[int, typer.Option(min=2000, help="Pairs in the agent's backlog.")] = 10_000,
    as_json: Json = False,
) -> None:
    """One window's test beside alibi-detect's, and the whole drift agent."""
    from cli.bench.agents import run_bench_drift

    report = run_bench_drift(pairs, Console(stderr=True))
    if as_json:
        typer.echo(json.dumps(report, indent=2))


@bench_app.command("confusion")
def bench_confusion(
    pairs: Annotated[
        int, typer.Option(min=2000, help="Pairs in the agent's backlog, and feedback about each.")
    ] = 10_000,
    ids: Annotated[int, typer.Option(min=0, help="Requests through the join's state alone.")] = 1_000_000,
    max_entries: Annotated[int, typer.Option(min=1000, help="Bound of that state.")] = 250_000,
    as_json: Json = False,
) -> None:
    """The confusion agent, from Kafka to the record store; and its state with many more requests than it may hold."""
    from cli.bench.confusion import run_bench_confusion

    report = run_bench_confusion(pairs, ids, max_entries, Console(stderr=True))
    if as_json:
        typer.echo(json.dumps(report, indent=2))


@bench_app.command("explanations")
def bench_explanations(
    images: Annotated[int, typer.Option(min=2, help="Images to explain, the truck among them.")] = 20,
    as_json: Json = False,
) -> None:
    """Anchors beside alibi's own, of the same images, model and seed; and the agent with eight questions at once."""
    from cli.bench.explanations import run_bench_explanations

    report = run_bench_explanations(images, Console(stderr=True))
    if as_json:
        typer.echo(json.dumps(report, indent=2))


@bench_app.command("explanation-quality")
def bench_explanation_quality(
    images: Annotated[int, typer.Option(min=1, help="Test images to explain under each setting.")] = 200,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE,…", help="Options of the anchors to try; repeatable; default: a list of ours."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """How informative anchors are under each of several settings, with precision estimated anew on fresh draws."""
    from cli.bench.explanation_quality import run_quality

    report = run_quality(images, setting or (), Console(stderr=True))
    if as_json:
        typer.echo(json.dumps(report, indent=2))


def main() -> None:
    """Entry point: a user's mistake ends in one line, not a traceback."""
    quieten()
    for said in unknown_variables(os.environ):
        _say(said, "yellow")
    try:
        app()
    except ConfigurationError as error:
        _say(str(error), "red")
        sys.exit(CONFIGURATION_EXIT)
    except ModelwatchError as error:
        _say(str(error), "red")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _say(what: str, style: str) -> None:
    Console(stderr=True).print(f"modelwatch: {what}", style=style, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
