"""A token episode as text: prompt, completion with the paid tokens marked, each source's term, the return."""

import numpy as np

from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.composition import Composition
from tokenwalk.envs.rewards.machine import TokenArray
from tokenwalk.envs.rewards.source import score_tokens
from tokenwalk.envs.tasks import Task


def draw_episode(task: Task, composition: Composition, tokens: TokenArray, length: int) -> str:
    """Return the episode so far: ``tokens`` [P + H], prompt and completion, ``length`` of which are written.

    Under each token that was paid stands +, or - where it cost something. Terms and the return are sums so
    far.
    """
    prompt, completion = tokens[: task.prompt_length], tokens[task.prompt_length :]
    scores = score_tokens(
        composition.sources, prompt[None], completion[None], np.array([length]), task.vocabulary
    )
    weighted = composition.weighted(scores)
    paid = composition.paid(weighted)[0, :length]
    written = [task.vocabulary.tokens[token] for token in completion[:length]]
    lines = {"prompt": task.vocabulary.decode(prompt), "completion": task.vocabulary.separator.join(written)}
    if paid.any():
        lines[""] = _marks(written, paid, task.vocabulary.separator)
    weights = {source.name: weight for source, weight in (*composition.train, *composition.shaping)}
    shaping = {source.name for source, _ in composition.shaping}
    for source in composition.sources:
        total, name = scores[source.name].sum(), source.name
        lines[name] = f"{total:+g}, not paid"
        if name in weights:
            lines[name] = f"{total:+g} x {weights[name]:g} = {weighted[name].sum():+g}"
        if name in shaping:
            lines[name] += ", in no return"
    lines["return"] = f"{paid.sum():+g}"
    width = max(map(len, lines)) + 2
    return "\n".join(
        f"{name:{width}}{text}".rstrip() for name, text in lines.items() if name != "prompt" or text
    )


def _marks(tokens: list[str], paid: FloatArray, separator: str) -> str:
    """Return the line under the completion: each token's width in +, - or blanks, as it was paid."""
    return separator.join(
        "+- "[0 if reward > 0 else 1 if reward < 0 else 2] * len(token)
        for token, reward in zip(tokens, paid, strict=True)
    )
