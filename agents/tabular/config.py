"""The settings of a tabular agent: one dataclass of ten fields, checked when it is made. Loads no numba."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from tokenwalk.envs.checks import check_choice, check_count, check_number

Backup = Literal["q-learning", "sarsa", "expected-sarsa", "double-q", "soft-q"]
BACKUPS: tuple[Backup, ...] = get_args(Backup)  # kernels numbers them in this order


class Rule(NamedTuple):
    """The settings as numbers, for both drivers."""

    backup: int
    discount: float
    step_size: float
    half_life: float
    epsilon: float
    final_epsilon: float
    epsilon_steps: int
    n_step: int
    kl_coef: float


@dataclass(frozen=True)
class QLearningConfig:
    """Settings of a tabular agent. The defaults are those of the counter-walk's documentation: step size 0.1, discount 0.9.

    Attributes:
        backup: the target of an update; see ``kernels.advance``.
        discount: gamma, in [0, 1].
        step_size: alpha of an entry's first update, in (0, 1].
        step_size_half_life: visits of an entry after which its step size is half:
            step_size / (1 + earlier visits / half_life). 0 keeps it constant.
        epsilon: probability of a random available action, in [0, 1].
        final_epsilon: value of epsilon after ``epsilon_steps`` steps, reached linearly; None: epsilon is constant.
        epsilon_steps: counted from the first step of a run, also over several calls to learn.
        initial_value: of every entry; one above every return makes the agent try every action (optimistic start).
        n_step: rewards summed before bootstrapping.
        kl_coef: KL coefficient of soft-q, in units of reward per nat of KL to the reference policy; else 0.

    Raises:
        ValueError: a field out of its range.
    """

    backup: Backup = "q-learning"
    discount: float = 0.9
    step_size: float = 0.1
    step_size_half_life: float = 0.0
    epsilon: float = 0.1
    final_epsilon: float | None = None
    epsilon_steps: int = 0
    initial_value: float = 0.0
    n_step: int = 1
    kl_coef: float = 0.0

    def __post_init__(self) -> None:
        checked: dict[str, object] = {
            "backup": check_choice("backup", self.backup, BACKUPS),
            "discount": check_number("discount", self.discount, 0, 1),
            "step_size": check_number("step_size", self.step_size, 0, 1, low_open=True),
            "step_size_half_life": check_number("step_size_half_life", self.step_size_half_life, 0),
            "epsilon": check_number("epsilon", self.epsilon, 0, 1),
            "epsilon_steps": check_count("epsilon_steps", self.epsilon_steps, 0),
            "initial_value": check_number("initial_value", self.initial_value),
            "n_step": check_count("n_step", self.n_step),
        }
        if self.final_epsilon is not None:
            checked["final_epsilon"] = check_number("final_epsilon", self.final_epsilon, 0, 1)
        if (self.final_epsilon is None) != (self.epsilon_steps == 0):
            raise ValueError(
                f"final_epsilon is {self.final_epsilon} and epsilon_steps is {self.epsilon_steps}: "
                "give both to change epsilon, or None and 0 to keep it constant"
            )
        if self.backup == "soft-q":
            checked["kl_coef"] = check_number("kl_coef", self.kl_coef, 0, low_open=True)
        elif check_number("kl_coef", self.kl_coef) != 0:
            raise ValueError(f"kl_coef is {self.kl_coef!r}: give 0, only backup 'soft-q' has a KL penalty")
        else:
            checked["kl_coef"] = 0.0
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen

    @property
    def rule(self) -> Rule:
        """Return the settings as plain numbers of fixed types, for both drivers."""
        return Rule(
            backup=BACKUPS.index(self.backup),
            discount=float(self.discount),
            step_size=float(self.step_size),
            half_life=float(self.step_size_half_life),
            epsilon=float(self.epsilon),
            final_epsilon=float(self.epsilon if self.final_epsilon is None else self.final_epsilon),
            epsilon_steps=self.epsilon_steps,
            n_step=self.n_step,
            kl_coef=float(self.kl_coef),
        )
