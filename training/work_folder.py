"""Where unfinished trainings are kept: one folder for each set of options, so that none resumes another's."""

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

WORK = Path("build/train")


def work_folder(root: Path, name: str, options: Any, *also: object) -> Path:
    """The checkpoints' folder of a training called `name` with these options, a dataclass, and what else matters."""
    described = repr([name, sorted(asdict(options).items()), *also])
    return root / f"{name}-{hashlib.sha256(described.encode()).hexdigest()[:8]}"


def start_anew(work: Path) -> None:
    """Forget an unfinished training, and say so if there was one."""
    if work.exists():
        Console(stderr=True).print(f"Forgetting the unfinished training in {work}", highlight=False)
        shutil.rmtree(work)
