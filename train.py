"""Train and evaluate: python train.py adapter=rlora task=mnli."""

import os
import sys
import traceback

import hydra
from omegaconf import DictConfig

from rlora.config import explain, is_config_error, key_names

ASKED_FOR_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
EXPECTED = (ValueError, OSError)  # what wrong input raises; anything else is a fault of ours and shows its traceback


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def job(config: DictConfig) -> float | None:
    """Run one job; Hydra calls it with the composed config."""
    from rlora import experiment  # heavy: a mistyped word is answered without it

    return experiment.run(config, experiment.hydra_job())


def default_keys() -> list[str]:
    """All keys of the default config, to suggest from."""
    with hydra.initialize(version_base="1.3", config_path="conf"):
        return key_names(hydra.compose("train"))


def main() -> None:
    """Run, and tell what went wrong in one sentence."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors arrive here whole, instead of Hydra printing a traceback
    try:
        job()
    except KeyboardInterrupt:
        sys.exit("interrupted: go on with ckpt_path=<run folder>")
    except Exception as error:
        if ASKED_FOR_TRACEBACK:
            raise
        if is_config_error(error):
            sys.exit(f"error: {explain(error, default_keys())}")
        if not isinstance(error, EXPECTED):
            traceback.print_exc()
        sys.exit(f"error: {' '.join(str(error).split()) or type(error).__name__}")


if __name__ == "__main__":
    main()
