"""alibi's beam search without the rest of alibi, whose import brings TensorFlow, spaCy and transformers along."""

import importlib
import importlib.util
import sys
from functools import cache
from types import ModuleType
from typing import Any

PACKAGES = ("alibi", "alibi.explainers", "alibi.explainers.anchors", "alibi.utils")
MODULE = "alibi.explainers.anchors.anchor_base"


@cache
def beam_search_class() -> Any:
    """alibi's `AnchorBaseBeam`.

    Its module needs NumPy and one function of `alibi.utils`; but importing it runs the `__init__` of every package
    above it: 13 s and half a gigabyte. So these packages are put there empty while it is imported, and taken away
    again, so that whoever imports alibi in this process gets all of it.
    """
    if MODULE in sys.modules:
        return sys.modules[MODULE].AnchorBaseBeam
    before = _taken_away()
    try:
        for name in PACKAGES:
            sys.modules[name] = _empty_package(name)
        found = importlib.import_module(MODULE).AnchorBaseBeam
    finally:
        _taken_away()
        sys.modules.update(before)
    return found


def _empty_package(name: str) -> ModuleType:
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ImportError(f"{name} is not installed")
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations or ())
    return package


def _taken_away() -> dict[str, ModuleType]:
    """alibi's modules, which are no longer among the imported ones."""
    names = [name for name in sys.modules if name.partition(".")[0] == "alibi"]
    return {name: sys.modules.pop(name) for name in names}
