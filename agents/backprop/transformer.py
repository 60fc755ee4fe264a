"""A decoder-only Transformer, small enough to be read in one sitting.

Source: Vaswani et al. 2017, "Attention is all you need"; Radford et al. 2019, "Language models are unsupervised
multitask learners" (the norm comes before each layer); So et al. 2021, "Primer" (squared rectified units).

Shape letters: B batch, T tokens, D width, N heads.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from tokenwalk.agents.backprop.descent import check_count


@dataclass(frozen=True)
class TransformerConfig:
    """The size of a Transformer.

    Attributes:
        n_tokens: ids that it reads, padding among them.
        context: tokens that it can read at once.
        n_layers, n_heads, width: D is ``width``, a multiple of ``n_heads``.

    Raises:
        ValueError: a count below 1, or a width that is no multiple of the heads.
    """

    n_tokens: int
    context: int
    n_layers: int = 2
    n_heads: int = 4
    width: int = 64

    def __post_init__(self) -> None:
        for name in ("n_tokens", "context", "n_layers", "n_heads", "width"):
            check_count(name, getattr(self, name))
        if self.width % self.n_heads:
            raise ValueError(f"width is {self.width}: give a multiple of n_heads = {self.n_heads}")


class Transformer(nn.Module):
    """Ids [B, T] to one vector for each, [B, T, D], which knows the ids up to its own and none after it."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.n_tokens, config.width)
        self.places = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.width)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:  # what ends a residual branch is scaled, so that depth does not add up
                depth = (2 * config.n_layers) ** 0.5 if name.endswith("out.weight") else 1.0
                nn.init.normal_(parameter, std=0.02 / depth)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the vectors [B, T, D] of ``ids`` [B, T]."""
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]  # [B, T, D]
        for block in self.blocks:
            x = block(x)
        normed: torch.Tensor = self.norm(x)
        return normed


class Block(nn.Module):
    """Attention to what came before, then two layers for each token by itself; each adds to what comes in."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention_in = nn.Linear(config.width, 3 * config.width)
        self.attention_out = nn.Linear(config.width, config.width)
        self.hidden_norm = nn.LayerNorm(config.width)
        self.hidden_in = nn.Linear(config.width, 4 * config.width)
        self.hidden_out = nn.Linear(4 * config.width, config.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, T, D] for ``x`` [B, T, D]."""
        x = x + self.attention_out(self.attend(self.attention_norm(x)))
        # The square of a rectified unit learns as well as a GELU, which takes half of the time on a CPU.
        hidden = functional.relu(self.hidden_in(self.hidden_norm(x))).square()  # [B, T, 4 D]
        added: torch.Tensor = x + self.hidden_out(hidden)
        return added

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Return for each token a mean of values, weighted by how its query meets the keys so far, [B, T, D]."""
        batch, length, width = x.shape
        split = self.attention_in(x).view(batch, length, 3, self.n_heads, width // self.n_heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each [B, N, T, D / N]
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return mixed.transpose(1, 2).reshape(batch, length, width)
