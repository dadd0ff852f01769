"""The AsyncAPI document, judged by the AsyncAPI initiative's own parser (npm, installed once a version)."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
import pytest

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parents[1] / "schemas" / "generated" / "asyncapi.json"
LOCK = HERE / "package-lock.json"
VERSION = json.loads((HERE / "package.json").read_text())["dependencies"]["@asyncapi/parser"]
INSTALL_SECONDS = 180


def installed_parser() -> Path:
    """The folder with the locked parser, installed on first use; another run beside this one does no harm."""
    cache = Path(platformdirs.user_cache_dir("modelwatch"))
    folder = cache / f"asyncapi-parser-{VERSION}"
    lock = folder / "package-lock.json"
    if lock.is_file() and lock.read_bytes() == LOCK.read_bytes():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f"{folder.name}-") as temporary:
        fresh = Path(temporary) / "fresh"
        fresh.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, fresh)
        install(fresh)
        if folder.exists():
            folder.rename(Path(temporary) / "old")
        try:
            fresh.rename(folder)
        except OSError:
            if not lock.is_file():
                raise
    return folder


def install(folder: Path) -> None:
    """Install what the lock names, running no script of any package."""
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    assert done.returncode == 0, f"npm ci failed:\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="session")
def parser() -> Path:
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        text = f"{' and '.join(missing)} not installed: the AsyncAPI document is not checked by the official parser"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)
    return installed_parser()


def validate(parser: Path, document: Path) -> "subprocess.CompletedProcess[str]":
    command = ["node", str(HERE / "validate.mjs"), str(document)]
    return subprocess.run(command, cwd=parser, capture_output=True, text=True, timeout=60)


def test_the_official_parser_accepts_the_document(parser: Path) -> None:
    done = validate(parser, DOCUMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "valid: AsyncAPI 3.0.0, 16 channels" in done.stdout
    assert not [line for line in done.stdout.splitlines() if line.startswith(("error", "warning"))]


def dangling_reference(document: Any) -> None:
    del document["components"]["schemas"]["InferencePair"]


def unknown_action(document: Any) -> None:
    next(iter(document["operations"].values()))["action"] = "publish"


def wrong_binding(document: Any) -> None:
    document["channels"]["inference.pairs"]["bindings"]["kafka"]["partitions"] = "four"


def invalid_payload_schema(document: Any) -> None:
    document["components"]["schemas"]["Feedback"]["type"] = "objekt"


def message_of_another_channel(document: Any) -> None:
    operation = document["operations"]["inference-worker.receive.inference.requests"]
    operation["messages"] = [{"$ref": "#/channels/inference.pairs/messages/InferencePair"}]


def no_title(document: Any) -> None:
    del document["info"]["title"]


@pytest.mark.parametrize(
    "damage",
    [
        dangling_reference,
        unknown_action,
        wrong_binding,
        invalid_payload_schema,
        message_of_another_channel,
        no_title,
    ],
    ids=lambda damage: damage.__name__,
)
def test_the_official_parser_refuses_a_broken_document(
    parser: Path, tmp_path: Path, damage: Callable[[Any], None]
) -> None:
    document = json.loads(DOCUMENT.read_text())
    damage(document)
    broken = tmp_path / "asyncapi.json"
    broken.write_text(json.dumps(document))
    done = validate(parser, broken)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "error " in done.stdout, done.stderr


def test_the_lock_pins_every_package_by_content_and_names_no_host() -> None:
    text = LOCK.read_text()
    packages = {name: package for name, package in json.loads(text)["packages"].items() if name}
    assert packages["node_modules/@asyncapi/parser"]["version"] == VERSION
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert "://" not in text
    assert "resolved" not in text
