"""Words by nearness: a file of word vectors in text form, as GloVe's (Pennington et al. 2014)."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from methods.common import interrupt
from methods.common.errors import UserError

MOST = 100_000  # vectors that are read, the first of the file (code: TinyBERT/data_augmentation.py)
AT_ONCE = 256  # words whose neighbours are searched together


class Vectors:
    """Words and their vectors of length one."""

    def __init__(self, words: list[str], vectors: np.ndarray):
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        self.words, self.vectors = words, vectors / np.where(lengths > 0, lengths, 1)  # (words, d)
        self.places = {word: place for place, word in reversed(list(enumerate(words)))}

    @classmethod
    def read(cls, path: Path) -> "Vectors":
        """Read the first vectors of a file: a word and its numbers on each line. A first line of two counts is skipped."""
        words, rows, wanted = [], [], None
        try:
            with open(path, encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    fields = line.rstrip("\n").rstrip(" ").split(" ")
                    if number == 1 and len(fields) == 2:
                        continue
                    wanted = wanted or len(fields) - 1
                    row = np.asarray(fields[-wanted:], np.float32) if len(fields) > wanted else np.empty(0)
                    if not (wanted and row.size == wanted and np.isfinite(row).all()):
                        raise ValueError(number)
                    words.append(" ".join(fields[:-wanted]))
                    rows.append(row)
                    if len(words) == MOST:
                        break
        except UnicodeDecodeError:
            raise UserError(
                f"{path} is no text in UTF-8: name word vectors in text form, such as glove.6B.300d.txt."
            ) from None
        except ValueError:
            raise UserError(
                f"{path}, line {number}: write a word and then as many numbers as on the lines before, with spaces between."
            ) from None
        if not words:
            raise UserError(f"{path} holds no word vectors: name a file in text form, such as glove.6B.300d.txt.")
        return cls(words, np.stack(rows))

    def nearest(self, words: Iterable[str], count: int) -> dict[str, list[str]]:
        """Return the words with the largest cosine to each word, the nearest first; nothing for an unknown word."""
        known = [word for word in dict.fromkeys(words) if word in self.places]
        count, found = min(count, len(self.words) - 1), {}
        for start in range(0, len(known) if count else 0, AT_ONCE):
            interrupt.check()
            some = known[start : start + AT_ONCE]
            places = np.asarray([self.places[word] for word in some])
            cosines = self.vectors[places] @ self.vectors.T  # (some, words)
            cosines[np.arange(len(some)), places] = -np.inf
            best = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
            for row, word in enumerate(some):
                order = np.lexsort((best[row], -cosines[row, best[row]]))
                found[word] = [self.words[place] for place in best[row][order]]
        return found
