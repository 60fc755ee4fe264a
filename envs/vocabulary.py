"""Token ids and their text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tokenwalk.envs.arrays import IntArray

EOS = "<eos>"


@dataclass(frozen=True)
class Vocabulary:
    """V tokens, the last of which is ``<eos>``; the id V is padding, not a token.

    Where every token but ``<eos>`` is a single character, text is their sequence; else words with a space
    between.

    Raises:
        ValueError: a token that is not text, is empty or is repeated; no token but ``<eos>``; ``<eos>`` missing or not
            last; or a space inside a word.
    """

    tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        if isinstance(self.tokens, str):
            raise ValueError(
                f"tokens is the text {self.tokens!r}: give a tuple of tokens, or use Vocabulary.of_characters"
            )
        object.__setattr__(self, "tokens", tuple(self.tokens))
        if wrong := [token for token in self.tokens if not isinstance(token, str) or not token]:
            raise ValueError(f"{wrong[0]!r} is no token: give texts of one character or more")
        if len(set(self.tokens)) < len(self.tokens):
            double = next(token for index, token in enumerate(self.tokens) if token in self.tokens[:index])
            raise ValueError(f"the token {double!r} is there twice: give each token once")
        if EOS not in self.tokens or self.tokens[-1] != EOS:
            raise ValueError(
                f"the tokens end with {self.tokens[-1:]}: {EOS!r} must be there, as the last one"
            )
        if len(self.tokens) < 2:
            raise ValueError(f"there is no token but {EOS!r}: give at least one more")
        if self.separator and (spaced := [token for token in self.tokens if " " in token]):
            raise ValueError(f"the token {spaced[0]!r} holds a space, which separates words: take it out")

    @classmethod
    def of_characters(cls, characters: Iterable[str]) -> "Vocabulary":
        """Return the vocabulary of ``characters`` (or words) in their order, with ``<eos>`` added."""
        return cls((*characters, EOS))

    @property
    def size(self) -> int:
        """Return V, ``<eos>`` included."""
        return len(self.tokens)

    @property
    def eos(self) -> int:
        """Return the id of ``<eos>``, V - 1."""
        return len(self.tokens) - 1

    @property
    def pad(self) -> int:
        """Return the id that pads, V."""
        return len(self.tokens)

    @cached_property
    def separator(self) -> str:
        """Return the separator between two tokens of a text: "" or a space."""
        return "" if all(len(token) == 1 for token in self.tokens[:-1]) else " "

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Return the smallest unsigned integer type that holds every id, padding included."""
        return np.min_scalar_type(self.size + 1)  # MultiDiscrete stores V + 1, the number of ids, in it too

    def encode(self, text: str) -> IntArray:
        """Return the ids of ``text``, int64 [n], without ``<eos>``.

        Raises:
            ValueError: an unknown character or word, with its position.
        """
        if not isinstance(text, str):
            raise ValueError(f"{text!r} is no text: give a string")
        number = {token: index for index, token in enumerate(self.tokens[:-1])}
        pieces = list(text) if not self.separator else text.split()
        for place, piece in enumerate(pieces):
            if piece not in number:
                known = ", ".join(map(repr, self.tokens[:-1]))
                raise ValueError(
                    f"{piece!r}, number {place + 1} of {text!r}, is not in the vocabulary: it has {known}"
                )
        return np.array([number[piece] for piece in pieces], dtype=np.int64)

    def encode_completion(self, text: str, horizon: int) -> list[int]:
        """Return the ids of ``text``, ended by ``<eos>`` unless its first ``horizon`` tokens fill the horizon.

        Raises:
            ValueError: as ``encode``.
        """
        return [*self.encode(text).tolist(), self.eos][:horizon]

    def pad_rows(
        self, rows: Sequence[Sequence[int]], width: int
    ) -> tuple[npt.NDArray[np.unsignedinteger], IntArray]:
        """Return ``rows`` of ids as one array [B, width], padded on the right with V, and their lengths, int64 [B]."""
        tokens = np.full((len(rows), width), self.pad, dtype=self.dtype)
        length = np.zeros(len(rows), dtype=np.int64)
        for index, row in enumerate(rows):
            tokens[index, : len(row)], length[index] = row, len(row)
        return tokens, length

    def decode(self, ids: npt.ArrayLike) -> str:
        """Return the text of ``ids`` [n] up to the first ``<eos>``; padding is left out.

        Raises:
            ValueError: an id below 0 or above V.
        """
        numbers = np.asarray(ids).ravel().tolist()
        if self.eos in numbers:
            del numbers[numbers.index(self.eos) :]
        if numbers and not 0 <= min(numbers) <= max(numbers) <= self.pad:
            wrong = next(number for number in numbers if not 0 <= number <= self.pad)
            raise ValueError(
                f"id {wrong} is out of range: ids are 0 to {self.size - 1}, and {self.pad} for padding"
            )
        return self.separator.join([self.tokens[number] for number in numbers if number != self.pad])
