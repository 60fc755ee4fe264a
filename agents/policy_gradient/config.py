"""What the language model's learners are told, and what suits an environment. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tokenwalk.agents.backprop.configs import LMConfig
from tokenwalk.agents.backprop.descent import check_choice, check_count, check_number

Algorithm = Literal["reinforce", "rloo", "grpo", "ppo-lm"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
AGENTS = (*ALGORITHMS, "sft")
# Where the KL to the reference policy is charged; only the first two optimise what is meant. See ``losses``.
Placement = Literal[
    "k1-in-reward", "k2-loss", "k1-loss", "k2-token-loss", "full-loss", "k3-token-loss", "k3-in-reward"
]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)
FALLEN = 0.5  # share of the training after which the price of a nat stays
OPTIMIZES: Mapping[Placement, str] = {  # what each really climbs: FORMULAS, and audit kl
    "k1-in-reward": "reward - KL, as meant",
    "k2-loss": "reward - KL, as meant",
    "k1-loss": "reward alone: its expected gradient is nothing",
    "k2-token-loss": "a KL that does not see what a token leads to",
    "full-loss": "a KL that does not see what a token leads to",
    "k3-token-loss": "nearly a forward KL, and blind to what a token leads to",
    "k3-in-reward": "the right figure with another gradient",
}
Normalization = Literal["length", "constant"]
Anchor = Literal["reference", "model"]


@dataclass(frozen=True)
class BeginningConfig:
    """What a language model begins with.

    Attributes:
        model: a run of ``tokenwalk train lm`` (or of any language model's agent) of the same task; None: the task's
            reference policy, which the model is given where that draws tokens independently, and pre-trained on elsewhere.
        n_layers, n_heads, width, bf16: of a model that is not given.
        device: "cpu", "cuda", "cuda:1".
        kl_coef: the price of one nat of KL, in the reward's unit.
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
        self.network  # noqa: B018 - checks the size
        check_number("kl_coef", self.kl_coef, 0.0)
        check_number("learning_rate", self.learning_rate)

    @property
    def network(self) -> LMConfig:
        """Return the size of a model that is not given."""
        return LMConfig(self.n_layers, self.n_heads, self.width, self.bf16)


@dataclass(frozen=True)
class PolicyGradientConfig(BeginningConfig):
    """How a language model learns from reward.

    Attributes:
        groups, group_size: an update writes ``groups`` times ``group_size`` completions, each group after one prompt.
        learning_rate: of Adam; it falls to nought with the steps.
        kl: where the KL is charged, see ``losses``: "k1-in-reward" and "k2-loss" do what is meant.
        kl_to: "reference", the task's own policy, or "model", the frozen model that the training began with.
        epochs: passes over what was written; more than one needs the clipped ratio.
        clip: how far the ratio of a token's probabilities may go from 1.
        normalization: of GRPO: "length" divides by the group's spread and by each completion's own length, as in its paper;
            "constant" by neither (Dr. GRPO).
        kl_anneal: how many times ``kl_coef`` a nat costs at the beginning; the price falls to ``kl_coef`` until half of the
            training is done. Each price has its own optimum, and the way along them passes by the corner in which a policy
            ends that is paid before it has tried what else pays. 1: the same price all along.
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
        for name in ("groups", "group_size", "epochs", "evaluate_every"):
            check_count(name, getattr(self, name))
        check_number("clip", self.clip)
        check_number("kl_anneal", self.kl_anneal)
        for name, kind in (("kl", Placement), ("kl_to", Anchor), ("normalization", Normalization)):
            check_choice(name, getattr(self, name), get_args(kind))

    @property
    def batch(self) -> int:
        """Return the completions of one update."""
        return self.groups * self.group_size

    def kl_coef_at(self, share: float) -> float:
        """Return the price of a nat when ``share`` of the training is done."""
        return self.kl_coef * float(self.kl_anneal ** max(0.0, 1 - share / FALLEN))


@dataclass(frozen=True)
class FineTuningConfig(BeginningConfig):
    """How a language model learns from texts that are good by gold: samples of the exact optimum for ``kl_coef``.

    Attributes:
        texts: how many. batch_size: of one update.

    Raises:
        ValueError: a field out of its range.
    """

    texts: int = 20_000
    batch_size: int = 128
    learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("texts", "batch_size"):
            check_count(name, getattr(self, name))


Config = PolicyGradientConfig | FineTuningConfig


def check_groups(agent: str, config: Config) -> None:
    """Raise ValueError where ``agent`` compares the completions of a group and a group is one."""
    if agent in ("rloo", "grpo") and isinstance(config, PolicyGradientConfig) and config.group_size < 2:
        raise ValueError(
            f"group_size is {config.group_size}: {agent} compares the completions of a group, give 2 or more"
        )


# Tokens to write, and what else is not the default, by environment.
_OTHERS: tuple[int, Mapping[str, Any]] = (1_500_000, {})
_DEFAULTS: Mapping[str, tuple[int, Mapping[str, Any]]] = {
    "Flattery": (400_000, {}),
    "Delayed": (600_000, {}),
    "LengthBias": (2_000_000, {}),
    # A sum of two digits is found once in 2,197 texts: many prompts at a time, and a nat that costs little at first.
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
