"""Numbers in JSON: the fast way reads exactly what the slow way reads, and refuses exactly what it refuses."""

import json
import random
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.payloads.numbers import MAX_LISTS, NumberText, load_json, read_numbers
from schemas.refusal import Reason, Refusal
from tests.payloads import SHAPE, images

ITEM = (2, 3, 1)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["0", "-0", "-0.0", "1E5", "1e-400", "5e-324", "1.7976931348623157e308", "0.1e+2", "NaN", "1e999"]),
    st.sampled_from(["01", "+1", "1.", ".5", "-", "1e", "", "true", "null", '"1"', "[]", "{}", "1 1", "0x1"]),
)
SPACE = st.sampled_from(["", "", " ", "\n", "\t\r", "\x0b", "\ufeff"])


def result(read: object) -> tuple[object, ...]:
    """What reading gave, in a form that compares: shape and bits, or that it was refused."""
    try:
        numbers, shape = read()  # type: ignore[operator]
    except Refusal as refusal:
        return ("refused", refusal.reason)
    return (shape, numbers.tobytes())


def by_orjson(text: bytes) -> tuple[object, ...]:
    """The law: what orjson makes of the text, through Python lists."""
    try:
        values = orjson.loads(text)
    except orjson.JSONDecodeError:
        return ("refused", None)
    return result(lambda: read_numbers(values, ITEM))


@st.composite
def number_texts(draw: st.DrawFn) -> bytes:
    """Text of nested lists of about the expected shape, with odd numbers, spaces, and sometimes a wrong structure."""
    count = draw(st.integers(0, 3))
    structure = draw(
        st.sampled_from([(count, *ITEM), ITEM, (6,), (6 * count,), (count, 3, 2, 1), (2, 3), (count, 2, 3)])
    )
    odd = {draw(st.integers(0, 20)): draw(NUMBERS) for _ in range(draw(st.integers(0, 2)))}
    leaves = iter(range(10_000))

    def write(shape: tuple[int, ...]) -> str:
        if not shape:
            leaf = next(leaves)
            return odd.get(leaf, f"0.{leaf}")
        return "[" + draw(SPACE) + ",".join(write(shape[1:]) for _ in range(shape[0])) + draw(SPACE) + "]"

    text = write(structure)
    if draw(st.booleans()) and draw(st.booleans()):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(["[", "]", ",", "0", "-", ".", "e", '"', "}"])) + text[at + 1 :]
    return text.encode()


@settings(max_examples=600)
@given(number_texts())
def test_text_is_read_exactly_as_orjson_reads_it(text: bytes) -> None:
    fast, slow = result(lambda: read_numbers(NumberText(text), ITEM)), by_orjson(text)
    if slow == ("refused", None):
        assert fast in (("refused", Reason.INVALID_JSON), ("refused", Reason.NOT_FINITE))
    else:
        assert fast == slow


@settings(max_examples=200)
@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_every_double_is_read_to_the_last_bit(values: list[float]) -> None:
    text = json.dumps(np.array(values).reshape(1, *ITEM).tolist()).encode()
    numbers, shape = read_numbers(NumberText(text), ITEM)
    assert (shape, numbers.tolist()) == ((1, *ITEM), values)


def test_a_list_of_empty_lists_is_not_a_list_of_single_numbers() -> None:
    text = b"[[[[],[],[]],[[],[],[]]]]"
    assert result(lambda: read_numbers(NumberText(text), ITEM)) == ((1, 2, 3, 0), b"")
    some = b"[[[[1],[],[]],[[],[],[]]]]"
    assert result(lambda: read_numbers(NumberText(some), ITEM)) == ("refused", Reason.WRONG_SHAPE)


@pytest.mark.parametrize("text", [b"[1,2],[3,4]", b"[1]]", b"[[1]", b"[1] ,", b"[1]x", b'["a]'])
def test_text_that_is_not_one_array_is_refused(text: bytes) -> None:
    assert result(lambda: read_numbers(NumberText(text), ITEM)) == ("refused", Reason.INVALID_JSON)


@pytest.mark.parametrize("values", [[[1, 2], [3]], [[1], 2], [1, [2]], [[[1]], [2]], [[[[[1]]]]], [[1], [[2]]]])
def test_ragged_or_too_deep_lists_have_no_shape(values: list[object]) -> None:
    assert result(lambda: read_numbers(values, ITEM)) == ("refused", Reason.WRONG_SHAPE)


