"""`python -m agents.explanations`: run one explanations agent."""

import sys

from agents.explanations.service import NAME, run
from agents.explanations.settings import ExplanationsSettings
from runtime.process import run_process

if __name__ == "__main__":
    sys.exit(run_process(NAME, ExplanationsSettings, run))
