"""The whole pipeline on three nodes of Apache Kafka, under a steady stream, with all that a fault needs at hand."""

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import psutil

from runtime import kafka
from runtime.embedded import EmbeddedServers
from runtime.record_indices import setup_record_store
from runtime.settings import Settings
from schemas.base import utc_now
from schemas.topics import EXPLANATION_REQUESTS, EXPLANATIONS, FEEDBACK
from tests.faults.agents import Store, make_models, reports, wait_for
from tests.faults.side_traffic import SideTraffic
from tests.faults.stream import PARTITIONS, RequestStream
from tests.integration.workers import WorkerProcess
from tests.servers.flaky_store import FlakyStore
from tests.servers.kafka_cluster import KafkaCluster
from tests.servers.messages import read
from tests.servers.proxy import TcpProxy

MODEL = "cifar10-resnet32"
WINDOW = 200
PROCESSES = {"inference": 2, "outliers": 1, "drift": 2, "confusion": 2, "explanations": 1}
TICK_SECONDS = 0.25
QUESTION_SECONDS = 3.0
TRUTH_SECONDS = 1.0
"""How long after its request a truth is told."""
SESSION_MS = "6000"
SETTLE_SECONDS = 300.0
LOOK_AT = 500
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@dataclass(frozen=True)
class Sample:
    """Resources of all our processes at one moment.

    Attributes:
        at: seconds since the start.
        resident_bytes, descriptors: of each process that ran, by name.
        unrecorded: requests sent without a complete record yet.
    """

    at: float
    resident_bytes: dict[str, int]
    descriptors: dict[str, int]
    unrecorded: int


class Truths:
    """Tells the truth about each request of a stream a moment later, and asks now and then for an explanation."""

    def __init__(self, settings: Settings, stream: RequestStream) -> None:
        self.questions: list[str] = []
        self.told = 0
        self._stream = stream
        self._producer = kafka.producer(settings, **{"log_level": 0})
        self._guard = kafka.DeliveryGuard()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "Truths":
        self._thread.start()
        return self

    def finish(self) -> None:
        """Tell what is left, and see all acknowledged."""
        self._stopping.set()
        self._thread.join()
        self._tell(len(self._stream.truths))
        assert self._producer.flush(60) == 0
        self._guard.check()

    def _run(self) -> None:
        asked, known = time.monotonic(), [0] * int(TRUTH_SECONDS / TICK_SECONDS)
        while not self._stopping.wait(TICK_SECONDS):
            known.append(len(self._stream.truths))
            self._tell(known.pop(0))
            if self.told and time.monotonic() - asked > QUESTION_SECONDS:
                asked = time.monotonic()
                self._ask(self._stream.name_of(self.told - 1))
            self._producer.poll(0)

    def _tell(self, count: int) -> None:
        for number in range(self.told, count):
            name = self._stream.name_of(number)
            truth = self._stream.truths[name]
            value = json.dumps({"request_id": name, "truth_index": truth, "given_at": utc_now().isoformat()})
            kafka.produce(self._producer, FEEDBACK.name, self._guard.on_delivery, key=name, value=value)
        self.told = max(self.told, count)

    def _ask(self, name: str) -> None:
        question = {"request_id": name, "asked_at": utc_now().isoformat(), "options": {"preset": "article"}}
        value = json.dumps(question)
        kafka.produce(self._producer, EXPLANATION_REQUESTS.name, self._guard.on_delivery, key=name, value=value)
        self.questions.append(name)


class Progress:
    """How many requests have a field in their record: asked by id, the oldest first.

    The store's own count looks at every record, and soon takes it longer than all the pipeline's writes.
    """

    def __init__(self, store: Store, stream: RequestStream, field: str) -> None:
        self._store, self._stream, self._field = store, stream, field
        self._pending: dict[int, None] = {}
        self._known = 0
        self._lock = threading.Lock()

    def count(self) -> int:
        """Look at those that had none, and count."""
        with self._lock:
            known = len(self._stream.truths)
            self._pending.update(dict.fromkeys(range(self._known, known)))
            self._known = known
            while oldest := list(islice(self._pending, LOOK_AT)):
                names = {self._stream.name_of(number): number for number in oldest}
                found = self._store.having(names, self._field)
                for name in found:
                    del self._pending[names[name]]
                if not found:
                    break
            return known - len(self._pending)


