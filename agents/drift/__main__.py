"""`python -m agents.drift`: run one drift agent."""

import sys

from agents.drift.service import NAME, run
from agents.drift.settings import DriftSettings
from runtime.process import run_process

if __name__ == "__main__":
    sys.exit(run_process(NAME, DriftSettings, run))
