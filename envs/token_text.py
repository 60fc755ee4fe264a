"""A token episode as text: prompt, completion with marks under the rewarded tokens, reward terms, return."""

import numpy as np

from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.composition import Composition
from tokenwalk.envs.rewards.machine import TokenArray
from tokenwalk.envs.rewards.source import score_tokens
from tokenwalk.envs.tasks import Task


def format_episode(task: Task, composition: Composition, tokens: TokenArray, length: int) -> str:
    """Return the episode so far as text.

    A + stands under each token of positive reward, a - under each of negative reward. The terms and the return are
    sums so far.

    Args:
        task: of the episode.
        composition: its reward terms.
        tokens: integers [P + H], prompt and completion.
        length: number of tokens generated so far.
    """
    prompt, completion = tokens[: task.prompt_length], tokens[task.prompt_length :]  # [P], [H]
    scores = score_tokens(
        composition.sources, prompt[None], completion[None], np.array([length]), task.vocabulary
    )
    weighted = composition.weighted(scores)
    reward = composition.train_reward(weighted)[0, :length]  # [length]
    generated = [task.vocabulary.tokens[token] for token in completion[:length]]
    lines = {
        "prompt": task.vocabulary.decode(prompt),
        "completion": task.vocabulary.separator.join(generated),
    }
    if reward.any():
        lines[""] = _marks(generated, reward, task.vocabulary.separator)
    weights = {source.name: weight for source, weight in (*composition.train, *composition.shaping)}
    shaping = {source.name for source, _ in composition.shaping}
    for source in composition.sources:
        total, name = scores[source.name].sum(), source.name
        lines[name] = f"{total:+g}, not in the reward"
        if name in weights:
            lines[name] = f"{total:+g} x {weights[name]:g} = {weighted[name].sum():+g}"
        if name in shaping:
            lines[name] += ", not in the return"
    lines["return"] = f"{reward.sum():+g}"
    width = max(map(len, lines)) + 2
    return "\n".join(
        f"{name:{width}}{text}".rstrip() for name, text in lines.items() if name != "prompt" or text
    )


def _marks(tokens: list[str], rewards: FloatArray, separator: str) -> str:
    """Return the line under the completion: each token's width in +, - or blanks, by the sign of its reward."""
    return separator.join(
        "+- "[0 if reward > 0 else 1 if reward < 0 else 2] * len(token)
        for token, reward in zip(tokens, rewards, strict=True)
    )
