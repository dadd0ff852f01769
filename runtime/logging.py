"""Structured logs: JSON lines in containers, readable lines on a terminal. Facts are bound, never formatted in."""

import logging
import sys
import time
from typing import Any

import structlog

from runtime.settings import Settings

PERIOD_SECONDS = 10.0
BURST = 5
MAX_KINDS = 1000


class RepeatFilter(logging.Filter):
    """Lets the first lines of one kind pass in each period; the next one to pass says how many were left out.

    Of one kind are the lines of one logger with one text before its arguments are put in. A Kafka client whose brokers
    refuse connections writes a hundred such lines a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line passes."""
        kind, now = (record.name, str(record.msg)), time.monotonic()
        if kind not in self._kinds and len(self._kinds) >= MAX_KINDS:
            self._kinds.clear()
        began, count = self._kinds.get(kind, (now, 0))
        if now >= began + PERIOD_SECONDS:
            if count > BURST:
                record.msg = f"{record.msg} ({count - BURST} lines like it were left out)"
            began, count = now, 0
        self._kinds[kind] = began, count + 1
        return count < BURST


def configure_logging(settings: Settings, service: str) -> None:
    """Set structlog up for this process, and send the standard library's warnings through it."""
    level = getattr(logging, settings.log_level.upper())
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stdout.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service, instance=settings.instance)
    handler = logging.StreamHandler(sys.stdout)
    formatter = structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared)
    handler.setFormatter(formatter)
    handler.addFilter(RepeatFilter())
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    logging.captureWarnings(True)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(module=name)
    return logger


def quieten() -> None:
    """For commands, whose output is their own: only warnings and errors, on stderr."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
