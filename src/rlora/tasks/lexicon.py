"""The polarity of a word: the VADER sentiment lexicon, which a Python package contains.

Source: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social
Media Text", ICWSM 2014. The file is vader_lexicon.txt of the package vaderSentiment; its columns
are word, mean, standard deviation and the ten ratings.
"""

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlora.data.examples import Examples
from rlora.data.splits import generator
from rlora.io.json_values import parse_json
from rlora.io.rows import read_lines
from rlora.tasks.text_classification import TextClassification

PACKAGE = "vaderSentiment"
FILE = "vader_lexicon.txt"
SHORTEST_WORD = 3  # letters; most shorter entries are emoticons such as "xd"


def lexicon_file(path: str | Path | None = None) -> Path:
    """Return the lexicon's file: at `path`, in the folder `path`, or in the installed package.

    Raises:
        ValueError: There is no such file.
    """
    if path is None:
        # Importing the package would load its sentiment analyzer.
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise ValueError(
                f"The package {PACKAGE} is not installed; run `pip install {PACKAGE}` or set "
                "task.path."
            )
        file = Path(spec.origin).parent / FILE
    else:
        file = Path(path).expanduser()
        file = file / FILE if file.is_dir() else file
    if not file.is_file():
        raise ValueError(
            f"The lexicon {file} does not exist; set task.path to {FILE} or to its folder."
        )
    return file


def _ratings(line: str, file: Path, number: int) -> tuple[str, list[float]]:
    cells = line.split("\t")
    try:
        ratings = parse_json(cells[3], "")
        return cells[0], [float(rating) for rating in ratings]
    except (IndexError, TypeError, ValueError):
        raise ValueError(
            f"{file}, line {number}: {len(cells)} columns, expected word, mean, deviation and a "
            "list of ratings."
        ) from None


def read_lexicon(file: Path) -> Examples:
    """Read the words with a polarity, label 1 for positive, in file order.

    A word has at least three letters and nothing but letters. Spellings that differ only in case
    count once, with the ratings of all. A word whose ratings sum to zero has no polarity and is
    skipped.

    Raises:
        ValueError: A line is malformed, or no word remains.
    """
    ratings: dict[str, list[float]] = {}
    for number, line in read_lines(file):
        if not line.strip():
            continue
        word, values = _ratings(line, file, number)
        if word.isalpha() and len(word) >= SHORTEST_WORD:
            ratings.setdefault(word.lower(), []).extend(values)
    # The sum has the sign of the mean and, for integer ratings, no rounding error.
    polar = [(word, sum(values)) for word, values in ratings.items() if sum(values) != 0]
    if not polar:
        raise ValueError(
            f"{file} has no word with a polarity; set task.path to {FILE} of {PACKAGE}."
        )
    return Examples([(word,) for word, _ in polar], [int(total > 0) for _, total in polar])


@dataclass(kw_only=True, eq=False)
class Lexicon(TextClassification):
    """Classification of words as positive or negative, by their ratings.

    A seeded split selects the training words; validation and test are halves of the others.

    Attributes:
        labels: Names of the two classes. Other names than "negative" and "positive" are in that
            order.
        train_size: Number of training words.

    Raises:
        ValueError: A setting of official development sets is used, or `train_size` is too small.
    """

    labels: Sequence[str] | None = ("negative", "positive")
    train_size: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_labels != 2:
            raise ValueError(
                f"task.labels={self.labels} is invalid: expected two names, such as [negative, "
                "positive]."
            )
        if self.train_size < 1:
            raise ValueError(f"task.train_size={self.train_size} is invalid: expected at least 1.")
        defaults = {"validation": "train", "validation_fraction": 0.05, "validation_max": 2000}
        for key, default in defaults.items():
            if getattr(self, key) != default:
                raise ValueError(
                    f"task.{key}={getattr(self, key)} has no effect on {self.name}, which has no "
                    f"official development set; remove task.{key} and use task.train_size."
                )

    def source(self) -> dict[str, str]:
        """Return the package with its version, or the file at `path`."""
        if self.path is None:
            return {
                "source": "package",
                "location": f"{PACKAGE}=={importlib.metadata.version(PACKAGE)}",
            }
        return {"source": "directory", "location": str(lexicon_file(self.path))}

    def input_files(self) -> list[Path]:
        """Return the lexicon's file."""
        return [lexicon_file(self.path)]

    def read(self) -> dict[str, Examples]:
        """Return `train`, `validation` and `test`; they depend on `split_seed` and `train_size`.

        Raises:
            ValueError: `train_size` leaves fewer than two words for validation and test.
        """
        words = read_lexicon(lexicon_file(self.path))
        names = [name.casefold() for name in self.labels or ()]
        if names == ["positive", "negative"]:
            words = Examples(words.texts, [1 - int(label) for label in words.labels or ()])
        if self.train_size > len(words) - 2:
            raise ValueError(
                f"task.train_size={self.train_size} of {len(words)} words leaves too few for "
                f"validation and test; set task.train_size to at most {len(words) - 2}."
            )
        order = generator(self.split_seed).permutation(len(words))
        middle = self.train_size + (len(words) - self.train_size) // 2
        bounds = {
            "train": (0, self.train_size),
            "validation": (self.train_size, middle),
            "test": (middle, len(words)),
        }
        return {name: words.take(order[start:stop]) for name, (start, stop) in bounds.items()}
