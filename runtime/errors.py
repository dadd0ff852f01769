"""The error tree. Three outcomes only: retry it, dead-letter the message, or stop the process.

ModelwatchError
├── TransientError        retry with back-off; nothing is lost meanwhile
└── FatalError            stop; the supervisor starts the process again
    └── ConfigurationError   stop and do not start again: a person must change a setting

Refusal (schemas/refusal.py): this message goes to the dead letters. It stands beside the tree because the
contracts raise it and know nothing of the runtime.
"""


class ModelwatchError(Exception):
    """Base of our errors. The text says what was wrong, with which value, and what to do."""


class TransientError(ModelwatchError):
    """A server is away or busy: the same call may succeed later."""


class FatalError(ModelwatchError):
    """The process cannot go on without losing or repeating something."""


class ConfigurationError(FatalError):
    """A setting, a model folder or a credential is wrong. Exit status `CONFIGURATION_EXIT`: not restarted."""


CONFIGURATION_EXIT = 78
"""EX_CONFIG of sysexits.h: the supervisor does not restart a process that ends with it."""
