"""What every process's entry point does: read the settings, set the logs up, run, and end with the right status."""

import os
import sys
from collections.abc import Callable
from itertools import chain
from textwrap import wrap
from typing import TypeVar

from runtime.errors import CONFIGURATION_EXIT, ConfigurationError, ModelwatchError
from runtime.logging import configure_logging, get_logger
from runtime.settings import Settings, read_settings, unknown_variables
from runtime.settings_documents import variables

S = TypeVar("S", bound=Settings)

FAILURE_EXIT = 1
USAGE_EXIT = 2


def run_process(service: str, settings_class: type[S], run: Callable[[S], None]) -> int:
    """Run a service and return its exit status: 0 after a clean end, 78 for a setting, 1 for anything else.

    It takes no arguments but `--help`, and starts nothing with any other (status 2).
    """
    if arguments := sys.argv[1:]:
        return _explain(service, settings_class, arguments)
    try:
        settings = read_settings(settings_class)
    except ConfigurationError as error:
        print(f"{service}: {error}", file=sys.stderr)  # noqa: T201 - there are no settings to log with yet
        return CONFIGURATION_EXIT
    configure_logging(settings, service)
    log = get_logger(__name__)
    for said in unknown_variables(os.environ):
        log.warning("unknown_setting", reason=said)
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


def _explain(service: str, settings_class: type[Settings], arguments: list[str]) -> int:
    """What `--help` prints: the module, and every variable it reads."""
    module = getattr(getattr(sys.modules["__main__"], "__spec__", None), "parent", None) or service
    asked = arguments[0] in ("-h", "--help")
    lines = [f"usage: python -m {module}", ""]
    if asked:
        lines += [
            f"Runs the {service} service until SIGTERM. It takes no options; its settings are these variables:",
            "",
        ]
        for variable in sorted(chain.from_iterable(map(variables, _classes(settings_class))), key=lambda one: one.name):
            lines.append(f"  {variable.name}  [{variable.default.replace('`', '')}]")
            lines += wrap(variable.meaning.replace("`", ""), 100, initial_indent="      ", subsequent_indent="      ")
    else:
        lines.append(f"{service} takes no options; found {' '.join(arguments)!r}. --help lists its settings.")
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else USAGE_EXIT


def _classes(settings_class: type[Settings]) -> list[type[Settings]]:
    return [cls for cls in settings_class.__mro__ if issubclass(cls, Settings)]
