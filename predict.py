"""Predict rows with a trained run: python predict.py run=outputs/runs/... input=FILE."""

import sys

from rlora.runs.predict_cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
