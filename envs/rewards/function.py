"""A Python function of text as a reward function: one adapter, which reads the names of the parameters."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.source import SourceContractError, TokenBatch
from tokenwalk.envs.vocabulary import Vocabulary

Form = Literal["text", "prompt and completion", "prompts and completions", "batch"]
FORMS = "f(text), f(prompt, completion), f(prompts, completions) or f(batch)"


def form_of(function: Callable[..., Any]) -> Form:
    """Return how to call ``function``, by the names of its parameters.

    ``text`` is the completion without its prompt; ``completions`` (TRL's form) takes lists, and further columns
    by its ``**``; ``batch`` is a ``TokenBatch``.

    Raises:
        ValueError: parameters of other names, or further parameters without a default.
    """
    parameters = inspect.signature(function).parameters
    names = [
        name for name, one in parameters.items() if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    ]
    wanted: dict[str, tuple[Form, set[str]]] = {
        "batch": ("batch", set()),
        "text": ("text", set()),
        "completion": ("prompt and completion", {"prompt"}),
        "completions": ("prompts and completions", {"prompts"}),
    }
    for name, (form, beside) in wanted.items():
        if name in names:
            others = [one for one in names if one != name and one not in beside]
            if needed := [one for one in others if parameters[one].default is inspect.Parameter.empty]:
                raise ValueError(
                    f"{_name(function)} needs {needed[0]!r}, which no task has: give it a default"
                )
            return form
    raise ValueError(
        f"{_name(function)} takes ({', '.join(parameters)}), and these names are unknown: give {FORMS}"
    )


def call_on_texts(
    function: Callable[..., Any], form: Form, prompts: Sequence[str], completions: Sequence[str]
) -> list[Any]:
    """Return the unchecked result of ``function`` for each completion."""
    taken = inspect.signature(function).parameters
    if form == "prompts and completions":
        given: dict[str, Any] = {"completions": list(completions)}
        if "prompts" in taken or any(one.kind is one.VAR_KEYWORD for one in taken.values()):
            given["prompts"] = list(prompts)
        return list(function(**given))
    if form == "text":
        return [function(text=text) for text in completions]
    if "prompt" not in taken:
        return [function(completion=text) for text in completions]
    return [
        function(prompt=prompt, completion=text) for prompt, text in zip(prompts, completions, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class FunctionSource:
    """A Python function as a reward at the end of a completion.

    Its scores are float64: any finite numbers, unless ``low`` and ``high`` are given; 0 before the end of a completion.
    The optimal policy maximizes the function, exploits included: ``tokenwalk audit reward`` searches for them.

    Args:
        name: under which it is logged.
        function: see ``form_of``. It must be importable (defined in a file) to reach another process.
        vocabulary: decodes ids into the text.
        low, high: the allowed range.

    Raises:
        ValueError: a function whose parameters have other names.
        SourceContractError: from ``score``: the function raised, or did not return one number for each text. None is
            refused too: it is not 0. The message has the name and the text.
    """

    name: str
    function: Callable[..., Any]
    vocabulary: Vocabulary
    low: float = -np.inf
    high: float = np.inf
    timing: Literal["token", "end"] = "end"

    def __post_init__(self) -> None:
        form_of(self.function)

    def score(self, batch: TokenBatch) -> FloatArray:
        """Return the function's number for each completion, float64 [B]."""
        return score_by_function(self.name, self.function, self.vocabulary, batch)


@dataclass(frozen=True, eq=False)
class FunctionPotential:
    """A Python function of unfinished text as a potential, for shaping; arguments and errors as for ``FunctionSource``."""

    name: str
    function: Callable[..., Any]
    vocabulary: Vocabulary

    def __post_init__(self) -> None:
        form_of(self.function)

    def value(self, batch: TokenBatch) -> FloatArray:
        """Return the function's number for each prefix, float64 [B]. Raises SourceContractError as ``score``."""
        return score_by_function(self.name, self.function, self.vocabulary, batch)


def score_by_function(
    name: str, function: Callable[..., Any], vocabulary: Vocabulary, batch: TokenBatch
) -> FloatArray:
    """Return one number for each row, float64 [B]. Raises SourceContractError as ``FunctionSource`` says."""
    form = form_of(function)
    prompts = [vocabulary.decode(row) for row in batch.prompt]
    completions = [
        vocabulary.decode(row[:length]) for row, length in zip(batch.completion, batch.length, strict=True)
    ]
    if form == "batch":
        return _numbers(
            name, _called(name, partial(function, batch=batch), prompts, completions), completions
        )
    call = partial(call_on_texts, function, form)
    if form == "prompts and completions":
        found = _called(name, partial(call, prompts, completions), prompts, completions)
        return _numbers(name, found, completions)
    found = []
    for prompt, text in zip(
        prompts, completions, strict=True
    ):  # one at a time, so that an error names its text
        found += _called(name, partial(call, [prompt], [text]), [prompt], [text])
    return _numbers(name, found, completions)


def _called(name: str, call: Callable[[], Any], prompts: Sequence[str], completions: Sequence[str]) -> Any:
    """Return the result of ``call``; its exception becomes a SourceContractError that names the text."""
    try:
        return call()
    except SourceContractError:
        raise
    except Exception as error:
        raise SourceContractError(
            f"source {name!r} raised {type(error).__name__}: {error}, given {len(completions)} texts, the first "
            f"prompt {prompts[0]!r}, completion {completions[0]!r}"
        ) from error


def _numbers(name: str, found: Any, completions: Sequence[str]) -> FloatArray:
    """Return ``found`` as float64 [B]. Raises SourceContractError, naming the first text without a number."""
    try:
        listed = list(found)
    except TypeError:
        listed = [found]
    if len(listed) != len(completions):
        raise SourceContractError(
            f"source {name!r} returned {len(listed)} scores for {len(completions)} texts, the first "
            f"{completions[0]!r}: return one number for each"
        )
    numbers = np.empty(len(listed))
    for row, value in enumerate(listed):
        if isinstance(value, np.ndarray) and value.shape == ():
            value = value[()]
        if not isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
            shown = "None, which means that it cannot judge" if value is None else f"{value!r}"
            raise SourceContractError(
                f"source {name!r} returned {shown} for completion {completions[row]!r}: return a number"
            )
        numbers[row] = float(value)
    return numbers


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
