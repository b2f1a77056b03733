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


def encode(texts: Sequence[list[str]], max_length: int, tokenizer: Tokenizer) -> list[Encoding]:
    """Return one encoding for each row of one or two columns of texts, the longer text cut first."""
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    return tokenizer.encode_batch(list(zip(*texts, strict=True)) if len(texts) == 2 else texts[0])


def first_segments(encodings: list[Encoding], closing: list[int]) -> list[int]:
    """Return the tokens before each row's second text, special ones included; all tokens where there is one text."""
    return [_first_segment(encoding, len(closing)) for encoding in encodings]


def _first_segment(encoding: Encoding, closing: int) -> int:
    length = len(encoding.ids)
    return length - closing - encoding.sequence_ids.count(1) if encoding.n_sequences > 1 else length
