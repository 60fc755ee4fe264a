"""What whole completions are paid, and how likely the reference policy finds them: gathers, on the model's own device.

``score_tokens`` is the definition, which the tests hold this to; here the machines' tables stay where the network is, so
that nothing is moved and no environment is stepped.
"""

from dataclasses import dataclass

import numpy as np
import torch

from tokenwalk.envs.rewards.source import score_tokens
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.token_model import TokenModel


@dataclass(frozen=True, eq=False)
class Scored:
    """What B completions are paid.

    Attributes:
        reward: [B, H], of each token: the weighted sum of what is paid, and of shaping; 0 where nothing is written.
        terms: each source's sum over the completion by its key in ``info``, raw and weighted, [B].
    """

    reward: torch.Tensor
    terms: dict[str, torch.Tensor]


class Scorer:
    """Scores completions of a task by its sources.

    Args:
        model: the task and its sources.
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
        """Return what completions ``tokens`` [B, H], padded with V, are paid after the prompts of those numbers [B].

        Raises:
            SourceContractError: a source that returned what it must not, with its name and the text.
        """
        written = tokens < self._vocabulary.size
        state, ledgers = self._start[prompt], []
        horizon = tokens.shape[1]
        for time in range(horizon):
            token = tokens[:, time].clamp(max=self._vocabulary.size - 1)
            table = self._tables[-1] if time == horizon - 1 else self._tables[0]
            ledgers.append(table[state, token] * written[:, time, None])  # [B, K]
            state = self._next_state[state, token]
        ledger = torch.stack(ledgers, dim=1)  # [B, H, K]
        if self.model.others:
            self._ask_others(ledger, prompt, tokens)
        terms = {key: ledger[:, :, column].sum(dim=1) for key, column in self._columns.items()}
        return Scored(ledger[:, :, 0].to(self._dtype), terms)

    def _ask_others(self, ledger: torch.Tensor, prompt: torch.Tensor, tokens: torch.Tensor) -> None:
        """Fill in the sources that are no machines, and all that follows."""
        completion = tokens.cpu().numpy()
        ids = self.model.task.prompt_ids[prompt.cpu().numpy()]
        length = (completion < self._vocabulary.size).sum(axis=1)
        scores = score_tokens(self.model.others, ids, completion, length, self._vocabulary)
        raw = {
            source.name: ledger[:, :, self._columns[f"reward/{source.name}"]].cpu().numpy()
            for source in self.model.composition.sources
        }
        raw |= scores
        weighted = self.model.composition.weighted(raw)
        for name, table in scores.items():
            ledger[:, :, self._columns[f"reward/{name}"]] = torch.tensor(table, device=self.device)
        for name, table in weighted.items():
            ledger[:, :, self._columns[f"reward/{name}/weighted"]] = torch.tensor(table, device=self.device)
        ledger[:, :, 0] = torch.tensor(self.model.composition.reward(weighted), device=self.device)


class Reference:
    """The task's reference policy, along whole completions.

    Args:
        task: whose policy it is.
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
        context, rows = self._start[prompt], []
        for column in tokens.T:
            rows.append(self._log_probability[context])
            context = self._next_context[context, column.clamp(max=self._size - 1)]
        return torch.stack(rows, dim=1)

    def log_probs(self, prompt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return its log-probability of each token of ``tokens`` [B, H], [B, H]; 0 where nothing is written."""
        taken = self.rows(prompt, tokens).gather(2, tokens.clamp(max=self._size - 1)[:, :, None])[:, :, 0]
        return torch.where(tokens < self._size, taken, 0.0)
