"""Language modeling of one column of CSV files, without prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlora.data.locations import data_folder
from rlora.io.rows import read_csv
from rlora.tasks.language_modeling import LanguageModeling, Pair


@dataclass(kw_only=True, eq=False)
class TextColumn(LanguageModeling):
    """The texts of a column, one example per row.

    Attributes:
        files: File names by split: train, validation, test.
        column: Name of the column.
        folder: Name of the files' folder below `$RLORA_DATA`.
        origin: Where to download the files, for messages.
    """

    files: Mapping[str, str]
    column: str
    folder: str
    origin: str
    end_after_prompt: bool = True

    def read(self) -> dict[str, list[Pair]]:
        """Return the texts of every file."""
        return {split: self._texts(self._folder() / name) for split, name in self.files.items()}

    def input_files(self) -> list[Path]:
        """Return the files of all splits."""
        return [self._folder() / name for name in self.files.values()]

    def source(self) -> dict[str, str]:
        """Return the folder of the files."""
        return {"source": "directory", "location": str(self._folder())}

    def _folder(self) -> Path:
        return data_folder(self.path, self.folder, list(self.files.values()), self.origin)

    def _texts(self, file: Path) -> list[Pair]:
        pairs = [
            Pair("", " ".join(row[self.column].split()), f"{file}, line {number}")
            for number, row in read_csv(file, [self.column])
        ]
        if empty := [pair.location for pair in pairs if not pair.text]:
            raise ValueError(f"{empty[0]}: its {self.column} is empty")
        if not pairs:
            raise ValueError(f"{file} has no rows; put a complete file under task.path.")
        return pairs
