"""The training loop of REINFORCE, RLOO, GRPO and PPO: generate completions, score them, update the model.

J = E[sum of rewards] - kl_coef KL(pi || pi_ref), over whole completions. pi_ref is the task's reference policy, whose
log-probabilities are exact, or a frozen copy of the initial model (``kl_to``).

What differs from the papers:

1. The KL is a penalty on each token's reward (k1) for all four algorithms. GRPO's paper adds k3 to the loss: that is
   ``kl="k3-token-loss"``.
2. ``kl_coef`` is annealed: it falls geometrically from ``kl_anneal`` times its value until half of the training is done.
3. The learning rate falls linearly to 0 over the training, and each gradient is clipped to norm 1.
4. REINFORCE subtracts a running mean of the returns of earlier updates, one for each token position, with decay 0.9.
5. RLOO has an advantage for each token, not for each completion; see ``advantages``.
6. GRPO with ``normalization="length"`` is the paper's, with ``"constant"`` it is Dr. GRPO, whose constant is the horizon.
7. PPO's critic is a linear head on the language model. It starts at 0, has no separate network, and its loss is not
   clipped. GAE's decay is 0.95, without discount. Advantages are not standardized over the batch.
8. An update is one minibatch: each of the ``epochs`` is one gradient step on all completions.

Shape letters: B completions, P prompt tokens, H tokens of a completion, V tokens of the vocabulary, D width.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
from tokenwalk.agents.policy_gradient.config import (
    ALGORITHMS,
    Algorithm,
    PolicyGradientConfig,
    check_groups,
)
from tokenwalk.agents.policy_gradient.losses import (
    kl_in_reward,
    kl_loss,
    policy_loss,
    token_weights,
)
from tokenwalk.agents.policy_gradient.reward_tables import Reference, Scored, Scorer
from tokenwalk.agents.runs.progress import OnMetrics
from tokenwalk.envs.arrays import IntArray
from tokenwalk.envs.checks import check_choice
from tokenwalk.envs.token_model import TokenModel

BASELINE_DECAY = 0.9  # of REINFORCE's running mean of returns
GAE_DECAY = 0.95  # PPO's lambda
VALUE_COEF = 0.5  # weight of the critic's squared error in PPO's loss
CLIP_NORM = 1.0  # largest norm of a gradient


@dataclass(frozen=True, eq=False)
class Rollout:
    """The B completions of one update, group after group.

    Attributes:
        prompt: int64 [B]. ids: int64 [B, 1 + P + H], what the network reads. tokens: int64 [B, H], its last part.
        generated: bool [B, H], where a token is. log_probs: [B, H], of the policy that generated the completions.
        reference: [B, H], log-probabilities under the reference policy.
        scored: the rewards.
        values: [B, H], of the critic before each token; None where the algorithm has no critic.
    """

    prompt: torch.Tensor
    ids: torch.Tensor
    tokens: torch.Tensor
    generated: torch.Tensor
    log_probs: torch.Tensor
    reference: torch.Tensor
    scored: Scored
    values: torch.Tensor | None = None


class PolicyGradient:
    """A language model that is trained on the rewards of its completions.

    A custom algorithm is a subclass. It sets ``algorithm``, whose defaults, critic and loss weights it takes, and overrides
    ``rewards``, ``advantages`` ([B, H] or [B, 1]), ``targets`` (of the critic) or ``losses`` ([B])::

        class HalfRLOO(PolicyGradient):
            algorithm = "rloo"

            def advantages(self, rollout, rewards):
                return 0.5 * super().advantages(rollout, rewards)

    Args:
        lm: the initial model; its parameters are changed in place.
        model: the task and its reward components.
        algorithm: "reinforce", "rloo", "grpo" or "ppo-lm"; None: the class attribute ``algorithm``.
        config: the settings.
        seed: of the sampling of prompts and tokens.

    Raises:
        ValueError: no algorithm, an unknown one, a group method with groups of one, or a reference policy that never
            generates an available token while ``kl_coef`` is above 0.
    """

    algorithm: Algorithm | None = None

    def __init__(
        self,
        lm: TokenLM,
        model: TokenModel,
        algorithm: Algorithm | None = None,
        config: PolicyGradientConfig | None = None,
        *,
        seed: int,
    ) -> None:
        chosen: Algorithm = check_choice("algorithm", algorithm or self.algorithm, ALGORITHMS)
        config = config or PolicyGradientConfig()
        check_groups(chosen, config)
        self.lm, self.model, self.algorithm, self.config = lm, model, chosen, config
        self.steps = 0  # tokens generated so far
        self.kl_coef = config.kl_coef  # current value: ``learn`` anneals it
        self.updates = 0
        device = lm.device
        dtype = lm.network.head.weight.dtype
        self._scorer, self._reference = Scorer(model, device, dtype), Reference(model.task, device, dtype)
        self._start = copy.deepcopy(lm.network).requires_grad_(False) if config.kl_to == "model" else None
        self._check_support()
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator(device).manual_seed(seed)
        self._critic: nn.Linear | None = None
        if chosen == "ppo-lm":  # starts at 0 and leaves torch's global generator untouched
            self._critic = nn.utils.skip_init(  # type: ignore[no-untyped-call]
                nn.Linear, lm.network.config.width, 1, device=device, dtype=dtype
            )
            nn.init.zeros_(self._critic.weight)
            nn.init.zeros_(self._critic.bias)
        parameters = [*lm.network.parameters(), *(self._critic.parameters() if self._critic else ())]
        self._optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, fused=True)
        self._parameters = parameters
        self._baseline = torch.zeros(model.task.horizon, device=device)  # [H]
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
                f"the reference policy of {self.model.task.name} never generates token {token} in context {context}, so the "
                "KL is infinite: mask the token, smooth the policy, or give kl_coef 0"
            )

    def generate(self) -> Rollout:
        """Return the completions of one update, group after group.

        Raises:
            SourceContractError: a reward component that returned an invalid score.
        """
        task, config = self.model.task, self.config
        chosen = self._rng.choice(len(task.prompts), size=config.groups, p=task.prompt_weights)
        prompt = np.repeat(chosen, config.group_size)  # [B]
        self.lm.network.eval()
        found = self.lm.generate(task.prompt_ids[prompt], self._generator, self.lm.mask(prompt))
        return self.judge(prompt, found.tokens, found.log_probs)

    def judge(self, prompt: IntArray, tokens: torch.Tensor, log_probs: torch.Tensor) -> Rollout:
        """Return the rollout of completions ``tokens`` [B, H]: their rewards and reference log-probabilities.

        Args:
            prompt: the numbers of their prompts, [B].
            tokens: padded with V.
            log_probs: [B, H], of the policy that generated them.

        Raises:
            SourceContractError: as ``generate``.
        """
        task, lm = self.model.task, self.lm
        number = torch.as_tensor(prompt, device=lm.device)  # [B]
        ids = torch.cat([lm.beginning(task.prompt_ids[prompt]), tokens], dim=1)  # [B, 1 + P + H]
        if self._start is None:
            reference = self._reference.log_probs(number, tokens)  # [B, H]
        else:
            with torch.no_grad():
                reference = self._start.log_probs(ids, lm.first, lm.mask(prompt))
        scored, generated = self._scorer.score(number, tokens), tokens < task.vocabulary.size
        values = None
        if self._critic is not None:
            with torch.no_grad():
                values = self._values(ids) * generated  # [B, H]
        return Rollout(number, ids, tokens, generated, log_probs, reference, scored, values)

    def learn(
        self, steps: int, on_update: OnMetrics, evaluate: Callable[[], Mapping[str, float]] | None = None
    ) -> None:
        """Generate and update until ``steps`` more tokens are generated; the learning rate falls linearly to 0.

        Args:
            steps: tokens.
            on_update: called with the metrics of each update, by tag.
            evaluate: called every ``evaluate_every`` updates and at the end; its metrics are logged with the others.

        Raises:
            NonFiniteLossError: with the update; the model then holds the parameters of the last evaluation.
            SourceContractError: as ``generate``.
        """
        first = self.steps
        while self.steps < first + steps:
            share = (self.steps - first) / steps
            for group in self._optimizer.param_groups:
                group["lr"] = self.config.learning_rate * (1 - share)
            self.kl_coef = self.config.kl_coef_at(share)
            began = time.perf_counter()
            rollout = self.generate()
            figures = self.update(rollout)
            count = int(rollout.generated.sum())
            self.steps += count
            self.updates += 1
            figures["time/tokens_per_second"] = count / (time.perf_counter() - began)
            figures["train/learning_rate"] = self._optimizer.param_groups[0]["lr"]
            figures["train/kl_coef"] = self.kl_coef
            over = self.steps >= first + steps
            if over or self.updates % self.config.evaluate_every == 0:
                self._keep()
                if evaluate is not None:
                    started = time.perf_counter()
                    figures |= evaluate()
                    figures["time/evaluation_seconds"] = time.perf_counter() - started
            on_update(self.steps, figures)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Update the model on ``rollout`` and return metrics by tag.

        Raises:
            NonFiniteLossError: as ``learn``.
        """
        config = self.config
        self.lm.network.train()
        rewards = self.rewards(rollout)  # [B, H]
        advantages, targets = self.advantages(rollout, rewards), self.targets(rollout, rewards)
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
        returns = rollout.scored.reward.sum(dim=1)  # [B], without the KL
        dead = dead_groups(rewards.sum(dim=1).view(-1, config.group_size))  # [N]
        return {
            "train/loss": value,
            "train/gradient_norm": norm,
            "train/kl": _mean((rollout.log_probs - rollout.reference).sum(dim=1)),
            "train/entropy": _mean(-rollout.log_probs.sum(dim=1)),
            "train/dead_groups": _mean(dead),
            "rollout/ep_rew_mean": _mean(returns),
            "rollout/ep_len_mean": _mean(rollout.generated.sum(dim=1)),
            **{key: _mean(term) for key, term in rollout.scored.terms.items()},
        }

    def rewards(self, rollout: Rollout) -> torch.Tensor:
        """Return the reward of each token, minus the KL penalty where that is in the reward, [B, H]."""
        log_ratio = rollout.log_probs - rollout.reference  # [B, H]
        penalty = kl_in_reward(log_ratio, self.config.kl) * rollout.generated
        return rollout.scored.reward - self.kl_coef * penalty

    def advantages(self, rollout: Rollout, rewards: torch.Tensor) -> torch.Tensor:
        """Return the advantages, [B, H] or one for each completion, [B, 1].

        REINFORCE's baseline is updated here: call it once for each rollout.

        Args:
            rollout: the completions.
            rewards: what ``rewards`` returned, [B, H].
        """
        if self.algorithm == "ppo-lm":
            return self._gae(rollout, rewards)
        returns = reward_to_go(rewards)  # [B, H]
        if self.algorithm == "reinforce":
            advantages = returns - self._baseline
            counted = rollout.generated.sum(dim=0).clamp(min=1)  # [H]
            mean = (returns * rollout.generated).sum(dim=0) / counted  # [H]
            # Of earlier updates alone: a baseline that contains the completion itself is biased.
            self._baseline = BASELINE_DECAY * self._baseline + (1 - BASELINE_DECAY) * mean
            return advantages
        size = self.config.group_size
        if self.algorithm == "rloo":
            shape = (-1, size, returns.shape[1])  # [N, G, H]
            found = rloo_advantage(returns.view(shape), rollout.generated.view(shape))
            return found.reshape(returns.shape)
        compare = dr_grpo_advantage if self.config.normalization == "constant" else grpo_advantage
        return compare(returns[:, 0].view(-1, size)).reshape(-1, 1)

    def targets(self, rollout: Rollout, rewards: torch.Tensor) -> torch.Tensor | None:
        """Return what the critic is fitted to, [B, H]: GAE's advantage plus the old value; None without a critic."""
        return None if rollout.values is None else self._gae(rollout, rewards) + rollout.values

    def _gae(self, rollout: Rollout, rewards: torch.Tensor) -> torch.Tensor:
        assert rollout.values is not None
        return gae(rewards, rollout.values, rollout.generated, GAE_DECAY)

    def _values(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the critic's value before each token of a completion, [B, H], of ``ids`` [B, 1 + P + H]."""
        assert self._critic is not None
        vectors = self.lm.network.body(ids[:, :-1])[:, self.lm.first - 1 :]  # [B, H, D]
        values: torch.Tensor = self._critic(vectors)[:, :, 0]
        return values

    def losses(
        self, rollout: Rollout, advantages: torch.Tensor, targets: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of each completion, [B], with gradients.

        Args:
            rollout: the completions.
            advantages: [B, H] or [B, 1].
            targets: what ``targets`` returned, [B, H] or None.
        """
        config, lm = self.config, self.lm
        mask = lm.mask(rollout.prompt.cpu().numpy())
        log_probs = lm.network.log_probs(rollout.ids, lm.first, mask)  # [B, H]
        weights = token_weights(
            rollout.generated, config.normalization if self.algorithm == "grpo" else "sum"
        )
        loss = policy_loss(log_probs, rollout.log_probs, advantages, weights, config.clip)  # [B]
        if self.kl_coef > 0:
            full = self._full_kl(rollout, mask) if config.kl == "full-loss" else None
            loss = loss + self.kl_coef * kl_loss(log_probs - rollout.reference, full, config.kl)
        if self._critic is not None and targets is not None:
            error = (self._values(rollout.ids) - targets) * rollout.generated  # [B, H]
            loss = loss + VALUE_COEF * error.square().sum(dim=1)
        return loss

    def _full_kl(self, rollout: Rollout, mask: Mask | None) -> torch.Tensor:
        """Return KL(pi(.|s) || pi_ref(.|s)) before each generated token, [B, H]."""
        rows = self.lm.network.rows(rollout.ids, self.lm.first, mask)  # [B, H, V]
        if self._start is None:
            reference = self._reference.rows(rollout.prompt, rollout.tokens)  # [B, H, V]
        else:
            with torch.no_grad():
                reference = self._start.rows(rollout.ids, self.lm.first, mask)
        allowed = reference > -math.inf
        ratio = torch.where(allowed, rows - torch.where(allowed, reference, 0.0), 0.0)
        return torch.where(allowed, rows.exp() * ratio, 0.0).sum(dim=2) * rollout.generated

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
