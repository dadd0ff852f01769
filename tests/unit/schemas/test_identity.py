"""Ids of records."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.identity import MAX_ID_BYTES, record_id


def test_the_primary_answer_has_the_id_of_its_request() -> None:
    assert record_id("id", "model", "1", primary=True) == "id"


def test_any_other_answer_has_an_id_of_its_own() -> None:
    others = [("a", "1"), ("a", "2"), ("b", "1")]
    assert len({record_id("id", *other, primary=False) for other in others} | {"id"}) == 4


@given(st.text(min_size=1, max_size=MAX_ID_BYTES).filter(lambda text: len(text.encode()) <= MAX_ID_BYTES))
def test_every_id_fits_a_record_store(request_id: str) -> None:
    made = record_id(request_id, "m" * 63, "v" * 63, primary=False)
    assert 0 < len(made.encode()) <= MAX_ID_BYTES
