"""A text file as a task: its characters or words, a bigram fitted to it, and a gold of 0."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from tokenwalk.envs.reference import fit_ngram
from tokenwalk.envs.rewards.builders import token_weights
from tokenwalk.envs.tasks import TEXT, Task, check_horizon
from tokenwalk.envs.vocabulary import EOS, Vocabulary

HORIZON = 32
MOST_CHARACTERS, MOST_WORDS = 64, 63
Tokens = Literal["characters", "words"]


def text_task(path: Path | None = None, tokens: Tokens = "characters", horizon: int = HORIZON) -> Task:
    """Return the task of generating lines like those of a text file, the bundled one by default.

    The vocabulary is the 64 most frequent characters or the 63 most frequent words; rarer ones are dropped. The
    reference policy is a bigram of the lines. Gold is 0 for every text: a task needs one.

    Raises:
        ValueError: a file that is not UTF-8 text or is blank, tokens of another kind, or a horizon below 1.
        OSError: a file that cannot be read.
    """
    check_horizon(horizon)
    kinds: dict[str, tuple[Callable[[str], list[str]], int]] = {
        "characters": (list, MOST_CHARACTERS),
        "words": (str.split, MOST_WORDS),
    }
    if tokens not in kinds:
        raise ValueError(f"tokens are {tokens!r}: give characters or words")
    split, most = kinds[tokens]
    path = TEXT if path is None else path
    pieces = [split(line.strip()) for line in _read(path).splitlines() if line.strip()]
    count = Counter(piece for line in pieces for piece in line if piece != EOS)
    if not count:
        raise ValueError(f"{path} holds no {tokens}: give a text with at least one line that is not blank")
    kept = sorted(piece for piece, _ in count.most_common(most))
    vocabulary = Vocabulary.of_characters(kept)
    number = {piece: index for index, piece in enumerate(kept)}
    lines = [[number[piece] for piece in line if piece in number] for line in pieces]
    reference = fit_ngram(lines, vocabulary.size)
    nothing = token_weights(np.zeros(vocabulary.size))
    return Task(path.name, vocabulary, horizon, nothing, reference=reference)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}): give a text file") from None
