"""A model as a folder: its `model.yaml`, its files, and the checksums they must match before anything reads them."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile
from typing import Any

import yaml
from pydantic import ValidationError

from runtime.errors import ConfigurationError
from schemas.model_spec import ModelSpec
from schemas.payloads.body import brief

SPEC_FILE = "model.yaml"
CHECKSUMS_FILE = "checksums.txt"
REPORT_FILE = "report.json"
"""What was measured of the model: documentation, as is every `.md` file."""
CHUNK_BYTES = 1 << 20
CHECKSUM_LINE = re.compile(r"(?P<digest>[0-9a-fA-F]{64}) [ *](?P<name>[^\\]+)")
"""A line that `sha256sum` writes; names with a backslash or a line break, which it escapes, are not accepted."""
YAML_SLIPS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What PyYAML lets through of values that do not fit their tag, such as the date 2026-99-99, and of deep nesting."""
MAX_DEPTH = 50
MAX_PROBLEMS = 10
"""Of a `model.yaml`, told at once."""


@dataclass(frozen=True)
class ModelFolder:
    """One model.

    Attributes:
        path: the folder.
        spec: its `model.yaml`.
        weights_sha256: hash of the weights file; of `model.yaml` for a model without weights (framework `null`).
    """

    path: Path
    spec: ModelSpec
    weights_sha256: str

    def verify(self, required: Iterable[str] = ()) -> None:
        """Check every file listed in `checksums.txt`.

        Args:
            required: further files, relative to the folder, that must be listed; the weights always must.

        Raises:
            ConfigurationError: naming the file that is missing, not listed, outside the folder, or has another
                hash than the list says, with the expected and the found one.
        """
        needed = [*required, *([self.spec.weights.file] if self.spec.weights.file else [])]
        if not needed and not (self.path / CHECKSUMS_FILE).exists():
            return
        listed = {_inside(self.path, name): digest for name, digest in read_checksums(self.path).items()}
        for name in needed:
            if _inside(self.path, name) not in listed:
                raise ConfigurationError(
                    f"{self.path / CHECKSUMS_FILE} does not list {name}; a file of a model is read only if its hash is "
                    f"known: add the line that `sha256sum {name}` prints in that folder"
                )
        for file, digest in listed.items():
            _check(file, digest)

    def file(self, name: str) -> Path:
        """Path of a file of this model.

        Raises:
            ConfigurationError: the name leads out of the folder.
        """
        return _inside(self.path, name)


def load_model_folders(root: Path) -> dict[str, ModelFolder]:
    """The models of a folder by name: its sub-folders that hold a `model.yaml`, and itself if it holds one.

    Raises:
        ConfigurationError: there is no model, two have one name, or one's `model.yaml` or weights are not usable.
    """
    models: dict[str, ModelFolder] = {}
    for folder in [root, *sorted(root.iterdir())] if root.is_dir() else []:
        if not (folder / SPEC_FILE).is_file():
            continue
        model = load_model_folder(folder)
        if model.spec.name in models:
            raise ConfigurationError(
                f"two models are named {model.spec.name}: {models[model.spec.name].path} and {folder}; "
                f"change `name` in the {SPEC_FILE} of one of them"
            )
        models[model.spec.name] = model
    if not models:
        raise ConfigurationError(
            f"no model in {root.absolute()}: neither it nor a sub-folder holds a {SPEC_FILE}; "
            "set MODELWATCH_MODELS to the folder of your model folders"
        )
    return models


def load_model_folder(folder: Path) -> ModelFolder:
    """One model folder, its files not yet verified.

    Raises:
        ConfigurationError: `model.yaml` is not valid, or the weights it names are missing or outside the folder.
    """
    spec = read_spec(folder / SPEC_FILE)
    return ModelFolder(folder, spec, sha256_of(_inside(folder, spec.weights.file or SPEC_FILE)))


