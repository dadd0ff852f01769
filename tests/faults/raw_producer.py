"""Sends what no well-behaved Python client can: librdkafka itself, called for a header whose name is not UTF-8."""

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_ssize_t, c_void_p, create_string_buffer, sizeof
from pathlib import Path

import confluent_kafka

PRODUCER = 0
TOPIC, PARTITION, VALUE, KEY, FLAGS, HEADER = 1, 3, 4, 5, 7, 9
"""`rd_kafka_vtype_t` of librdkafka's rdkafka.h."""
COPY = 2
"""`RD_KAFKA_MSG_F_COPY`"""


class _Memory(ctypes.Structure):
    _fields_ = (("start", c_char_p), ("size", c_size_t))


class _Header(ctypes.Structure):
    _fields_ = (("name", c_char_p), ("value", c_char_p), ("size", c_ssize_t))


class _Union(ctypes.Union):
    _fields_ = (("text", c_char_p), ("number", c_int), ("memory", _Memory), ("header", _Header), ("_", c_char_p * 8))


class _Argument(ctypes.Structure):
    """`rd_kafka_vu_t`"""

    _fields_ = (("type", c_int), ("of", _Union))


def send_raw(
    bootstrap: str, topic: str, partition: int, key: bytes, value: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    """Send one message with headers of any name, and wait until the broker has it."""
    library = _library()
    arguments = [
        _Argument(TOPIC, _Union(text=topic.encode())),
        _Argument(PARTITION, _Union(number=partition)),
        _Argument(KEY, _Union(memory=_Memory(key, len(key)))),
        _Argument(VALUE, _Union(memory=_Memory(value, len(value)))),
        _Argument(FLAGS, _Union(number=COPY)),
        *(_Argument(HEADER, _Union(header=_Header(name, held, len(held)))) for name, held in headers),
    ]
    client = _client(library, bootstrap)
    error = library.rd_kafka_produceva(client, (_Argument * len(arguments))(*arguments), len(arguments))
    assert not error
    assert library.rd_kafka_flush(client, 30_000) == 0
    library.rd_kafka_destroy(client)


def _library() -> ctypes.CDLL:
    """The librdkafka that comes with confluent-kafka's wheel."""
    folder = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    library = ctypes.CDLL(str(next(folder.glob("librdkafka*"))))
    for name, result, *arguments in (
        ("rd_kafka_conf_new", c_void_p),
        ("rd_kafka_conf_set", c_int, c_void_p, c_char_p, c_char_p, c_char_p, c_size_t),
        ("rd_kafka_new", c_void_p, c_int, c_void_p, c_char_p, c_size_t),
        ("rd_kafka_produceva", c_void_p, c_void_p, POINTER(_Argument), c_size_t),
        ("rd_kafka_flush", c_int, c_void_p, c_int),
        ("rd_kafka_destroy", None, c_void_p),
    ):
        function = getattr(library, str(name))
        function.restype, function.argtypes = result, arguments
    return library


def _client(library: ctypes.CDLL, bootstrap: str) -> int:
    reason = create_string_buffer(512)
    configuration = library.rd_kafka_conf_new()
    for name, text in ((b"bootstrap.servers", bootstrap.encode()), (b"acks", b"all")):
        assert library.rd_kafka_conf_set(configuration, name, text, reason, sizeof(reason)) == 0, reason.value
    client: int = library.rd_kafka_new(PRODUCER, configuration, reason, sizeof(reason))
    assert client, reason.value
    return client
