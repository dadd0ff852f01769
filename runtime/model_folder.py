"""A model as a folder: its `model.yaml`, its files, and the checksums they must match before anything reads them."""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile

from runtime.errors import ConfigurationError
from runtime.settings import Settings
from runtime.spec_file import SPEC_FILE, read_spec
from runtime.spelling import nearest
from schemas.model_spec import ModelSpec

CHECKSUMS_FILE = "checksums.txt"
REPORT_FILE = "report.json"
"""What was measured of the model: documentation, as is every `.md` file."""
CHUNK_BYTES = 1 << 20
CHECKSUM_LINE = re.compile(r"(?P<digest>[0-9a-fA-F]{64}) [ *](?P<name>[^\\]+)")
"""A line that `sha256sum` writes; names with a backslash or a line break, which it escapes, are not accepted."""
NETWORK_FILES = ("config.json", "weights.npz")
"""Of a detector's folder."""


@dataclass(frozen=True)
class ModelFolder:
    """One model.

    Attributes:
        path: the folder.
        spec: its `model.yaml`.
        weights_sha256: hash of the weights file; of a folder's list of hashes; of `model.yaml` for a model without
            weights (framework `null`).
    """

    path: Path
    spec: ModelSpec
    weights_sha256: str

    def verify(self, required: Iterable[str] = ()) -> None:
        """Check every file listed in `checksums.txt`.

        Args:
            required: further files, relative to the folder, that must be listed; the weights always must, and of a
                folder of weights every file.

        Raises:
            ConfigurationError: naming each file that is missing, not listed, outside the folder, or has another
                hash than the list says, with the expected and the found one.
        """
        if problems := list(self.problems(required)):
            raise ConfigurationError("; ".join(problems))

    def problems(self, required: Iterable[str] = ()) -> Iterator[str]:
        """All that `verify` finds, a sentence each."""
        try:
            needed = [*required, *self._weights_files()]
            if not needed and not (self.path / CHECKSUMS_FILE).exists():
                return
            listed = read_checksums(self.path)
        except ConfigurationError as error:
            yield str(error)
            return
        paths: dict[Path, str] = {}
        for name, digest in listed.items():
            try:
                paths[file := _inside(self.path, name)] = digest
                _check(file, digest)
            except ConfigurationError as error:
                yield str(error)
        for name in needed:
            try:
                found = _inside(self.path, name) in paths
            except ConfigurationError as error:
                yield str(error)
                continue
            if not found:
                yield (
                    f"{self.path / CHECKSUMS_FILE} does not list {name}; a file of a model is read only if its hash is "
                    f"known: add the line that `sha256sum {name}` prints in that folder"
                )

    @property
    def detector_files(self) -> list[str]:
        """Files, relative to the folder, that the agents read for this model."""
        spec = self.spec
        folders = [part.files for part in (spec.outliers, *spec.drift.values()) if part is not None and part.files]
        files = [f"{folder}/{name}" for folder in folders for name in NETWORK_FILES]
        references = [*(drift.reference for drift in spec.drift.values()), spec.explanations.backgrounds]
        return [*files, *filter(None, references)]

    def _weights_files(self) -> list[str]:
        file = self.spec.weights.file
        return [] if file is None else _files_of(self.path, file)

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
    problems = []
    for folder in model_paths(root):
        try:
            model = load_model_folder(folder)
        except ConfigurationError as error:
            problems.append(str(error))
            continue
        if model.spec.name in models:
            problems.append(
                f"two models are named {model.spec.name}: {models[model.spec.name].path} and {folder}; "
                f"change `name` in the {SPEC_FILE} of one of them"
            )
        models[model.spec.name] = model
    if problems:
        raise ConfigurationError("; ".join(problems))
    return models


def model_paths(root: Path) -> list[Path]:
    """The folders below `root`, and itself, that hold a `model.yaml`.

    Raises:
        ConfigurationError: there is none.
    """
    folders = [root, *sorted(root.iterdir())] if root.is_dir() else []
    found = [folder for folder in folders if (folder / SPEC_FILE).is_file()]
    if not found:
        raise ConfigurationError(
            f"no model in {root.absolute()}: neither it nor a sub-folder holds a {SPEC_FILE}; "
            "set MODELWATCH_MODELS to the folder of your model folders"
        )
    return found


def load_model_folder(folder: Path) -> ModelFolder:
    """One model folder, its files not yet verified.

    Raises:
        ConfigurationError: `model.yaml` is not valid, or the weights it names are missing, outside the folder, or not
            of the sort that the framework has: a file, or for a SavedModel a folder.
    """
    spec = read_spec(folder / SPEC_FILE)
    name = spec.weights.file or SPEC_FILE
    path = _inside(folder, name)
    if path.is_dir() and spec.weights.framework != "saved_model":
        raise ConfigurationError(
            f"{path} is a folder, but `framework: {spec.weights.framework}` has a file; a SavedModel has `saved_model`"
        )
    if path.is_file() and spec.weights.framework == "saved_model":
        raise ConfigurationError(f"{path} is a file; `framework: saved_model` has the folder of a saved_model.pb")
    return ModelFolder(folder, spec, _sha256_of_folder(folder, name) if path.is_dir() else sha256_of(path))


def default_model(chosen: str | None, models: Collection[str]) -> str | None:
    """The model of a request that names none: the one that the setting names, else the only one there is.

    Raises:
        ConfigurationError: the setting names a model that is not there.
    """
    if chosen is None:
        return next(iter(models)) if len(models) == 1 else None
    if chosen not in models:
        raise ConfigurationError(
            f"MODELWATCH_DEFAULT_MODEL is {chosen!r}, but there are only {', '.join(sorted(models))}"
            + nearest(chosen, models)
        )
    return chosen


def model_named(name: str | None, settings: Settings) -> ModelFolder:
    """The model of that name, or the default one.

    Raises:
        ConfigurationError: there is none of that name, or none is named and there are several.
    """
    folders = load_model_folders(settings.models)
    chosen = name or default_model(settings.default_model, folders)
    if chosen is None:
        raise ConfigurationError(
            f"there are several models, {', '.join(sorted(folders))}; say which, or set MODELWATCH_DEFAULT_MODEL"
        )
    if chosen not in folders:
        raise ConfigurationError(
            f"no model {chosen!r}; there are {', '.join(sorted(folders))}{nearest(chosen, folders)}"
        )
    return folders[chosen]


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


def _files_of(folder: Path, name: str) -> list[str]:
    """The name of a file, or of every file below a folder, each inside the model's folder."""
    path = _inside(folder, name)
    if not path.is_dir():
        return [name]
    files = [file for file in path.rglob("*") if file.is_symlink() or not file.is_dir()]
    return sorted(f"{name.rstrip('/')}/{file.relative_to(path).as_posix()}" for file in files)


def _sha256_of_folder(folder: Path, name: str) -> str:
    """Of the lines that `sha256sum` prints of its files, sorted by name."""
    lines = [f"{sha256_of(_inside(folder, file))}  {file}\n" for file in _files_of(folder, name)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


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
