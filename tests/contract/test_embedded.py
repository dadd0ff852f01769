"""The embedded servers' child process: how it starts, ends, keeps its data, and says what is wrong."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from runtime import embedded
from runtime.embedded import EmbeddedServers, free_ports, ready
from runtime.errors import ConfigurationError, FatalError
from runtime.kafka import cluster_topics, create_topics
from runtime.settings import Settings

SAVES_WITHIN = 3.0
"""The program saves what changed after two seconds at the latest."""


def settings(servers: EmbeddedServers) -> Settings:
    return Settings(kafka_bootstrap_servers=servers.kafka, instance="test")


def test_data_and_ports_survive_a_stop(tmp_path: Path) -> None:
    servers = EmbeddedServers(tmp_path / "new" / "folder")
    with servers:
        created = create_topics(settings(servers))
        address = servers.kafka
    assert not ready(servers.kafka_port, servers.elasticsearch_port)
    with servers:
        assert ready(servers.kafka_port, servers.elasticsearch_port)
        assert servers.kafka == address
        assert created and set(created) <= set(cluster_topics(settings(servers)))


def test_a_taken_port_is_named_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_ports(1)[0]))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(FatalError, match=f"port {port} .* is taken"):
            EmbeddedServers(tmp_path, kafka_port=port).start()


def test_servers_that_do_not_get_ready_in_time_are_ended_and_their_log_named(tmp_path: Path) -> None:
    servers = EmbeddedServers(tmp_path)
    with pytest.raises(FatalError, match=r"did not answer in time.*embedded\.log"):
        servers.start(timeout=0)
    servers.start()
    servers.kill()


def test_a_second_start_is_refused(tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path) as servers, pytest.raises(FatalError, match="already started"):
        servers.start()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None if name == "noida_db" else find(name))
    with pytest.raises(ConfigurationError, match="extra `local`"):
        EmbeddedServers(tmp_path).start()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a child with its parent")
def test_the_servers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from runtime.embedded import EmbeddedServers\n"
        "servers = EmbeddedServers(pathlib.Path(sys.argv[1])); servers.start()\n"
        "print('started', flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert any(line.strip() == "started" for line in parent.stdout or [])
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children
    parent.kill()
    parent.wait(10)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_free_ports_are_distinct_and_below_those_of_outgoing_connections() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert all(port in embedded.PORTS for port in ports)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="only systems with named pipes keep the program from saving")
def test_servers_that_keep_nothing_work_without_saving_and_their_folder_can_be_used_again(tmp_path: Path) -> None:
    servers = EmbeddedServers(tmp_path, keep=False)
    with servers:
        created = create_topics(settings(servers))
        time.sleep(SAVES_WITHIN)
        assert (tmp_path / "kafka.tmp").is_fifo() and not (tmp_path / "kafka.json").exists()
        assert set(created) <= set(cluster_topics(settings(servers)))
    assert not ready(servers.kafka_port, servers.elasticsearch_port)
    with EmbeddedServers(tmp_path) as keeping:
        assert not set(created) & set(cluster_topics(settings(keeping)))
        create_topics(settings(keeping))
    assert (tmp_path / "kafka.json").is_file()
