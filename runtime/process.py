"""What every process's entry point does: read the settings, set the logs up, run, and end with the right status."""

import sys
from collections.abc import Callable
from typing import TypeVar

from runtime.errors import CONFIGURATION_EXIT, ConfigurationError, ModelwatchError
from runtime.logging import configure_logging, get_logger
from runtime.settings import Settings, read_settings

S = TypeVar("S", bound=Settings)

FAILURE_EXIT = 1


def run_process(service: str, settings_class: type[S], run: Callable[[S], None]) -> int:
    """Run a service and return its exit status: 0 after a clean end, 78 for a setting, 1 for anything else."""
    try:
        settings = read_settings(settings_class)
    except ConfigurationError as error:
        print(f"{service}: {error}", file=sys.stderr)  # noqa: T201 - there are no settings to log with yet
        return CONFIGURATION_EXIT
    configure_logging(settings, service)
    log = get_logger(__name__)
    try:
        run(settings)
    except ConfigurationError as error:
        log.error("configuration_error", error=str(error))
        return CONFIGURATION_EXIT
    except ModelwatchError as error:
        log.error("stopped_by_error", error=str(error), cause=repr(error.__cause__) if error.__cause__ else None)
        return FAILURE_EXIT
    except KeyboardInterrupt:
        return 0
    return 0
