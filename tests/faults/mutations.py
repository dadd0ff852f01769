"""Good payloads damaged at random by hypothesis, as far as the decoder refuses them: bad requests nobody thought of."""

import time
from collections.abc import Callable

import hypothesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st

from schemas.model_spec import ModelSpec
from schemas.payloads import FORMATS, decode_request
from schemas.refusal import Refusal
from tests.corpus import BadRequest
from training.datasets import load_split

Damage = Callable[[bytes], bytes]
EXAMPLES_EACH = 4
"""Examples tried for each bad request wanted: most damages are refused, a changed pixel is not."""


def _flip(at: float, bit: int) -> Damage:
    def damage(value: bytes) -> bytes:
        changed = bytearray(value)
        if changed:
            changed[int(at * len(changed))] ^= 1 << bit
        return bytes(changed)

    return damage


def _replace(at: float, length: int, by: bytes) -> Damage:
    """Put `by` in the place of `length` bytes; inserts with length 0, cuts out with nothing."""

    def damage(value: bytes) -> bytes:
        start = int(at * len(value))
        return value[:start] + by + value[start + length :]

    return damage


def _cut(at: float) -> Damage:
    return lambda value: value[: int(at * len(value))]


PLACES = st.floats(0, 1, exclude_max=True)
DAMAGES: st.SearchStrategy[Damage] = st.one_of(
    st.builds(_flip, PLACES, st.integers(0, 7)),
    st.builds(_replace, PLACES, st.integers(0, 64), st.binary(max_size=64)),
    st.builds(_cut, PLACES),
)


def mutated_requests(count: int, seed: int, spec: ModelSpec) -> list[BadRequest]:
    """`count` damaged payloads of every format, each with the reason for which `decode_request` refuses it."""
    images, _ = load_split("test", progress=False)
    found: list[BadRequest] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=EXAMPLES_EACH * count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(sorted(FORMATS)), st.integers(0, 999), st.lists(DAMAGES, min_size=1, max_size=4))
    def collect(name: str, row: int, damages: list[Damage]) -> None:
        if len(found) == count:
            return
        value = FORMATS[name].encode(images[row])
        for damage in damages:
            value = damage(value)
        key = f"mutated-{seed}-{len(found)}".encode()
        headers: list[tuple[str, bytes | None]] = [("content-type", FORMATS[name].content_type.encode())]
        try:
            decode_request(value, key, headers, time.time(), {spec.name: spec}, spec.name)
        except Refusal as refusal:
            found.append(BadRequest(f"mutated {name}", value, key, headers, frozenset({refusal.reason})))

    collect()
    assert len(found) == count, f"{len(found)} of {EXAMPLES_EACH * count} examples were refused; {count} are wanted"
    return found
