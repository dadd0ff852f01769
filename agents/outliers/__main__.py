"""`python -m agents.outliers`: run one outliers agent."""

import sys

from agents.outliers.service import NAME, run
from agents.outliers.settings import OutliersSettings
from runtime.process import run_process

if __name__ == "__main__":
    sys.exit(run_process(NAME, OutliersSettings, run))
