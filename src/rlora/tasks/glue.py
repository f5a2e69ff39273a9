"""The GLUE benchmark: nine tasks, each one YAML file that describes its files.

Source: Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language
Understanding", ICLR 2019.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlora.data.examples import Examples
from rlora.data.hub import location, read_hub
from rlora.data.locations import DATA_VARIABLE
from rlora.data.tsv import read_tsv
from rlora.tasks.text_classification import TextClassification

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class GLUE(TextClassification):
    """A GLUE task, read from the official files or from the Hugging Face hub.

    The search order is `path` (the GLUE root or the task's own folder), then
    `$RLORA_DATA/glue/<folder>`, then the hub.

    Attributes:
        folder: Name of the task's folder in the official release.
        subset: Name of its subset on the hub.
        text: Columns of the text fields in the files, by header name or by position from 0.
        label: Column of the label, by header name or by position from 0.
        header: Whether the labeled files have a header.
        hub_text: Columns of the text fields on the hub; None: the names in the files.
        train: `file` and `hub` split of the training set.
        dev: `file` and `hub` split of each labeled development set, by the name of its test loader.
        unlabeled: `file`, `hub` split and `submission` file of each unlabeled test set, by the name
            of its loader.
        unlabeled_text: Columns of the text fields in the unlabeled files; None: as in labeled ones.
        groups: Text columns that group rows when validation is split from train; None: all of them.
        incomplete_rows: `error` or `skip`.

    Raises:
        ValueError: A setting contradicts another.
    """

    folder: str
    subset: str
    text: Sequence[str | int]
    label: str | int
    header: bool = True
    hub_text: Sequence[str] | None = None
    train: Mapping[str, str]
    dev: Mapping[str, Mapping[str, str]]
    unlabeled: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    unlabeled_text: Sequence[str | int] | None = None
    groups: Sequence[str | int] | None = None
    incomplete_rows: str = "error"

    def __post_init__(self) -> None:
        if unknown := [column for column in self.groups or () if column not in self.text]:
            raise ValueError(
                f"task.groups names {unknown}, which are not in task.text={list(self.text)}."
            )
        if (self.labels is None) == (self.score_range is None):
            raise ValueError(
                f"{self.name} needs either task.labels or task.score_range; set one of them."
            )
        super().__post_init__()
        if self.incomplete_rows not in ("error", "skip"):
            raise ValueError(
                f"task.incomplete_rows={self.incomplete_rows} is unknown; "
                "set task.incomplete_rows to error or skip."
            )
        if "test" not in self.dev:
            raise ValueError(
                f"task.dev has {sorted(self.dev)} but needs the set 'test'; add task.dev.test."
            )

    @property
    def fields(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the text columns; files without a header take them from the hub."""
        return tuple(map(str, self.text if self.header else self.hub_text or self.text))

    @property
    def label_column(self) -> str:
        """Name of the label's column; files without a header take it from the hub."""
        return str(self.label) if self.header else super().label_column

    def group_fields(self) -> Sequence[int] | None:
        """Return the positions of `groups` among the text fields."""
        if self.groups is None:
            return None
        return [list(self.text).index(column) for column in self.groups]

    def file_name(self, loader_name: str) -> str:
        """Return the submission's file name for an unlabeled test set."""
        return self.unlabeled.get(loader_name, {}).get("submission", super().file_name(loader_name))

    def source(self) -> dict[str, str]:
        """Return the directory, or the hub id with its revision."""
        directory = self._directory()
        if directory is None:
            return {"source": "hub", "location": location(self.subset)}
        return {"source": "directory", "location": str(directory)}

    def input_files(self) -> list[Path]:
        """Return the files of all sets that exist."""
        directory = self._directory()
        sets = [self.train, *self.dev.values(), *self.unlabeled.values()]
        places = [] if directory is None else [directory / one["file"] for one in sets]
        return [place for place in places if place.is_file()]

    def read(self) -> dict[str, Examples]:
        """Return the training set as `train` and the development sets under their test names."""
        directory = self._directory()
        sets = {"train": self.train, **self.dev}
        return {name: self._read_set(directory, one, labeled=True) for name, one in sets.items()}

    def read_unlabeled(self) -> dict[str, Examples]:
        """Return the unlabeled test sets; in a directory, those whose file exists."""
        directory = self._directory()
        return {
            name: self._read_set(directory, one, labeled=False)
            for name, one in self.unlabeled.items()
            if directory is None or (directory / one["file"]).is_file()
        }

    def _read_set(
        self, directory: Path | None, files: Mapping[str, str], *, labeled: bool
    ) -> Examples:
        if directory is None:
            columns = [str(column) for column in self.hub_text or self.text]
            return read_hub(
                self.subset,
                files["hub"],
                text=columns,
                labeled=labeled,
                labels=self.labels,
                incomplete_rows=self.incomplete_rows,
            )
        return read_tsv(
            directory / files["file"],
            text=self.text if labeled else self.unlabeled_text or self.text,
            label=self.label if labeled else None,
            # The unlabeled files have a header even where, as in CoLA, the labeled ones have none.
            header=self.header or not labeled,
            parse_label=self.parse_label(),
            incomplete_rows=self.incomplete_rows,
        )

    def _missing(self, directory: Path) -> str | None:
        """Return the first labeled file that the directory lacks."""
        files = [self.train["file"], *(one["file"] for one in self.dev.values())]
        return next((name for name in files if not (directory / name).is_file()), None)

    def _directory(self) -> Path | None:
        """Return the folder of the files, or None for the hub."""
        if self.path is not None:
            root = Path(self.path).expanduser()
            directory = root / self.folder if (root / self.folder).is_dir() else root
            if missing := self._missing(directory):
                raise ValueError(
                    f"task.path={self.path} has no {directory / missing}; set task.path to the "
                    f"GLUE root with the folder {self.folder}, or to that folder."
                )
            return directory
        if root_name := os.environ.get(DATA_VARIABLE):
            directory = Path(root_name).expanduser() / "glue" / self.folder
            missing = self._missing(directory)
            if missing is None:
                return directory
            log.info("%s does not exist; reading %s from the hub.", directory / missing, self.name)
        return None
