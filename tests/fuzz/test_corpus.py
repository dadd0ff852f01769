"""Every target on its good inputs, on those that once broke it, and on damaged ones; without the fuzzer itself."""

import random
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutators import with_another_value
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
FOUND = sorted(file for name in TARGETS for file in (CORPUS / name).glob("*"))
SECONDS = 2.0
"""Of the processor, for one input: a hundred times what the slowest takes."""
REFUSED = {"model_yaml": {"reference"}, "questions": {"ExplanationRequest", "ExplanationRequest-image"}}
"""Seeds that are good, but not for the models here: weights that are not there, an image of another size."""


@pytest.mark.parametrize("name", TARGETS)
def test_good_inputs_are_taken(name: str) -> None:
    target = TARGETS[name]
    for seed, value in target.seeds().items():
        assert target.run(value) == (seed not in REFUSED.get(name, ())), seed


@pytest.mark.parametrize("file", FOUND, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_once_broke_a_reader_is_taken_or_refused_in_time(file: Path) -> None:
    began = time.process_time()
    TARGETS[file.parent.name].run(file.read_bytes())
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "http"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(chance=st.randoms(use_true_random=False), cut=st.integers(0, 2000), instead=st.binary(max_size=4))
def test_damaged_inputs_are_taken_or_refused(name: str, chance: random.Random, cut: int, instead: bytes) -> None:
    target = TARGETS[name]
    value = chance.choice(list(target.seeds().values()))
    if target.body is not None:
        at = target.body(value)
        target.run(value[:at] + with_another_value(value[at:], chance))
    cut %= len(value)
    target.run(value[:cut] + instead + value[cut + len(instead) :])
