"""From texts to token ids, whatever special tokens a tokenizer puts around them."""

from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Encoding, Tokenizer


class Template(NamedTuple):
    """The special tokens of a pair of texts: `opening` first `middle` second `closing`."""

    opening: list[int]
    middle: list[int]
    closing: list[int]


def template(tokenizer: Tokenizer) -> Template:
    """Return the special tokens that the tokenizer puts around a pair, read off a pair of short texts."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encoding = tokenizer.encode("a", "a")
    owners, ids = encoding.sequence_ids, encoding.ids
    first, second = ([place for place, owner in enumerate(owners) if owner == text] for text in (0, 1))
    return Template(ids[: first[0]], ids[first[-1] + 1 : second[0]], ids[second[-1] + 1 :])


class Cut:
    """An encoding without the tokens that do not fit. It has what the rest of this project reads of an encoding."""

    def __init__(self, encoding: Encoding, max_length: int):
        owners = encoding.sequence_ids
        counts = owners.count(0), owners.count(1)
        left = list(_shares(*counts, room=max(max_length - (len(owners) - sum(counts)), 0)))
        kept = []
        for place, owner in enumerate(owners):
            if owner is not None:
                left[owner] -= 1
                if left[owner] < 0:
                    continue
            kept.append(place)
        self.n_sequences = encoding.n_sequences
        lists = (encoding.ids, owners, encoding.offsets)
        self.ids, self.sequence_ids, self.offsets = ([values[place] for place in kept] for values in lists)


def encode(texts: Sequence[list[str]], max_length: int, tokenizer: Tokenizer) -> list[Encoding | Cut]:
    """Return one encoding for each row of one or two columns of texts, the longer text cut first.

    The result is that of the tokenizer's own truncation `longest_first`, which keeps what it cuts off too: for a pair, the
    pieces of one text times those of the other.
    """
    tokenizer.no_truncation()
    encodings = tokenizer.encode_batch(list(zip(*texts, strict=True)) if len(texts) == 2 else texts[0])
    return [encoding if len(encoding) <= max_length else Cut(encoding, max_length) for encoding in encodings]


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens of two texts may stay: all of the shorter one, or half of the room for each."""
    shorter = min(first, second)
    longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room - room // 2
    return (shorter, longer) if first <= second else (longer, shorter)


def first_segments(encodings: Sequence[Encoding | Cut], closing: list[int]) -> list[int]:
    """Return the tokens before each row's second text, special ones included; all tokens where there is one text."""
    return [_first_segment(encoding, len(closing)) for encoding in encodings]


def _first_segment(encoding: Encoding | Cut, closing: int) -> int:
    length = len(encoding.ids)
    return length - closing - encoding.sequence_ids.count(1) if encoding.n_sequences > 1 else length
