"""A decoder-only Transformer, small enough to be read at once, and a language model made of it.

Read it from the bottom up: a block, the stack of blocks, the language model. Source: Vaswani et al. 2017,
"Attention is all you need"; Radford et al. 2019, "Language models are unsupervised multitask learners" (the norm comes
before each layer); So et al. 2021, "Primer" (squared rectified units).

Shape letters: B batch, T tokens, D width, N heads, V tokens that can be generated (``<eos>`` last), L layers.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from tokenwalk.agents.backprop.descent import set_fields
from tokenwalk.envs.checks import check_count


@dataclass(frozen=True)
class TransformerConfig:
    """The size of a Transformer.

    Attributes:
        n_tokens: ids that it reads, padding among them.
        context: tokens that it can read at once.
        n_layers, n_heads, width: D is ``width``, a multiple of ``n_heads``.
        bf16: multiply in bfloat16 in the blocks; attention, norms, sums and the head stay in float32.

    Raises:
        ValueError: a count below 1, or a width that is no multiple of the heads.
    """

    n_tokens: int
    context: int
    n_layers: int = 2
    n_heads: int = 4
    width: int = 64
    bf16: bool = False

    def __post_init__(self) -> None:
        counts = ("n_tokens", "context", "n_layers", "n_heads", "width")
        set_fields(self, {name: check_count(name, getattr(self, name)) for name in counts})
        if self.width % self.n_heads:
            raise ValueError(f"width is {self.width}: give a multiple of n_heads = {self.n_heads}")


class Linear(nn.Linear):
    """A linear map that multiplies in bfloat16 if ``bf16``, and then returns it: faster where the processor supports it."""

    def __init__(self, n_in: int, n_out: int, bf16: bool) -> None:
        super().__init__(n_in, n_out)
        self.bf16 = bf16

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [..., n_out] for ``x`` [..., n_in]."""
        if not self.bf16:
            return super().forward(x)
        small = torch.bfloat16
        return functional.linear(x.to(small), self.weight.to(small), self.bias.to(small))


