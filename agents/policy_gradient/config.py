"""Configs of the language model's algorithms, and defaults for each environment. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tokenwalk.agents.backprop.configs import LMConfig
from tokenwalk.agents.backprop.descent import set_fields
from tokenwalk.envs.checks import check_choice, check_count, check_number

Algorithm = Literal["reinforce", "rloo", "grpo", "ppo-lm"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
AGENTS = (*ALGORITHMS, "sft")
# Where the KL to the reference policy is added; only the first two optimize J exactly. See ``losses``.
Placement = Literal[
    "k1-in-reward", "k2-loss", "k1-loss", "k2-token-loss", "full-loss", "k3-token-loss", "k3-in-reward"
]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)
ANNEALED = 0.5  # share of the training after which kl_coef is constant
OPTIMIZES: Mapping[Placement, str] = {  # what each optimizes: see docs/design/formulas.md and ``audit kl``
    "k1-in-reward": "reward - KL, as intended",
    "k2-loss": "reward - KL, as intended",
    "k1-loss": "reward alone: the expected gradient of the KL term is 0",
    "k2-token-loss": "a KL that ignores the effect of a token on later tokens",
    "full-loss": "a KL that ignores the effect of a token on later tokens",
    "k3-token-loss": "nearly a forward KL, which also ignores the effect on later tokens",
    "k3-in-reward": "the correct KL value with a biased gradient",
}
Normalization = Literal["length", "constant"]
Anchor = Literal["reference", "model"]


@dataclass(frozen=True)
class BeginningConfig:
    """The initial language model, and what every algorithm has.

    Attributes:
        model: a run of ``tokenwalk train lm`` (or of any language model's agent) on the same task; None: a fresh model that
            equals the task's reference policy. It is set by its bias where tokens are independent, else pre-trained.
        n_layers, n_heads, width, bf16: size of a fresh model.
        device: "cpu", "cuda", "cuda:1".
        kl_coef: the KL coefficient, in units of reward per nat.
        learning_rate: of Adam.

    Raises:
        ValueError: a field out of its range.
    """

    model: str | None = None
    n_layers: int = 2
    n_heads: int = 4
    width: int = 64
    bf16: bool = False
    device: str = "cpu"
    kl_coef: float = 0.1
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        size = self.network  # checked
        checked: dict[str, object] = {"n_layers": size.n_layers, "n_heads": size.n_heads, "width": size.width}
        checked["kl_coef"] = check_number("kl_coef", self.kl_coef, 0)
        checked["learning_rate"] = check_number("learning_rate", self.learning_rate, 0, low_open=True)
        set_fields(self, checked)

    @property
    def network(self) -> LMConfig:
        """Return the size of a fresh model."""
        return LMConfig(self.n_layers, self.n_heads, self.width, self.bf16)


@dataclass(frozen=True)
class PolicyGradientConfig(BeginningConfig):
    """How a language model is trained by REINFORCE, RLOO, GRPO or PPO.

    Attributes:
        groups, group_size: an update generates ``groups`` times ``group_size`` completions, each group for one prompt.
        learning_rate: of Adam; it falls linearly to 0 over the training.
        kl: where the KL is added, see ``losses``: "k1-in-reward" and "k2-loss" give the exact gradient of J.
        kl_to: "reference", the task's reference policy, or "model", a frozen copy of the initial model.
        epochs: gradient steps on the completions of an update; with more than one the clipped ratio matters.
        clip: largest distance from 1 of the ratio of a token's probabilities.
        normalization: of GRPO: "length" divides by the group's standard deviation and by each completion's own length, as in
            its paper; "constant" divides by neither, but by the horizon (Dr. GRPO).
        kl_anneal: initial KL coefficient as a multiple of ``kl_coef``. It falls geometrically to ``kl_coef`` until half of
            the training is done. Annealing kl_coef avoids premature convergence. 1: no annealing.
        evaluate_every: updates between two evaluations.

    Raises:
        ValueError: a field out of its range.
    """

    groups: int = 16
    group_size: int = 16
    kl: Placement = "k1-in-reward"
    kl_to: Anchor = "reference"
    epochs: int = 1
    clip: float = 0.2
    normalization: Normalization = "length"
    kl_anneal: float = 5.0
    evaluate_every: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        checked: dict[str, object] = {}
        for name in ("groups", "group_size", "epochs", "evaluate_every"):
            checked[name] = check_count(name, getattr(self, name))
        for name in ("clip", "kl_anneal"):
            checked[name] = check_number(name, getattr(self, name), 0, low_open=True)
        for name, kind in (("kl", Placement), ("kl_to", Anchor), ("normalization", Normalization)):
            checked[name] = check_choice(name, getattr(self, name), get_args(kind))
        set_fields(self, checked)

    @property
    def batch(self) -> int:
        """Return the completions of one update."""
        return self.groups * self.group_size

    def kl_coef_at(self, share: float) -> float:
        """Return the annealed KL coefficient when ``share`` of the training is done."""
        return self.kl_coef * float(self.kl_anneal ** max(0.0, 1 - share / ANNEALED))


@dataclass(frozen=True)
class FineTuningConfig(BeginningConfig):
    """How a language model is fine-tuned on samples of the exact gold optimum for ``kl_coef``.

    Attributes:
        texts: number of samples. batch_size: of one update.

    Raises:
        ValueError: a field out of its range.
    """

    texts: int = 20_000
    batch_size: int = 128
    learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fields(self, {name: check_count(name, getattr(self, name)) for name in ("texts", "batch_size")})


Config = PolicyGradientConfig | FineTuningConfig


def check_groups(agent: str, config: Config) -> None:
    """Raise ValueError where ``agent`` compares the completions of a group and ``group_size`` is 1."""
    if agent in ("rloo", "grpo") and isinstance(config, PolicyGradientConfig) and config.group_size < 2:
        raise ValueError(
            f"group_size is {config.group_size}: {agent} compares the completions of a group, give 2 or more"
        )


# Tokens to generate, and the fields that are not the default, by environment.
_OTHERS: tuple[int, Mapping[str, Any]] = (1_500_000, {})
_DEFAULTS: Mapping[str, tuple[int, Mapping[str, Any]]] = {
    "Flattery": (400_000, {}),
    "Delayed": (600_000, {}),
    "LengthBias": (2_000_000, {}),
    # A correct two-digit sum is sampled once in 2,197 completions: many prompts at a time, and a small kl_coef at first.
    "Arithmetic": (
        5_000_000,
        {"n_layers": 1, "groups": 128, "group_size": 8, "learning_rate": 2e-3, "kl_anneal": 0.2},
    ),
}


def default_config(agent: str, env_id: str) -> Config:
    """Return the config that suits ``agent`` on the environment of that id."""
    if agent == "sft":
        return FineTuningConfig()
    return PolicyGradientConfig(**{**_default(env_id)[1], "epochs": 2 if agent == "ppo-lm" else 1})


def default_steps(agent: str, env_id: str) -> int:
    """Return the tokens that the default config needs."""
    return 1_000_000 if agent == "sft" else _default(env_id)[0]


def _default(env_id: str) -> tuple[int, Mapping[str, Any]]:
    return _DEFAULTS.get(env_id.rsplit("/", 1)[-1].rsplit("-v", 1)[0], _OTHERS)