class Lab:
    """What faults are done to.

    Attributes:
        cluster: three brokers, each behind a proxy that all our processes go through.
        store: the record store; `flaky` answers for it as told, and `store_proxy` is the network before that.
        side: requests to models beside the lab's own.
        processes: by name; a killed one is started again by the fault itself or by `revive`.
        chance: one seed decides who is hit.
        storm_seconds: length of a rebalance storm, and of a time of more load.
        more_load: requests a second then.
        state: the state folders of the confusion agents.
        clock: file with the offset of the time of day, for processes that were started so.
    """

    def __init__(self, folder: Path, libraries: Path, rate: float, seed: int, storm_seconds: float) -> None:
        self.folder = folder
        self.cluster = KafkaCluster(folder / "kafka", libraries)
        self.servers = EmbeddedServers(folder / "store", keep=False)
        self.rate = rate
        self.storm_seconds = storm_seconds
        self.more_load = 3 * rate
        self.chance = random.Random(seed)
        self.clock = folder / "clock"
        self.clock.write_text("+0s\n")
        self.processes: dict[str, WorkerProcess] = {}
        self.samples: list[Sample] = []
        self.began = time.monotonic()

    @contextmanager
    def running(self) -> Iterator["Lab"]:
        """Everything up and the stream flowing; all of it killed at the end."""
        with ExitStack() as stack:
            stack.callback(self._kill)
            self.cluster.start()
            self.settings = Settings(
                kafka_bootstrap_servers=self.cluster.internal,
                kafka_partitions=PARTITIONS,
                kafka_replication_factor=len(self.cluster.nodes),
                instance="lab",
            )
            kafka.create_topics(self.settings, 60)
            self.servers.start()
            self.store = Store(self.servers.elasticsearch)
            asyncio.run(setup_record_store(Settings(elasticsearch_url=self.servers.elasticsearch)))
            self.flaky = stack.enter_context(in_a_thread(FlakyStore(self.servers.elasticsearch)))
            self.store_proxy = TcpProxy(int(self.flaky.url.rsplit(":", 1)[1])).start()
            self._start_processes()
            self.stream = stack.enter_context(RequestStream(self.settings, "lab", self.rate))
            self.truths = Truths(self.settings, self.stream).start()
            self.side = stack.enter_context(SideTraffic(self.settings))
            self._scored = Progress(self.store, self.stream, "outlier.score")
            self._joined = Progress(self.store, self.stream, "feedback.truth")
            wait_for(lambda: self.unrecorded() < 5 * self.rate, SETTLE_SECONDS, lambda: "the pipeline flows")
            self.began = time.monotonic()
            yield self

    def recorded(self) -> tuple[int, int]:
        """Records with a verdict, and records with their truth."""
        return self._scored.count(), self._joined.count()

    def unrecorded(self) -> int:
        """Requests without a complete record."""
        sent = len(self.stream.truths)
        return sent - min(self.recorded())

    def revive(self) -> None:
        """Start those that ended by themselves, as the supervisor would."""
        for process in self.processes.values():
            if not process.alive:
                process.start()

    def pick(self, *kinds: str) -> WorkerProcess:
        """One of the processes of these kinds, or of all, at random."""
        names = [name for name in self.processes if not kinds or name.rsplit("-", 1)[0] in kinds]
        return self.processes[self.chance.choice(names)]

    def sample(self) -> Sample:
        """Memory and file descriptors of each process now; kept."""
        resident, descriptors = {}, {}
        for name, process in self.processes.items():
            if process.alive:
                try:
                    program = psutil.Process(process.pid)
                    resident[name], descriptors[name] = program.memory_info().rss, program.num_fds()
                except psutil.Error:
                    continue
        sample = Sample(time.monotonic() - self.began, resident, descriptors, self.unrecorded())
        self.samples.append(sample)
        return sample

    def settle(self) -> None:
        """End the streams, and wait until everything that was sent is recorded."""
        self.side.finish()
        self.stream.finish(0)
        self.truths.finish()
        sent = len(self.stream.truths)
        wait_for(
            lambda: self.recorded() == (sent, sent), SETTLE_SECONDS, lambda: f"{self.recorded()} of {sent}", self.revive
        )
        wait_for(
            lambda: sent - sum(one.size for one in reports(self.settings).values() if one.model == MODEL) < WINDOW,
            SETTLE_SECONDS,
            lambda: "the last drift window",
            self.revive,
        )
        asked = set(self.truths.questions)
        wait_for(
            lambda: asked <= {message.key().decode() for message in read(self.settings, EXPLANATIONS.name)},
            SETTLE_SECONDS,
            lambda: "the last explanation",
            self.revive,
        )

    def stop(self) -> dict[str, int]:
        """SIGTERM to all once they are ready; their exit statuses."""
        for process in self.processes.values():
            process.wait_ready()
        for process in self.processes.values():
            process.terminate()
        return {name: process.wait(15) for name, process in self.processes.items()}

    def start_process(self, kind: str, number: int, own_clock: bool = False) -> WorkerProcess:
        """One more instance of a kind; its time of day is offset by what `clock` says, if that is its own."""
        name = f"{kind}-{number}"
        process = WorkerProcess(
            self.cluster.bootstrap,
            self.folder,
            name,
            models=self.models,
            environment=self._environment(kind, number) | (self._clock_environment() if own_clock else {}),
            module=kind if kind == "inference" else f"agents.{kind}",
        ).start()
        self.processes[name] = process
        return process

    def state_folder(self, kind: str, number: int) -> Path:
        return self.folder / "state" / f"{kind}-{number}"

    def _start_processes(self) -> None:
        self.models = make_models(self.folder / "models", [MODEL], {"window_size": WINDOW})
        for kind, count in PROCESSES.items():
            for number in range(count):
                self.state_folder(kind, number).mkdir(parents=True)
                self.start_process(kind, number)
        for process in self.processes.values():
            process.wait_ready(180)

    def _environment(self, kind: str, number: int) -> dict[str, str | None]:
        worker = self.processes.get("inference-0")
        environment: dict[str, str | None] = {
            "ELASTICSEARCH_URL": f"http://127.0.0.1:{self.store_proxy.port}",
            "MODELWATCH_SESSION_TIMEOUT_MS": SESSION_MS,
            "MODELWATCH_STATE_FOLDER": str(self.state_folder(kind, number)),
            "MODELWATCH_PERFORMANCE_WINDOW_SECONDS": "5",
            "MODELWATCH_JOIN_LOOKUP_SECONDS": "6",
            "MODELWATCH_WORKER_URL": worker.url if worker else None,
            "MODELWATCH_COMPUTE_THREADS": "1",
            "MODELWATCH_DEFAULT_MODEL": MODEL,
        }
        return environment

    def _clock_environment(self) -> dict[str, str | None]:
        return {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def _kill(self) -> None:
        for process in self.processes.values():
            process.kill()
        if hasattr(self, "store_proxy"):
            self.store_proxy.stop()
        self.servers.kill()
        self.cluster.kill()


@contextmanager
def in_a_thread(flaky: FlakyStore) -> Iterator[FlakyStore]:
    """The flaky store served by an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(flaky.__aenter__(), loop).result(10)
    try:
        yield flaky
    finally:
        asyncio.run_coroutine_threadsafe(flaky.__aexit__(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
