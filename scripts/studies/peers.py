"""Our language model against TRL's GRPOTrainer, transformers' ``generate`` and its Trainer, of the same shapes in one run.

They are no dependency: ``scripts/studies/run_peers.py`` installs them into a separate environment and measures there.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from tokenwalk.agents.backprop.configs import LMConfig
from tokenwalk.agents.study.benchmark.harness import Contest, Work
from tokenwalk.agents.study.benchmark.language import (
    FAST,
    GROUP_SIZE,
    GROUPS,
    LARGE,
    SMALL,
    UNIT,
    generation,
    pretraining,
    updates,
)
from tokenwalk.envs.tasks import find_task
from tokenwalk.envs.trl import reward_funcs

_QUIET: dict[str, Any] = {
    "save_strategy": "no",
    "report_to": "none",
    "logging_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
}


def peer_contests() -> list[Contest]:
    """Return our language model against TRL's GRPOTrainer, transformers' ``generate`` and its Trainer, of the same shapes.

    Each peer runs with its defaults, or tuned for a CPU: bfloat16, eager attention, no checkpointing.

    Raises:
        ModuleNotFoundError: TRL is not installed; ``scripts/studies/run_peers.py`` installs it.
    """
    torch.set_num_threads(1)
    tuned: dict[str, Any] = {"bf16": True}
    return [
        Contest("GRPO update 4 x 128 / TRL, tuned", updates(FAST), trl_updates(LARGE, **tuned), 1.4, UNIT),
        Contest(
            "GRPO update 2 x 64 / TRL, tuned",
            updates(replace(SMALL, bf16=True)),
            trl_updates(SMALL, **tuned),
            2.5,
            UNIT,
        ),
        Contest(
            "generation 4 x 128, batch 256 / generate",
            generation(FAST, 256),
            generating(LARGE, 256),
            1.1,
            UNIT,
        ),
        Contest(
            "generation 2 x 64, batch 64 / generate", generation(SMALL, 64), generating(SMALL, 64), 2.0, UNIT
        ),
        Contest(
            "pre-training 4 x 128 / Trainer, tuned",
            pretraining(FAST),
            trainer_steps(LARGE, **tuned),
            1.25,
            UNIT,
        ),
        Contest("pre-training 4 x 128 / Trainer", pretraining(FAST), trainer_steps(LARGE), 3.0, UNIT),
    ]


def their_model(config: LMConfig, eager: bool) -> Any:
    """Return a GPT-2 of the same shape as ours on Lexicon's tokens plus <pad> and <bos>."""
    from transformers import GPT2Config, GPT2LMHeadModel

    task = find_task("Lexicon")
    size = {"n_embd": config.width, "n_layer": config.n_layers, "n_head": config.n_heads, "n_positions": 32}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    ends = {
        "bos_token_id": task.vocabulary.size + 1,
        "eos_token_id": task.vocabulary.eos,
        "pad_token_id": task.vocabulary.pad,
    }
    kind = "eager" if eager else "sdpa"
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=task.vocabulary.size + 2, attn_implementation=kind, **size, **dropout, **ends)
    )


def their_tokenizer() -> Any:
    """Return a tokenizer of Lexicon's characters."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    tokens = [*find_task("Lexicon").vocabulary.tokens, "<pad>", "<bos>"]
    words = Tokenizer(WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<pad>"))
    words.pre_tokenizer = Split(Regex("<bos>|."), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", pad_token="<pad>", bos_token="<bos>"
    )


def trl_updates(config: LMConfig, steps: int = 4, **how: Any) -> Work:
    """Return steps of TRL's GRPOTrainer on as many completions of as many tokens as ours; its setup is not timed."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    task = find_task("Lexicon")
    model, found = their_model(config, eager=bool(how)), reward_funcs(task)
    model.generation_config.suppress_tokens = [
        task.vocabulary.eos,
        task.vocabulary.pad,
        task.vocabulary.size + 1,
    ]
    arguments = GRPOConfig(
        output_dir=TemporaryDirectory().name,
        max_steps=10**6,
        per_device_train_batch_size=GROUPS * GROUP_SIZE,
        num_generations=GROUP_SIZE,
        max_completion_length=task.horizon,
        generation_kwargs={"suppress_tokens": model.generation_config.suppress_tokens},
        learning_rate=1e-9,
        gradient_checkpointing=not how,
        **{"bf16": False, **how},
        **_QUIET,
    )
    rows = Dataset.from_list([{"prompt": "<bos>"}] * (4 * GROUPS * GROUP_SIZE))
    build = partial(
        GRPOTrainer, model, found.functions, train_dataset=rows, processing_class=their_tokenizer()
    )
    return stepping(build, arguments, steps, GROUPS * GROUP_SIZE * task.horizon)


def generating(config: LMConfig, batch: int) -> Work:
    """Return work that generates with transformers' ``generate`` and its cache."""
    task = find_task("Lexicon")
    model = their_model(config, eager=False).eval()
    begin = torch.full((batch, 1), task.vocabulary.size + 1)
    never = [task.vocabulary.eos, task.vocabulary.pad, task.vocabulary.size + 1]

    @torch.inference_mode()
    def work() -> int:
        mask = torch.ones_like(begin)
        model.generate(
            begin, attention_mask=mask, max_new_tokens=task.horizon, do_sample=True, suppress_tokens=never
        )
        return batch * task.horizon

    return work


def trainer_steps(config: LMConfig, steps: int = 6, batch: int = 128, **how: Any) -> Work:
    """Return steps of transformers' Trainer on completions of 24 tokens; its setup is not timed."""
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    task = find_task("Lexicon")
    rng = np.random.default_rng(0)
    rows = rng.integers(0, task.vocabulary.eos, (1_024, task.horizon + 1)).tolist()
    data = Dataset.from_list([{"input_ids": row, "labels": row} for row in rows])
    arguments = TrainingArguments(
        output_dir=TemporaryDirectory().name,
        max_steps=10**6,
        per_device_train_batch_size=batch,
        **how,
        **_QUIET,
    )
    build = partial(Trainer, their_model(config, eager=bool(how)), train_dataset=data)
    return stepping(build, arguments, steps, batch * task.horizon)


def stepping(build: Callable[..., Any], arguments: Any, steps: int, tokens: int) -> Work:
    """Return work that is ``steps`` steps of a running Trainer, ``tokens`` tokens each.

    The trainer runs in its own thread and waits before each step, so that its start is not timed.
    """
    from transformers import TrainerCallback

    allowed, done = threading.Semaphore(0), threading.Semaphore(0)

    class Gate(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            allowed.acquire()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            done.release()

    trainer = build(args=arguments, callbacks=[Gate()])

    def run() -> None:
        torch.set_num_threads(1)
        trainer.train()

    threading.Thread(target=run, daemon=True).start()

    def work() -> int:
        for _ in range(steps):
            allowed.release()
            done.acquire()
        return steps * tokens

    return work
