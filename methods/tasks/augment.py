"""Data augmentation: copies of the training rows in which words are substituted, as TinyBERT's (Jiao et al. 2020).

In each copy of a text every word that may change changes with probability `share`, to one of its candidates. Those of a
word of one token are the guesses of the base model's masked-word head, where the base has one; those of another word are
the nearest words of a word-vector file, where one is given. Function words, numbers and punctuation stay.

A pair is copied twice as often: one text changes, and the other is the original. (The published code,
TinyBERT/data_augmentation.py, pairs the copies of the second text with the last copy of the first, because it writes into
the row that it reads. That is not repeated.) What is said of "the code" below is read in that file.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from tokenizers import Encoding, Tokenizer

from methods.common.errors import UserError
from methods.common.progress import Progress
from methods.tasks.kinds import Columns
from methods.tasks.sources import fingerprint
from methods.tasks.vectors import Vectors

WORD = re.compile(r"[a-z]+")  # the only words that change; the code's rule, which leaves accents alone too
SPECIAL = re.compile(r"\[\w+\]|<\w+>")  # [CLS], [unused7], <s>
TEXTS = 500  # whose words are guessed together
# Words of grammar never change, nor do the pieces into which a tokenizer splits contractions. The code leaves
# out stop words; this list is ours.
FUNCTION_WORDS = frozenset(
    """
    a an the this that these those each every either neither both all any some such no none
    i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself
    it its itself they them their theirs themselves who whom whose which what
    be am is are was were been being have has had having do does did doing done
    will would shall should can could may might must cannot
    and or but nor so yet if because although though while as than that when where why how whether not
    of at by for with from to in into on onto out off over under up down about above below between among through during
    before after against until since without within along across around near upon toward towards
    s t d m ll re ve isn aren wasn weren hasn haven hadn don doesn didn won wouldn couldn shouldn mustn
    """.split()
)


class Word(NamedTuple):
    """A word that may change: its characters in the text, and its token in the encoding where it has only one."""

    start: int
    end: int
    token: int | None


class Guesses(Protocol):
    """The likeliest words at hidden places: `methods.tasks.guesses.Guesser`."""

    def best(self, prompts: list[tuple[list[int], int, int]], count: int) -> np.ndarray: ...


class Augmenter:
    """Candidates for the words of texts, and copies of the texts with some of them."""

    def __init__(
        self, tokenizer: Tokenizer, settings: dict, guesses: Guesses | None, vectors: Vectors | None, longest: int = 512
    ):
        self.tokenizer, self.guesses, self.vectors, self.longest = tokenizer, guesses, vectors, longest
        self.copies, self.share = settings["copies"], settings["share"]
        self.candidates, self.seed = settings["candidates"], settings["seed"]
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.spelling = spelling(tokenizer)
        vocabulary = tokenizer.get_vocab()
        self.mask = vocabulary.get("[MASK]", vocabulary.get("<mask>"))
        if guesses is not None and self.mask is None:
            raise UserError("The base model's tokenizer has no [MASK]: give a word-vector file, augmentation.vectors.")

    def rows(self, columns: Columns, texts: list[str]) -> Columns:
        """Return the rows and behind them their copies, in the order of the rows; `texts` names the columns of text."""
        found = {name: list(values) for name, values in columns.items()}
        count = len(columns[texts[0]])
        progress = Progress("augmentation", count)
        for start in range(0, count, TEXTS):
            members = range(start, min(start + TEXTS, count))
            candidates = self.of_texts(list(dict.fromkeys(columns[name][row] for name in texts for row in members)))
            for row in members:
                for number, name in enumerate(texts):
                    text = columns[name][row]
                    for copy in self.copies_of(text, *candidates[text], np.random.default_rng([self.seed, row, number])):
                        for column, values in found.items():
                            values.append(copy if column == name else columns[column][row])
            progress.update(members.stop, {"rows": str(len(found[texts[0]]))})
        progress.close()
        return found

    def of_texts(self, texts: list[str]) -> dict[str, tuple[list[Word], list[list[str]]]]:
        """Return each text's words that may change, and the candidates of each."""
        encodings = self.tokenizer.encode_batch([(text, text) for text in texts])
        words = [list(words_of(text, encoding)) for text, encoding in zip(texts, encodings, strict=True)]
        guessed, far = {}, []
        for number, (text, of_text) in enumerate(zip(texts, words, strict=True)):
            for at, word in enumerate(of_text):
                if self.guesses is not None and word.token is not None:
                    if word.token < self.longest:
                        guessed[number, at] = self._prompt(encodings[number], word.token)
                else:
                    far.append(text[word.start : word.end].lower())
        if guessed:
            best = self.guesses.best(list(guessed.values()), self.candidates).tolist()
            guessed = {
                place: [self.spelling[token] for token in tokens if self.spelling[token]]
                for place, tokens in zip(guessed, best, strict=True)
            }
        near = self.vectors.nearest(far, self.candidates) if self.vectors else {}

        def candidates(number: int, at: int) -> list[str]:
            if (number, at) in guessed:
                return guessed[number, at]
            word = texts[number][words[number][at].start : words[number][at].end]
            if self.guesses is not None and words[number][at].token is not None:
                return []  # its place is beyond what the model reads
            others = near.get(word.lower(), [])
            return [other.title() for other in others] if word.istitle() else others

        return {
            text: (words[number], [candidates(number, at) for at in range(len(words[number]))])
            for number, text in enumerate(texts)
        }

    def copies_of(
        self, text: str, words: list[Word], candidates: list[list[str]], random: np.random.Generator
    ) -> Iterator[str]:
        """Yield different copies of a text, at most as many as were asked for: what comes out twice is left out."""
        changing = [(word, others) for word, others in zip(words, candidates, strict=True) if others]
        if not changing:
            return
        chosen = random.random((self.copies, len(changing))) < self.share
        picks = random.random((self.copies, len(changing)))
        seen = {text}
        for row in range(self.copies):
            parts, end = [], 0
            for at, (word, others) in enumerate(changing):
                if chosen[row, at]:
                    parts += [text[end : word.start], others[int(picks[row, at] * len(others))]]
                    end = word.end
            copy = "".join([*parts, text[end:]])
            if copy not in seen:
                seen.add(copy)
                yield copy

    def _prompt(self, encoding: Encoding, token: int) -> tuple[list[int], int, int]:
        """Return the text with a hidden word and behind it the text itself, as the code does."""
        ids = list(encoding.ids)
        ids[token] = self.mask
        first = encoding.sequence_ids.index(1) if 1 in encoding.sequence_ids else len(ids)
        return ids[: self.longest], min(first, self.longest), token


