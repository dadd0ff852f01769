"""`python -m agents.confusion`: run one confusion agent."""

import sys

from agents.confusion.service import NAME, run
from agents.confusion.settings import ConfusionSettings
from runtime.process import run_process

if __name__ == "__main__":
    sys.exit(run_process(NAME, ConfusionSettings, run))
