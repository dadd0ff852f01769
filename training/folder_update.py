"""Changes to a model folder: sections of `model.yaml`, new files, and the checksums that go with them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from pydantic import BaseModel

from runtime.errors import ConfigurationError
from runtime.model_folder import write_checksums
from runtime.spec_file import SPEC_FILE, read_spec
from schemas.model_spec import ModelSpec


def update_spec(folder: Path, **sections: BaseModel | dict[str, BaseModel] | None) -> None:
    """Replace sections of `model.yaml`, keep the others as they are, and write the checksums anew.

    Raises:
        ConfigurationError: `model.yaml` is not valid, or the folder cannot be written.
    """
    file = folder / SPEC_FILE
    read_spec(file)
    content = yaml.safe_load(file.read_bytes())
    content |= {name: _plain(section) for name, section in sections.items()}
    content = {name: section for name, section in content.items() if section not in (None, {})}
    ModelSpec.model_validate(content)
    with writing(folder):
        replace_text(file, yaml.safe_dump(content, sort_keys=False, width=120))
        write_checksums(folder)


def replace_text(file: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part."""
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


@contextmanager
def new_files(folder: Path, name: str) -> Iterator[Path]:
    """An empty folder to fill, which then takes the place of the sub-folder `name`; left alone if filling it fails."""
    with writing(folder), TemporaryDirectory(dir=folder, prefix=".new-") as temporary:
        fresh = Path(temporary) / "files"
        fresh.mkdir()
        yield fresh
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (folder / name).exists():
            shutil.move(folder / name, Path(temporary) / "old")
        shutil.move(fresh, folder / name)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say which folder it was that could not be written."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written: {error.strerror or error}") from error


def _plain(section: BaseModel | dict[str, BaseModel] | None) -> object:
    if isinstance(section, BaseModel):
        return section.model_dump(mode="json", exclude_none=True)
    if isinstance(section, dict):
        return {name: _plain(value) for name, value in section.items()}
    return section