def words_of(text: str, encoding: Encoding) -> Iterator[Word]:
    """Yield the words of an encoding's first text that may change."""
    tokens = {}
    for token, (owner, word) in enumerate(zip(encoding.sequence_ids, encoding.word_ids, strict=True)):
        if owner == 0 and word is not None:
            tokens.setdefault(word, []).append(token)
    for members in tokens.values():
        start, end = encoding.offsets[members[0]][0], encoding.offsets[members[-1]][1]
        start += len(text[start:end]) - len(text[start:end].lstrip())  # byte-level tokens may begin with a space
        word = text[start:end].lower()
        if WORD.fullmatch(word) and word not in FUNCTION_WORDS:
            yield Word(start, end, members[0] if len(members) == 1 else None)


def spelling(tokenizer: Tokenizer) -> list[str | None]:
    """Return the word that each token spells alone; None for pieces of words and special tokens."""
    model = json.loads(tokenizer.to_str())["model"]
    inside, before = model.get("continuing_subword_prefix"), ("Ġ", "▁")  # WordPiece marks the inside of words, BPE the start
    found = [None] * tokenizer.get_vocab_size()
    for token, number in tokenizer.get_vocab().items():
        if SPECIAL.fullmatch(token) or number >= len(found):
            continue
        if inside:
            found[number] = None if token.startswith(inside) else token
        elif token.startswith(before) and token[1:].isascii():
            found[number] = token[1:] or None
    return found


def augmented(
    columns: Columns, texts: list[str], settings: dict, base_path: Path, vectors: Path | None
) -> tuple[Columns, dict]:
    """Return training rows with their copies behind them, and what is recorded of these."""
    from methods.model.anatomy import ANATOMIES
    from methods.model.encoder import read_base

    base, _ = read_base(base_path)
    if not base.guesses and vectors is None:
        name = base.source.get("id") or base_path.name
        raise UserError(
            f"{name} has no masked-word head to take substitutes from: name a word-vector file, such as GloVe's "
            "glove.6B.300d.txt, in augmentation.vectors."
        )
    guesses = None
    if base.guesses:
        import torch

        from methods.tasks.guesses import Guesser

        guesses = Guesser(base).to("cuda" if torch.cuda.is_available() else "cpu")
    else:
        print("augmentation: the base model has no masked-word head, so all substitutes are near words", file=sys.stderr)
    if vectors is None:
        print("augmentation: without a word-vector file, words of several tokens never change", file=sys.stderr)
    longest = base.config["max_position_embeddings"] - ANATOMIES[base.config.get("model_type", "bert")].skipped
    nearest = Vectors.read(vectors) if vectors else None
    maker = Augmenter(Tokenizer.from_str(base.tokenizer), settings, guesses, nearest, longest)
    found = maker.rows(columns, texts)
    sources = (("masked-word head", guesses), ("word vectors", nearest))
    facts = {
        "substitutes": " and ".join(name for name, source in sources if source is not None),
        "rows": len(found[texts[0]]),
        "fingerprint": fingerprint({"train": found}),
    }
    return found, facts
