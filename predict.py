"""Predict rows with a trained run: python predict.py run=outputs/runs/... input=FILE."""

import sys

from rlora.io.command import run_command
from rlora.runs.predict_cli import main

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
