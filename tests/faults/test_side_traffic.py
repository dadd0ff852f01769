"""One real worker answers or refuses requests to a model that comes and is retrained; the books see each."""

from collections import Counter
from pathlib import Path

import pytest

from runtime import kafka
from runtime.embedded import EmbeddedServers
from runtime.settings import Settings
from schemas.topics import PAIRS
from tests.faults.agents import MODEL, make_models
from tests.faults.models import REFUSED, SPEC, answered, either, replace_folder, restart_in_turn, retrained_folder
from tests.faults.side_ledger import Found, SideLedger, balance_side
from tests.faults.side_traffic import SideTraffic
from tests.integration.workers import WorkerProcess
from tests.servers.messages import read, send

pytestmark = pytest.mark.slow
FEW = 8
WITHOUT_AGENTS = {"unscored", "unjoined", "unwindowed", "miscounted"}


def books(side: SideTraffic) -> SideLedger:
    seen = side.seen()
    return balance_side(seen.sent, seen.told, Found(seen.pairs, seen.letters), SPEC["window_size"])


def test_each_request_to_a_model_that_comes_and_is_retrained_has_one_outcome_and_a_second_one_is_found(
    tmp_path: Path,
) -> None:
    models, incoming = make_models(tmp_path / "models", [MODEL], {}), tmp_path / "incoming"
    with EmbeddedServers(tmp_path / "servers", keep=False) as servers:
        settings = Settings(kafka_bootstrap_servers=servers.kafka, instance="test")
        kafka.create_topics(settings)
        environment = {"MODELWATCH_DEFAULT_MODEL": MODEL}
        worker = WorkerProcess(servers.kafka, tmp_path, models=models, environment=environment)
        with SideTraffic(settings) as side:
            try:
                worker.start().wait_ready()
                side.open("side", REFUSED)
                side.wait_sent("side", FEW)
                side.expect("side", either("1"))
                side.wait_settled("side")
                replace_folder(make_models(incoming, ["side"], SPEC) / "side", models / "side")
                restart_in_turn([worker])
                side.expect("side", answered("1"))
                side.wait_sent("side", FEW)
                side.expect("side", answered("1", "2"))
                side.wait_settled("side")
                replace_folder(retrained_folder(incoming, models / "side", "2"), models / "side")
                restart_in_turn([worker])
                side.expect("side", answered("2"))
                side.wait_sent("side", FEW)
                side.finish()
            finally:
                worker.kill()
            ledger = books(side)
            assert ledger.differences.keys() == WITHOUT_AGENTS
            assert (ledger.answered, ledger.refused) == (len(side.pairs), len(side.letters))
            assert ledger.answered + ledger.refused == ledger.sent == len(side.sent)
            assert Counter(one.version for one in side.pairs).keys() == {"1", "2"} and ledger.refused >= FEW
            assert side.told == {one.request_id for one in side.pairs}
            pair = read(settings, PAIRS.name)[0]
            send(settings, PAIRS.name, [pair.value()], key=pair.key())
            side.wait_seen(len(side.pairs) + 1)
            assert books(side).doubled_outcomes == [pair.key().decode()]
