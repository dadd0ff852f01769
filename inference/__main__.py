"""`python -m inference`: run one worker."""

import sys

from inference.settings import WorkerSettings
from inference.worker import Worker
from runtime.process import run_process

if __name__ == "__main__":
    sys.exit(run_process("inference", WorkerSettings, lambda settings: Worker(settings).run()))
