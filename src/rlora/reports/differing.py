"""The keys in which runs differ, without those that only say where a run was."""

from collections.abc import Sequence
from typing import Any

from rlora.config.flatten import move_paths
from rlora.reports.load import Score

# Sections that never explain why two scores differ, and keys of the trainer that do not either.
UNINFORMATIVE = ("seed", "paths", "logger", "choices", "study", "skip_finished", "print_config")
UNINFORMATIVE_KEYS = ("trainer.default_root_dir", "trainer.enable_progress_bar", "metric")
# What is searched or compared comes first; other sections follow, callbacks come last.
ORDER = ("adapter", "optimizer", "scheduler", "regularizer", "model", "task", "trainer")
LAST = ("callbacks",)


def differing_keys(scores: Sequence[Score], named: Sequence[str] = ()) -> list[str]:
    """Return the keys whose values differ between runs, the most telling ones first.

    Folders of the runs do not count: a path is compared relative to its run.

    Args:
        scores: Scores of the runs.
        named: Keys that are known to differ or not to matter, with all keys of their groups.
    """
    settings = [_comparable(score) for score in scores]
    keys = {key for each in settings for key in each if not _is_named(key, named)}
    differing = [key for key in keys if len({repr(each.get(key)) for each in settings}) > 1]
    return sorted(differing, key=_place)


def _comparable(score: Score) -> dict[str, Any]:
    directory = score.record.run.directory
    return {
        key: move_paths(value, directory, ".")
        for key, value in score.settings.items()
        if key.partition(".")[0] not in UNINFORMATIVE
        and key not in UNINFORMATIVE_KEYS
        and not key.endswith("_target_")
    }


def _is_named(key: str, named: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in named)


def _place(key: str) -> tuple[int, str]:
    section = key.partition(".")[0]
    if section in LAST:
        return len(ORDER) + 1, key
    return (ORDER.index(section) if section in ORDER else len(ORDER)), key
