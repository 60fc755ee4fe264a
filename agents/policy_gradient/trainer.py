"""The one loop in which a language model writes, is paid, and learns: REINFORCE, RLOO, GRPO and PPO differ in a few lines.

J = E[sum of rewards] - kl_coef KL(pi || pi_ref), over whole completions. The reference is the task's own policy, whose
log-probabilities are exact, or the model as it was at the beginning.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from tokenwalk.agents.backprop.descent import NonFiniteLossError
from tokenwalk.agents.backprop.lm import TokenLM
from tokenwalk.agents.backprop.transformer import Mask
from tokenwalk.agents.policy_gradient.advantages import (
    dead_groups,
    dr_grpo_advantage,
    gae,
    grpo_advantage,
    reward_to_go,
    rloo_advantage,
)
from tokenwalk.agents.policy_gradient.config import Algorithm, PolicyGradientConfig, check_groups
from tokenwalk.agents.policy_gradient.losses import (
    kl_in_reward,
    kl_loss,
    policy_loss,
    token_weights,
)
from tokenwalk.agents.policy_gradient.reward_tables import Reference, Scored, Scorer
from tokenwalk.envs.arrays import IntArray
from tokenwalk.envs.token_model import TokenModel

OnUpdate = Callable[[int, Mapping[str, float]], Any]  # (tokens written so far, tag -> value)
BASELINE_DECAY = 0.9  # of REINFORCE's running mean of returns
GAE_DECAY = 0.95  # of PPO
VALUE_COEF = 0.5  # of PPO's critic in its loss
CLIP_NORM = 1.0


@dataclass(frozen=True, eq=False)
class Rollout:
    """What was written for one update: B completions, group after group.

    Attributes:
        prompt: int64 [B]. ids: int64 [B, 1 + P + H], what the network reads. tokens: int64 [B, H], its last part.
        written: bool [B, H]. log_probs: [B, H], of the policy that wrote. reference: [B, H], of the reference.
        scored: what it was paid.
    """

    prompt: torch.Tensor
    ids: torch.Tensor
    tokens: torch.Tensor
    written: torch.Tensor
    log_probs: torch.Tensor
    reference: torch.Tensor
    scored: Scored


class PolicyGradient:
    """A language model that learns from what its completions are paid.

    Args:
        lm: where it begins; its parameters are changed in place.
        model: the task and its sources.
        algorithm: "reinforce", "rloo", "grpo" or "ppo-lm".
        config: how.
        seed: of prompts and draws.

    Raises:
        ValueError: a group method with groups of one, or a reference that never writes what may be written while a KL to
            it is charged.
    """

    def __init__(
        self, lm: TokenLM, model: TokenModel, algorithm: Algorithm, config: PolicyGradientConfig, *, seed: int
    ) -> None:
        check_groups(algorithm, config)
        self.lm, self.model, self.algorithm, self.config = lm, model, algorithm, config
        self.steps = 0  # tokens written so far
        self.kl_coef = config.kl_coef  # as it stands: it may fall while the model learns
        self.updates = 0
        device = lm.device
        dtype = lm.network.head.weight.dtype
        self._scorer, self._reference = Scorer(model, device, dtype), Reference(model.task, device, dtype)
        self._start = copy.deepcopy(lm.network).requires_grad_(False) if config.kl_to == "model" else None
        self._check_support()
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator(device).manual_seed(seed)
        self._critic: nn.Linear | None = None
        if algorithm == "ppo-lm":  # it begins at 0, whatever torch's global generator says
            self._critic = nn.utils.skip_init(  # type: ignore[no-untyped-call]
                nn.Linear, lm.network.config.width, 1, device=device, dtype=dtype
            )
            nn.init.zeros_(self._critic.weight)
            nn.init.zeros_(self._critic.bias)
        parameters = [*lm.network.parameters(), *(self._critic.parameters() if self._critic else ())]
        self._optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, fused=True)
        self._parameters = parameters
        self._baseline = torch.zeros(model.task.horizon, device=device)
        self._kept: dict[str, torch.Tensor] = {}
        self._keep()

    def _check_support(self) -> None:
        reference = self.model.task.reference
        never = reference.probability == 0
        if reference.available is not None:
            never &= reference.available
        if self.config.kl_coef > 0 and self._start is None and never.any():
            context, token = np.argwhere(never)[0]
            raise ValueError(
                f"the reference policy of {self.model.task.name} never writes token {token} in context {context}, so the "
                "KL is infinite: mask the token, smooth the policy, or give kl_coef 0"
            )

    def write(self) -> Rollout:
        """Return the completions of one update, group after group.

        Raises:
            SourceContractError: a source that returned what it must not.
        """
        task, config = self.model.task, self.config
        chosen = self._rng.choice(len(task.prompts), size=config.groups, p=task.prompt_weights)
        prompt = np.repeat(chosen, config.group_size)
        self.lm.network.eval()
        written = self.lm.write(task.prompt_ids[prompt], self._generator, self.lm.mask(prompt))
        return self.judge(prompt, written.tokens, written.log_probs)

    def judge(self, prompt: IntArray, tokens: torch.Tensor, log_probs: torch.Tensor) -> Rollout:
        """Return the rollout of completions ``tokens`` [B, H] after the prompts of those numbers [B].

        Args:
            prompt: numbers. tokens: padded with V. log_probs: [B, H], of the policy that wrote them.

        Raises:
            SourceContractError: as ``write``.
        """
        task, lm = self.model.task, self.lm
        number = torch.as_tensor(prompt, device=lm.device)
        ids = torch.cat([lm.beginning(task.prompt_ids[prompt]), tokens], dim=1)
        if self._start is None:
            reference = self._reference.log_probs(number, tokens)
        else:
            with torch.no_grad():
                reference = self._start.log_probs(ids, lm.first, lm.mask(prompt))
        scored = self._scorer.score(number, tokens)
        return Rollout(number, ids, tokens, tokens < task.vocabulary.size, log_probs, reference, scored)

    def learn(
        self, steps: int, on_update: OnUpdate, evaluate: Callable[[], Mapping[str, float]] | None = None
    ) -> None:
        """Write and learn until ``steps`` more tokens are written; the learning rate falls to nought on the way.

        Args:
            steps: tokens.
            on_update: gets every update's figures by tag.
            evaluate: asked every ``evaluate_every`` updates and at the end; its figures are logged with the others.

        Raises:
            NonFiniteLossError: with the update; the model then holds the parameters of the last evaluation.
            SourceContractError: as ``write``.
        """
        first = self.steps
        while self.steps < first + steps:
            share = (self.steps - first) / steps
            for group in self._optimizer.param_groups:
                group["lr"] = self.config.learning_rate * (1 - share)
            self.kl_coef = self.config.kl_coef_at(share)
            began = time.perf_counter()
            rollout = self.write()
            figures = self.update(rollout)
            count = int(rollout.written.sum())
            self.steps += count
            self.updates += 1
            figures["time/tokens_per_second"] = count / (time.perf_counter() - began)
            figures["train/learning_rate"] = self._optimizer.param_groups[0]["lr"]
            figures["train/kl_coef"] = self.kl_coef
            over = self.steps >= first + steps
            if over or self.updates % self.config.evaluate_every == 0:
                self._keep()
                if evaluate is not None:
                    looked = time.perf_counter()
                    figures |= evaluate()
                    figures["time/evaluation_seconds"] = time.perf_counter() - looked
            on_update(self.steps, figures)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from ``rollout`` and return figures by tag.

        Raises:
            NonFiniteLossError: as ``learn``.
        """
        config = self.config
        self.lm.network.train()
        rewards = self.rewards(rollout)
        advantages, targets = self.advantages(rollout, rewards)
        value, norm = math.nan, math.nan
        for _ in range(config.epochs):
            loss = self.losses(rollout, advantages, targets).mean()
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = float(nn.utils.clip_grad_norm_(self._parameters, CLIP_NORM))
            value = loss.item()
            if not (math.isfinite(value) and math.isfinite(norm)):
                raise self._refuse(value, norm, rollout)
            self._optimizer.step()
        paid = rollout.scored.reward.sum(dim=1)
        dead = dead_groups(rewards.sum(dim=1).view(-1, config.group_size))
        return {
            "train/loss": value,
            "train/gradient_norm": norm,
            "train/kl": _mean((rollout.log_probs - rollout.reference).sum(dim=1)),
            "train/entropy": _mean(-rollout.log_probs.sum(dim=1)),
            "train/dead_groups": _mean(dead),
            "rollout/ep_rew_mean": _mean(paid),
            "rollout/ep_len_mean": _mean(rollout.written.sum(dim=1)),
            **{key: _mean(term) for key, term in rollout.scored.terms.items()},
        }

    def rewards(self, rollout: Rollout) -> torch.Tensor:
        """Return what each token is paid, less the KL where that is charged in the reward, [B, H]."""
        log_ratio = rollout.log_probs - rollout.reference
        charged = kl_in_reward(log_ratio, self.config.kl) * rollout.written
        return rollout.scored.reward - self.kl_coef * charged

    def advantages(self, rollout: Rollout, rewards: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the advantages, [B, H] or [B, 1], and what a critic should have said, [B, H]."""
        returns = reward_to_go(rewards)
        if self.algorithm == "reinforce":
            advantages = returns - self._baseline
            counted = rollout.written.sum(dim=0).clamp(min=1)
            mean = (returns * rollout.written).sum(dim=0) / counted
            # Of earlier updates alone: a completion in its own baseline would bias it.
            self._baseline = BASELINE_DECAY * self._baseline + (1 - BASELINE_DECAY) * mean
            return advantages, returns
        if self.algorithm == "ppo-lm":
            with torch.no_grad():
                values = self._values(rollout)
            advantages = gae(rewards, values, rollout.written, GAE_DECAY)
            return advantages, (advantages + values)
        size = self.config.group_size
        if self.algorithm == "rloo":  # of each token: what came before it is nobody's merit
            shape = (-1, size, returns.shape[1])
            found = rloo_advantage(returns.view(shape), rollout.written.view(shape))
            return found.reshape(returns.shape), returns
        compare = dr_grpo_advantage if self.config.normalization == "constant" else grpo_advantage
        return compare(returns[:, 0].view(-1, size)).reshape(-1, 1), returns

    def _values(self, rollout: Rollout) -> torch.Tensor:
        """Return what the critic expects before each token, [B, H]."""
        assert self._critic is not None
        vectors = self.lm.network.body(rollout.ids[:, :-1])[:, self.lm.first - 1 :]
        values: torch.Tensor = self._critic(vectors)[:, :, 0]
        return values * rollout.written

    def losses(
        self, rollout: Rollout, advantages: torch.Tensor, targets: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of each completion, [B], with gradients.

        Args:
            rollout: what was written.
            advantages: [B, H] or [B, 1].
            targets: what the critic should have said, [B, H]; only PPO has one.
        """
        config, lm = self.config, self.lm
        mask = lm.mask(rollout.prompt.cpu().numpy())
        log_probs = lm.network.log_probs(rollout.ids, lm.first, mask)
        weights = token_weights(rollout.written, config.normalization if self.algorithm == "grpo" else "sum")
        loss = policy_loss(log_probs, rollout.log_probs, advantages, weights, config.clip)
        if self.kl_coef > 0:
            full = self._full_kl(rollout, mask) if config.kl == "full-loss" else None
            loss = loss + self.kl_coef * kl_loss(log_probs - rollout.reference, full, config.kl)
        if self._critic is not None and targets is not None:
            error = (self._values(rollout) - targets) * rollout.written
            loss = loss + VALUE_COEF * error.square().sum(dim=1)
        return loss

    def _full_kl(self, rollout: Rollout, mask: Mask | None) -> torch.Tensor:
        """Return KL(pi(.|s) || pi_ref(.|s)) before each written token, [B, H]."""
        rows = self.lm.network.rows(rollout.ids, self.lm.first, mask)
        if self._start is None:
            reference = self._reference.rows(rollout.prompt, rollout.tokens)
        else:
            with torch.no_grad():
                reference = self._start.rows(rollout.ids, self.lm.first, mask)
        allowed = reference > -math.inf
        ratio = torch.where(allowed, rows - torch.where(allowed, reference, 0.0), 0.0)
        return torch.where(allowed, rows.exp() * ratio, 0.0).sum(dim=2) * rollout.written

    def _refuse(self, loss: float, norm: float, rollout: Rollout) -> NonFiniteLossError:
        """Put the last good parameters back and return the error that names the update and the batch."""
        self.lm.network.load_state_dict(self._kept)
        texts = [self.model.task.vocabulary.decode(row) for row in rollout.tokens[:3].cpu().numpy()]
        return NonFiniteLossError(
            f"the loss is {loss} and its gradient's norm {norm} at update {self.updates + 1}, of {len(rollout.tokens)} "
            f"completions, the first {texts}: the parameters of the last evaluation are kept; lower learning_rate "
            f"({self.config.learning_rate:g})",
            self.updates + 1,
            self.lm,
        )

    def _keep(self) -> None:
        self._kept = {name: one.detach().clone() for name, one in self.lm.network.state_dict().items()}


def _mean(values: torch.Tensor) -> float:
    return float(values.to(torch.get_default_dtype()).mean())
