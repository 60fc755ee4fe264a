"""The contests of ``tokenwalk benchmark lm``: our language model against upper bounds of its speed."""

from dataclasses import replace

import numpy as np
import torch

from tokenwalk.agents.backprop.configs import LMConfig, TrainingConfig
from tokenwalk.agents.backprop.fit import fit
from tokenwalk.agents.backprop.lm import TokenLM, fresh_lm
from tokenwalk.agents.policy_gradient.config import PolicyGradientConfig
from tokenwalk.agents.policy_gradient.trainer import PolicyGradient
from tokenwalk.agents.study.benchmark.harness import Contest, Work
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import TokenModel, compose

UNIT = "tokens/s"
SMALL, LARGE = LMConfig(2, 4, 64), LMConfig(4, 4, 128)
FAST = replace(LARGE, bf16=True)
GROUPS, GROUP_SIZE = 16, 16
NEVER = -30.0  # the logit of <eos>: every completion has the full length, so that all shapes are equal


def language_contests() -> list[Contest]:
    """Return the contests of the language model: pre-training, generation and policy-gradient updates."""
    torch.set_num_threads(1)
    contests = [
        Contest("pre-training 4 x 128 / matrix products", pretraining(LARGE), products(LARGE), None, UNIT),
        Contest("pre-training 4 x 128, bf16 / float32", pretraining(FAST), pretraining(LARGE), None, UNIT),
    ]
    for batch in (1, 8, 64, 256):
        name = f"generation 2 x 64, batch {batch}, with cache / without"
        contests.append(
            Contest(name, generation(SMALL, batch), generation_without_cache(SMALL, batch), None, UNIT)
        )
    contests += [
        Contest("update 4 x 128, bf16 / float32", updates(FAST), updates(LARGE), None, UNIT),
        Contest("update 2 x 64 / generation alone", updates(SMALL), generation(SMALL, 256), None, UNIT),
        Contest(
            "update 2 x 64, 1 thread / 2 threads", updates(SMALL), threaded(updates(SMALL), 2), None, UNIT
        ),
        Contest(
            "update 4 x 128, 1 thread / 2 threads", updates(LARGE), threaded(updates(LARGE), 2), None, UNIT
        ),
    ]
    return contests


def endless_lm(config: LMConfig) -> tuple[TokenLM, Task]:
    """Return a fresh model of Lexicon's 24 tokens that never generates <eos>."""
    task = find_task("Lexicon")
    lm = fresh_lm(task, config, seed=0)
    with torch.no_grad():
        lm.network.head.bias[task.vocabulary.eos] = NEVER
    return lm, task


def pretraining(config: LMConfig, batch: int = 128) -> Work:
    """Return work that pre-trains a language model on completions of 24 tokens."""
    lm, task = endless_lm(config)
    rng = np.random.default_rng(0)
    ids = lm.ids(
        task.prompt_ids[np.zeros(1_024, dtype=np.int64)],
        rng.integers(0, task.vocabulary.eos, (1_024, task.horizon)),
    )
    training = TrainingConfig(updates=6, batch_size=batch, learning_rate=1e-4)

    def work() -> int:
        fit(
            lm.network, lambda rows: -lm.network.log_probs(ids[rows], lm.first).mean(), len(ids), training
        ).raise_if_interrupted()
        return training.updates * batch * task.horizon

    return work


def products(config: LMConfig, size: int = 1_024, times: int = 4) -> Work:
    """Return torch's float32 matrix product in tokens of training: 6 multiply-adds per weight of a matrix."""
    lm, _ = endless_lm(config)
    named = lm.network.named_parameters()
    weights = sum(one.numel() for name, one in named if "tokens" not in name and "places" not in name)
    left, right = torch.ones(size, size), torch.ones(size, size)

    def work() -> int:
        for _ in range(times):
            torch.mm(left, right)
        return round(times * 2 * size**3 / (6 * weights))

    return work


def generation(config: LMConfig, batch: int) -> Work:
    """Return work that generates ``batch`` completions of 24 tokens with the key-value cache."""
    lm, task = endless_lm(config)
    lm.network.eval()
    generator, prompt = torch.Generator().manual_seed(0), task.prompt_ids[np.zeros(batch, dtype=np.int64)]
    times = max(1, 256 // batch)

    def work() -> int:
        return sum(int(lm.generate(prompt, generator).length.sum()) for _ in range(times))

    return work


def generation_without_cache(config: LMConfig, batch: int) -> Work:
    """Return work that generates the same without a cache: each token reads the whole prefix again."""
    lm, task = endless_lm(config)
    lm.network.eval()
    generator, prompt = torch.Generator().manual_seed(0), task.prompt_ids[np.zeros(batch, dtype=np.int64)]

    @torch.inference_mode()
    def work() -> int:
        ids = lm.beginning(prompt)
        for _ in range(task.horizon):
            chances = lm.network.head(lm.network.body(ids)[:, -1]).softmax(dim=1)
            ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator)], dim=1)
        return batch * task.horizon

    return work


def updates(config: LMConfig, count: int = 2) -> Work:
    """Return updates of GRPO: 256 completions of 24 tokens are generated, scored and used for one update."""
    lm, task = endless_lm(config)
    how = PolicyGradientConfig(groups=GROUPS, group_size=GROUP_SIZE, kl_coef=0.0, learning_rate=1e-9)
    learner = PolicyGradient(lm, TokenModel(task, compose(task, "gold")), "grpo", how, seed=0)

    def work() -> int:
        count_tokens = 0
        for _ in range(count):
            rollout = learner.generate()
            learner.update(rollout)
            count_tokens += int(rollout.generated.sum())
        return count_tokens

    return work


def threaded(work: Work, threads: int) -> Work:
    """Return the same work with ``threads`` threads of torch."""

    def more() -> int:
        torch.set_num_threads(threads)
        try:
            return work()
        finally:
            torch.set_num_threads(1)

    return more
