"""Keywords that a reward may reward: the texts in its code, and n-grams of its optimal completions."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from tokenwalk.agents.exact_tokens.completions import Completions
from tokenwalk.envs.rewards.function import FunctionSource
from tokenwalk.envs.rewards.learned import LearnedSource
from tokenwalk.envs.rewards.source import MachineSource, Source
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.vocabulary import Vocabulary

Word = tuple[int, ...]  # token ids, without <eos>

MAX_NGRAM = 8  # tokens
MAX_DEPTH = 3  # nested calls and containers that are read in a reward's code
MAX_WORDS = 200  # words of a reward's code


def ngrams(completions: Completions, eos: int) -> list[Word]:
    """Return every n-gram of 2 to 8 tokens of ``completions``, each once, in their order."""
    found: dict[Word, None] = {}
    for row in completions.tokens:
        tokens = [int(token) for token in row if token < eos]
        for size in range(2, min(MAX_NGRAM, len(tokens)) + 1):
            found |= {tuple(tokens[first : first + size]): None for first in range(len(tokens) - size + 1)}
    return list(found)


def words_in_code(source: Source, task: Task) -> list[Word]:
    """Return the words in the code of ``source``, as tokens of ``task``, and one concatenation of all of them.

    The texts are: the constants of the function and of functions that it calls in the same file, and the texts in lists,
    sets and dictionaries that it names. A text counts as a whole and by its words; on characters also with a space at
    the end. Texts that the vocabulary cannot encode, or longer than the horizon, are left out.
    """
    if isinstance(source, MachineSource | LearnedSource):
        return []  # they have no code
    found: dict[Word, None] = {}
    for text in _texts(source.function if isinstance(source, FunctionSource) else source.score, MAX_DEPTH):
        for piece in dict.fromkeys([text, text.strip(), *re.findall(r"\w+", text)]):
            if ids := _encoded(piece, task.vocabulary):
                found[ids] = None
        if len(found) >= MAX_WORDS:
            break
    space = _encoded(" ", task.vocabulary)
    joined = tuple(token for word in found for token in (*word, *space))
    every = [*found, *((*word, *space) for word in found), joined[: task.horizon]]
    return [word for word in dict.fromkeys(every) if 2 <= len(word) <= task.horizon]


def _encoded(text: str, vocabulary: Vocabulary) -> Word:
    """Return the tokens of ``text``; none where the vocabulary cannot encode it."""
    try:
        return tuple(int(token) for token in vocabulary.encode(text))
    except ValueError:
        return ()


def _texts(value: Any, depth: int) -> Iterator[str]:
    """Yield the texts in ``value``: a text, a container, the constants of a function and the names that it reads."""
    if isinstance(value, str):
        yield value
    elif depth == 0:
        return
    elif isinstance(value, re.Pattern):
        yield from _texts(value.pattern, depth)
    elif isinstance(value, Mapping):
        yield from _texts_of([*value.keys(), *value.values()], depth)
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from _texts_of(sorted(value, key=str) if isinstance(value, (set, frozenset)) else value, depth)
    elif isinstance(value, MethodType):
        yield from _texts_of(
            [value.__func__, vars(value.__self__) if hasattr(value.__self__, "__dict__") else {}], depth
        )
    elif isinstance(value, partial):
        yield from _texts_of([value.func, value.args, value.keywords], depth)
    elif isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_set(cell)]
        named = [value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__]
        own = [
            one for one in named if not isinstance(one, FunctionType) or one.__module__ == value.__module__
        ]
        yield from _texts_of([*_constants(value), value.__defaults__ or (), cells, own], depth + 1)
    elif not isinstance(value, type) and isinstance(getattr(value, "__call__", None), MethodType):  # noqa: B004
        yield from _texts(value.__call__, depth)


def _texts_of(values: Iterable[Any], depth: int) -> Iterator[str]:
    for value in values:
        yield from _texts(value, depth - 1)


def _names(code: CodeType) -> list[str]:
    """Return the names that ``code`` reads, with those of nested functions."""
    inner = [name for one in code.co_consts if isinstance(one, CodeType) for name in _names(one)]
    return [*code.co_names, *inner]


def _constants(function: FunctionType) -> list[Any]:
    """Return the constants of a function and of nested functions, without its docstring."""

    def of(code: CodeType) -> list[Any]:
        return [part for one in code.co_consts for part in (of(one) if isinstance(one, CodeType) else [one])]

    return [one for one in of(function.__code__) if one != function.__doc__]


def _is_set(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # an empty cell
        return False
