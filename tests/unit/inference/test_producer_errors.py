"""What becomes of the process when its transactional producer cannot go on."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from inference.producer_errors import translated
from runtime.errors import FatalError, TransientError


@pytest.mark.parametrize("code", [KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH])
def test_a_fenced_producer_ends_the_process_and_the_remedy_is_named(code: int) -> None:
    error = translated(KafkaException(KafkaError(code, "fenced", fatal=True)))
    assert isinstance(error, FatalError) and "MODELWATCH_INSTANCE" in str(error)


@pytest.mark.parametrize("fatal", [True, False])
def test_a_transaction_that_the_broker_has_forgotten_is_begun_again_by_a_new_producer(fatal: bool) -> None:
    error = translated(KafkaException(KafkaError(KafkaError.INVALID_TXN_STATE, "forgotten", fatal=fatal)))
    assert isinstance(error, TransientError)
