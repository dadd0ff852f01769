"""What an error of the transactional producer means: a new producer goes on, or the process ends."""

from confluent_kafka import KafkaError, KafkaException

from runtime.errors import ConfigurationError, FatalError, TransientError

HOPELESS = {
    KafkaError._FENCED,
    KafkaError._FATAL,  # of a call after the one that told why
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
}
"""A new producer of this name would meet, or cause, the same again."""


def is_fatal(raised: KafkaException) -> bool:
    """Whether this producer can do nothing more."""
    error = raised.args[0]
    return error.fatal() or error.code() in (KafkaError._FATAL, KafkaError._FENCED)


def translated(raised: KafkaException) -> FatalError | TransientError:
    """Our error for the producer's: the process ends where a new producer would not help.

    A producer may be at its end for less, for instance where a broker that restarted knows nothing of its transaction
    any more. The next one goes on from the committed offsets.
    """
    error = raised.args[0]
    if error.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
        return ConfigurationError(
            f"the brokers do not let this user publish: {error.str()}; give it its rights, see docs/acls.md"
        )
    if error.code() in HOPELESS:
        return FatalError(
            f"the transactional producer cannot go on: {error.str()}; if it was fenced, another worker has the same "
            "MODELWATCH_INSTANCE: give each its own"
        )
    return TransientError(f"the transaction failed and is aborted: {error.str()}")
