"""Rewards of whole completions and their log-probabilities under the reference policy, on the model's own device.

Both are table look-ups, so no environment is stepped. ``score_tokens`` is the definition, which the tests compare with.

Shape letters: B completions, H tokens, V vocabulary, K columns of reward terms.
"""

from dataclasses import dataclass

import numpy as np
import torch

from tokenwalk.envs.rewards.source import score_tokens
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.token_model import TokenModel


@dataclass(frozen=True, eq=False)
class Scored:
    """The rewards of B completions.

    Attributes:
        reward: [B, H], of each token: the weighted sum of the reward components and of shaping; 0 after the end.
        terms: the sum of each component over the completion, raw and weighted, [B], by its key in ``info``.
    """

    reward: torch.Tensor
    terms: dict[str, torch.Tensor]


class Scorer:
    """Scores completions of a task.

    Args:
        model: the task and its reward components.
        device: where the completions are.
        dtype: of the rewards.
    """

    def __init__(self, model: TokenModel, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.device, self._dtype = model, device, dtype
        self._vocabulary = model.task.vocabulary
        self._next_state = torch.tensor(model.next_state, device=device)
        self._start = torch.tensor(np.array(model.start), device=device)
        self._columns = {key: column for key, column in model.logged.items() if key.startswith("reward/")}
        self._tables = [torch.tensor(table, device=device) for table in model.reward_terms_tables()]

    def score(self, prompt: torch.Tensor, tokens: torch.Tensor) -> Scored:
        """Return the rewards of completions ``tokens`` [B, H], padded with V, after the prompts with numbers ``prompt`` [B].

        Raises:
            SourceContractError: a component that returned an invalid score, with its name and the text.
        """
        generated = tokens < self._vocabulary.size  # [B, H]
        state, columns = self._start[prompt], []  # [B]
        horizon = tokens.shape[1]
        for time in range(horizon):
            token = tokens[:, time].clamp(max=self._vocabulary.size - 1)
            table = self._tables[-1] if time == horizon - 1 else self._tables[0]
            columns.append(table[state, token] * generated[:, time, None])  # [B, K]
            state = self._next_state[state, token]
        every = torch.stack(columns, dim=1)  # [B, H, K]
        if self.model.others:
            self._score_others(every, prompt, tokens)
        terms = {key: every[:, :, column].sum(dim=1) for key, column in self._columns.items()}  # [B] each
        return Scored(every[:, :, 0].to(self._dtype), terms)

    def _score_others(self, terms: torch.Tensor, prompt: torch.Tensor, tokens: torch.Tensor) -> None:
        """Fill in ``terms`` [B, H, K]: the components that are not reward machines, and the weighted sums."""
        completion = tokens.cpu().numpy()  # [B, H]
        ids = self.model.task.prompt_ids[prompt.cpu().numpy()]
        length = (completion < self._vocabulary.size).sum(axis=1)
        scores = score_tokens(self.model.others, ids, completion, length, self._vocabulary)
        raw = {
            source.name: terms[:, :, self._columns[f"reward/{source.name}"]].cpu().numpy()
            for source in self.model.composition.sources
        }
        raw |= scores
        weighted = self.model.composition.weighted(raw)
        for name, table in scores.items():
            terms[:, :, self._columns[f"reward/{name}"]] = torch.tensor(table, device=self.device)
        for name, table in weighted.items():
            terms[:, :, self._columns[f"reward/{name}/weighted"]] = torch.tensor(table, device=self.device)
        terms[:, :, 0] = torch.tensor(self.model.composition.reward(weighted), device=self.device)


class Reference:
    """The task's reference policy along whole completions.

    Args:
        task: has the policy.
        device: where the completions are.
        dtype: of the log-probabilities.
    """

    def __init__(self, task: Task, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        reference = task.reference
        self._size = task.vocabulary.size
        self._next_context = torch.tensor(reference.next_context, device=device)
        self._log_probability = torch.tensor(reference.log_probability, dtype=dtype, device=device)
        start = np.broadcast_to(reference.start, len(task.prompts))
        self._start = torch.tensor(np.array(start), device=device)

    def rows(self, prompt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return its log-probabilities before each token of ``tokens`` [B, H], [B, H, V]."""
        context, rows = self._start[prompt], []  # [B]
        for column in tokens.T:
            rows.append(self._log_probability[context])
            context = self._next_context[context, column.clamp(max=self._size - 1)]
        return torch.stack(rows, dim=1)

    def log_probs(self, prompt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return its log-probability of each token of ``tokens`` [B, H], [B, H]; 0 after the end."""
        taken = self.rows(prompt, tokens).gather(2, tokens.clamp(max=self._size - 1)[:, :, None])[:, :, 0]
        return torch.where(tokens < self._size, taken, 0.0)