def test_ragged_text_with_as_many_brackets_and_commas_as_the_expected_shape_is_refused() -> None:
    ragged = b"[[[1,2],[3]],[[4]],[[5],[6]]]"
    for text in (ragged, b"[%s]" % ragged, b"[%s,[[[1],[2],[3]],[[4],[5],[6]]]]" % ragged):
        assert result(lambda text=text: read_numbers(NumberText(text), ITEM)) == ("refused", Reason.WRONG_SHAPE)


@pytest.mark.parametrize("shape", [(64, *SHAPE), SHAPE, (64 * 3072,)])
def test_numbers_in_the_expected_shape_never_become_python_objects(shape: tuple[int, ...]) -> None:
    text = orjson.dumps(np.full(shape, 0.5).tolist())
    tracemalloc.start()
    try:
        read_numbers(NumberText(text), SHAPE)
        fast = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        values = orjson.loads(text)
        slow = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.shape(values) == shape
    assert fast < slow / 2


@pytest.mark.parametrize("values", [[True], [None], ["1"], [1, {}], "text", {"a": 1}, None, 7, [[1], [None]]])
def test_what_is_no_number_is_refused_though_numpy_would_convert_it(values: object) -> None:
    assert result(lambda: read_numbers(values, ITEM)) == ("refused", Reason.INVALID_FIELD)


LONG = b"[" + b",".join(b"0.%d" % index for index in range(300)) + b"]"


@pytest.mark.parametrize(
    "document",
    [
        b'{"instances":%s}',
        b' { "instances" :\n\t%s\r } ',
        b'{"signature_name":"x","instances":%s,"after":[1]}',
        b'{"inputs":[{"data":%s,"name":"x"}]}',
        b'{"inputs":[{"name":"x","data":%s}],"id":"y"}',
    ],
)
def test_a_large_array_in_its_place_stays_text_and_the_rest_is_read(document: bytes) -> None:
    text = document.replace(b"%s", LONG)
    found, expected = load_json(text), orjson.loads(text)
    place, there = (found, expected) if "instances" in found else (found["inputs"][0], expected["inputs"][0])
    field = "instances" if "instances" in found else "data"
    assert place.pop(field) == NumberText(LONG)
    assert there.pop(field) == orjson.loads(LONG)
    assert found == expected


@pytest.mark.parametrize(
    "document",
    [
        b'{"attributes":{"data":%s},"instances":[1]}',
        b'{"data":%s}',
        b'{"instances":%s,"instances":[1]}',
        b'{"instances":%s,"instances":0}',
        b'{"x\\"instances":%s}',
        b'{"x":"\\"instances\\":","y":%s}',
        b'{"inputs":[{"x":1},{"data":%s}]}',
        b'{"inputs":{"data":%s}}',
        b'{"instances":{"data":%s}}',
        b'[{"data":%s}]',
        b'{"instances":[{"data":%s}]}',
    ],
)
def test_a_large_array_anywhere_else_is_read_as_orjson_reads_it(document: bytes) -> None:
    text = document.replace(b"%s", LONG)
    assert load_json(text) == orjson.loads(text)


@pytest.mark.parametrize(
    "document", [b'{"instances":%s', b'{"instances":%s]}', b'{"a"instances":%s}', b'{"instances":%s,}']
)
def test_a_document_broken_around_a_large_array_is_refused(document: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        read_numbers(load_json(document.replace(b"%s", LONG))["instances"], ITEM)
    assert caught.value.reason is Reason.INVALID_JSON


def test_lists_are_read_up_to_a_number_of_them() -> None:
    most = b"[" + b"[]," * (MAX_LISTS - 2) + b"[]]"
    assert result(lambda: read_numbers(NumberText(most), ITEM)) == ((MAX_LISTS - 1, 0), b"")
    assert result(lambda: read_numbers(NumberText(b"[" + most + b"]"), ITEM)) == ("refused", Reason.INVALID_JSON)


def test_threads_do_not_mix_up_their_numbers() -> None:
    rng = np.random.default_rng(1)
    texts = [NumberText(orjson.dumps((images(rng) / 255).tolist())) for _ in range(40)]
    alone = [read_numbers(text, SHAPE)[0].tobytes() for text in texts]
    order = random.Random(2).choices(range(40), k=800)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda index: read_numbers(texts[index], SHAPE)[0].tobytes(), order))
    assert together == [alone[index] for index in order]