class Block(nn.Module):
    """Causal attention, then two layers on each token alone, both with residual connections."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention_in = Linear(config.width, 3 * config.width, config.bf16)
        self.attention_out = Linear(config.width, config.width, config.bf16)
        self.hidden_norm = nn.LayerNorm(config.width)
        self.hidden_in = Linear(config.width, 4 * config.width, config.bf16)
        self.hidden_out = Linear(4 * config.width, config.width, config.bf16)

    def forward(self, x: torch.Tensor, cache: torch.Tensor | None = None, begin: int = 0) -> torch.Tensor:
        """Return [B, T, D] for ``x`` [B, T, D]; see ``attend`` for ``cache``."""
        x = x + self.attention_out(self.attend(self.attention_norm(x), cache, begin))  # [B, T, D]
        # The square of a rectified unit learns as well as a GELU, which takes half of the time on a CPU.
        hidden = functional.relu(self.hidden_in(self.hidden_norm(x))).square()  # [B, T, 4 D]
        added: torch.Tensor = x + self.hidden_out(hidden)
        return added

    def attend(self, x: torch.Tensor, cache: torch.Tensor | None, begin: int) -> torch.Tensor:
        """Return the causal attention of ``x`` [B, T, D]: softmax(query key^T / sqrt(D / N)) value, [B, T, D].

        ``cache`` [2, B, N, context, D / N] holds the keys and values of the ``begin`` tokens before these; those of
        these are stored in it.
        """
        batch, length, width = x.shape
        split = self.attention_in(x).to(x.dtype).view(batch, length, 3, self.n_heads, width // self.n_heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each [B, N, T, D / N]
        if cache is not None:
            end = begin + length
            cache[0, :, :, begin:end], cache[1, :, :, begin:end] = key, value
            key, value = cache[0, :, :, :end], cache[1, :, :, :end]  # [B, N, end, D / N]
        mixed = functional.scaled_dot_product_attention(
            query, key, value, is_causal=length > 1
        )  # [B, N, T, D / N]
        return mixed.transpose(1, 2).reshape(batch, length, width)


class Transformer(nn.Module):
    """Ids [B, T] to one vector for each, [B, T, D], which depends on the ids up to its own."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.n_tokens, config.width)
        self.places = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.width)
        for name, parameter in self.named_parameters():
            if (
                parameter.ndim == 2
            ):  # outputs of residual branches are scaled: variance must not grow with depth
                depth = (2 * config.n_layers) ** 0.5 if name.endswith("out.weight") else 1.0
                nn.init.normal_(parameter, std=0.02 / depth)

    def forward(
        self, ids: torch.Tensor, caches: list[torch.Tensor] | None = None, begin: int = 0
    ) -> torch.Tensor:
        """Return the vectors [B, T, D] of ``ids`` [B, T] at the positions from ``begin`` on."""
        x = self.tokens(ids) + self.places.weight[begin : begin + ids.shape[1]]  # [B, T, D]
        for number, block in enumerate(self.blocks):
            x = block(x, None if caches is None else caches[number], begin)
        normed: torch.Tensor = self.norm(x)
        return normed

    def empty_caches(self, batch: int) -> list[torch.Tensor]:
        """Return empty caches for the keys and values of a whole context, L tensors [2, B, N, context, D / N]."""
        config, like = self.config, self.places.weight
        shape = (2, batch, config.n_heads, config.context, config.width // config.n_heads)
        return [torch.empty(shape, dtype=like.dtype, device=like.device) for _ in self.blocks]


class Mask(NamedTuple):
    """Which tokens are available, by a finite automaton; see ``ReferencePolicy``."""

    next_state: torch.Tensor  # int64 [C, V]
    available: torch.Tensor  # bool [C, V]
    start: torch.Tensor  # int64 [B]


class Generated(NamedTuple):
    """The completions of B prefixes."""

    tokens: torch.Tensor  # int64 [B, H], padded with V
    length: torch.Tensor  # int64 [B], <eos> included
    log_probs: (
        torch.Tensor
    )  # [B, H], of each token under the model itself (at temperature 1); 0 after the end


class LanguageModel(nn.Module):
    """A Transformer with the probability of each of V next tokens."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config, self.n_out = config, config.n_tokens - 1  # padding is read and never generated
        self.body, self.head = Transformer(config), nn.Linear(config.width, self.n_out)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits of the next token after each prefix of ``ids`` [B, T], [B, T, V]."""
        logits: torch.Tensor = self.head(self.body(ids))
        return logits

    def log_probs(self, ids: torch.Tensor, first: int, mask: Mask | None = None) -> torch.Tensor:
        """Return the log-probability of each token of ``ids`` [B, T] from position ``first`` on, [B, T - first].

        It is 0 for padding. Tokens that ``mask`` forbids have probability 0.
        """
        target = ids[:, first:]  # [B, T - first]
        rows = self.rows(ids, first, mask)  # [B, T - first, V]
        taken = rows.gather(2, target.clamp(max=self.n_out - 1)[:, :, None])[:, :, 0]  # [B, T - first]
        return torch.where(target < self.n_out, taken, 0.0)

    def rows(self, ids: torch.Tensor, first: int, mask: Mask | None = None) -> torch.Tensor:
        """Return the log-probability of every token at each position from ``first`` on, [B, T - first, V]."""
        logits = self.logits(ids[:, :-1])[:, first - 1 :]  # [B, T - first, V]
        if mask is not None:
            logits = logits.masked_fill(~allowed_along(mask, ids[:, first:]), -math.inf)
        return logits.log_softmax(dim=2)

    @torch.no_grad()
    def generate(
        self,
        begin: torch.Tensor,
        steps: int,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        mask: Mask | None = None,
    ) -> Generated:
        """Return at most ``steps`` tokens after each of ``begin`` [B, T], each until ``<eos>``, by a key-value cache.

        Args:
            begin: the prefixes; the context must have room for them and for ``steps``.
            generator: of the sampled tokens, on the model's device; None: the most probable token (greedy).
            temperature: divides the logits before sampling; only 1 samples the model's own policy.
            top_k: sample from the k most probable tokens only.
            mask: the available tokens; the others have probability 0.

        Raises:
            ValueError: a context too short, a temperature that is not above 0, or a ``top_k`` below 1.
        """
        batch, length = begin.shape
        if length + steps > self.config.context + 1:
            raise ValueError(
                f"{length} tokens and {steps} more need a context of {length + steps - 1}: it has {self.config.context}"
            )
        if not temperature > 0 or (top_k is not None and top_k < 1):
            raise ValueError(
                f"temperature is {temperature} and top_k {top_k}: give a number above 0, and 1 or more"
            )
        eos, caches = self.n_out - 1, self.body.empty_caches(batch)
        tokens = torch.full((batch, steps), self.n_out, dtype=torch.long, device=begin.device)
        log_probs = torch.zeros(batch, steps, dtype=self.head.weight.dtype, device=begin.device)
        over = torch.zeros(batch, dtype=torch.bool, device=begin.device)
        state, ids, place = None if mask is None else mask.start, begin, 0
        for time in range(steps):
            vectors = self.body(ids, caches, place)  # [B, T, D] of the tokens that are new
            place += ids.shape[1]
            logits = self.head(vectors[:, -1])  # [B, V]
            if mask is not None:
                logits = logits.masked_fill(~mask.available[state], -math.inf)
            logs = logits.log_softmax(dim=1)  # [B, V]
            token = self._choose(logs, generator, temperature, top_k)  # [B]
            tokens[:, time] = torch.where(over, self.n_out, token)
            log_probs[:, time] = torch.where(over, 0.0, logs.gather(1, token[:, None])[:, 0])
            over |= token == eos
            if bool(over.all()):
                break
            ids = token[:, None]
            state = None if mask is None else mask.next_state[state, token]
        return Generated(tokens, (tokens < self.n_out).sum(dim=1), log_probs)

    @staticmethod
    def _choose(
        logs: torch.Tensor, generator: torch.Generator | None, temperature: float, top_k: int | None
    ) -> torch.Tensor:
        """Return a token for each row of log-probabilities [B, V], int64 [B]."""
        if generator is None:
            return logs.argmax(dim=1)
        if top_k is not None and top_k < logs.shape[1]:
            smallest = logs.topk(top_k, dim=1).values[:, -1:]  # [B, 1]
            logs = logs.masked_fill(logs < smallest, -math.inf)
        # argmax of p / E with independent E ~ Exp(1) is a sample of p.
        race = torch.empty_like(logs).exponential_(generator=generator)
        return ((logs / temperature).softmax(dim=1) / race).argmax(dim=1)

    def describe(self) -> dict[str, tuple[int, ...] | int]:
        """Return the shape of each parameter by its name, and their ``total``."""
        shapes = {name: tuple(one.shape) for name, one in self.named_parameters()}
        return {**shapes, "total": sum(math.prod(shape) for shape in shapes.values())}


def allowed_along(mask: Mask, tokens: torch.Tensor) -> torch.Tensor:
    """Return which tokens are available at each position of ``tokens`` [B, T], bool [B, T, V]; all for padding."""
    state, n_out = mask.start, mask.available.shape[1]
    columns = []
    for token in tokens.T:
        columns.append(mask.available[state] | (token == n_out)[:, None])
        state = mask.next_state[state, token.clamp(max=n_out - 1)]
    return torch.stack(columns, dim=1)