def read_spec(file: Path) -> ModelSpec:
    """A `model.yaml`, validated.

    Raises:
        ConfigurationError: in one line, each field that is wrong, why, and the value found.
    """
    try:
        return ModelSpec.model_validate(_read_yaml(file))
    except ValidationError as error:
        raise ConfigurationError(f"{file} is not a valid model specification: {_one_line(error)}") from None


class _ShallowLoader(yaml.SafeLoader):
    """PyYAML takes seconds for a thousand levels, which no specification has."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _read_yaml(file: Path) -> Any:
    try:
        return yaml.load(file.read_bytes(), _ShallowLoader)  # noqa: S506 - it is a SafeLoader
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, *YAML_SLIPS) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigurationError(f"{file} is not valid YAML: {reason}") from error


def read_checksums(folder: Path) -> dict[str, str]:
    """The hash of each file that a folder's `checksums.txt` lists, in lower case, by the name written there.

    Raises:
        ConfigurationError: the list is missing, lists a name twice, or has a line that `sha256sum` does not write.
    """
    file = folder / CHECKSUMS_FILE
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(
            f"{file} cannot be read: {reason}; write it with `sha256sum FILE... > {CHECKSUMS_FILE}` in that folder"
        ) from error
    listed: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = CHECKSUM_LINE.fullmatch(line)
        if match is None or match["name"] in listed:
            problem = "is not a line of sha256sum" if match is None else "lists a file a second time"
            raise ConfigurationError(f"{file}, line {number}: {line!r} {problem}; write the list again with sha256sum")
        listed[match["name"]] = match["digest"].lower()
    return listed


def write_checksums(folder: Path) -> None:
    """Write `checksums.txt`, as `sha256sum` would, for every file below a folder except hidden ones and documentation.

    Documentation is left out so that a better sentence in a model card does not stop a worker.

    Raises:
        ConfigurationError: a file's name holds a backslash or a line break, or the file lies outside the folder.
    """
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"
    )
    visible = [
        n
        for n in names
        if n not in (CHECKSUMS_FILE, REPORT_FILE) and not any(part.startswith(".") for part in n.split("/"))
    ]
    lines = [f"{sha256_of(_inside(folder, name))}  {name}\n" for name in visible]
    with NamedTemporaryFile("w", dir=folder, prefix=".checksums-", encoding="utf-8", delete=False) as temporary:
        temporary.writelines(lines)
    written = Path(temporary.name)
    written.chmod(0o644)
    written.replace(folder / CHECKSUMS_FILE)


def sha256_of(file: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces.

    Raises:
        ConfigurationError: the file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}; is the model folder complete?") from error
    return digest.hexdigest()


def _check(file: Path, expected: str) -> None:
    found = sha256_of(file)
    if found != expected:
        raise ConfigurationError(
            f"{file} is not the file that {CHECKSUMS_FILE} lists: expected sha256 {expected}, found {found}; "
            f"restore the file, or renew its line with sha256sum if the change was meant"
        )


def _inside(folder: Path, name: str) -> Path:
    """The resolved path of `name` in `folder`; symbolic links are followed before it is judged."""
    pure = PurePosixPath(name)
    clean = name.isprintable() and "\\" not in name and not pure.is_absolute() and ".." not in pure.parts
    resolved = (folder / name).resolve() if clean else None
    if resolved is None or not resolved.is_relative_to(folder.resolve()):
        raise ConfigurationError(
            f"{name!r} in {folder} leads out of the model's folder or is not a plain name; "
            "every file of a model lies in its own folder"
        )
    return resolved


def _one_line(error: ValidationError) -> str:
    problems = []
    for problem in error.errors(include_url=False)[:MAX_PROBLEMS]:
        field = ".".join(str(part) for part in problem["loc"]) or "the whole file"
        found = "" if problem["type"] == "missing" else f" (found {brief(problem['input'])})"
        problems.append(f"{field}: {problem['msg']}{found}")
    more = error.error_count() - len(problems)
    return "; ".join(problems) + (f"; and {more} more" if more else "")
