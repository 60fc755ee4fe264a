"""The Transformer: causal, the same with and without its cache, a probability over all completions."""

import itertools
import math

import pytest
import torch

from tokenwalk.agents.backprop.transformer import LanguageModel, Mask, TransformerConfig, allowed_along

CONFIG = TransformerConfig(n_tokens=5, context=7, n_layers=2, n_heads=2, width=16)  # a, b, c, <eos>, padding
PAD, EOS, HORIZON = 4, 3, 4


def model(seed: int = 0, config: TransformerConfig = CONFIG) -> LanguageModel:
    torch.manual_seed(seed)
    built = LanguageModel(config)
    with torch.no_grad():  # far from uniform, so that every comparison means something
        for one in built.parameters():
            one += 0.2 * torch.randn_like(one)
    return built.eval()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def begin(batch: int) -> torch.Tensor:
    return torch.full((batch, 1), PAD)


def every_completion() -> torch.Tensor:
    rows = []
    for size in range(HORIZON + 1):
        for letters in itertools.product(range(EOS), repeat=size):
            whole = [*letters, EOS][:HORIZON] if size < HORIZON else list(letters)
            rows.append(whole + [PAD] * (HORIZON - len(whole)))
    return torch.tensor(rows)


def test_no_position_knows_what_comes_after_it() -> None:
    ids = torch.randint(0, 5, (3, 6), generator=generator())
    changed = ids.clone()
    changed[:, 4] = (ids[:, 4] + 1) % 5
    before, after = model().logits(ids), model().logits(changed)
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert (before[:, 4] - after[:, 4]).abs().max() > 1e-3
    assert (before[:, 5] - after[:, 5]).abs().max() > 1e-3


def test_the_probabilities_of_all_completions_sum_to_1() -> None:
    completions = every_completion()
    ids = torch.cat([begin(len(completions)), completions], dim=1)
    total = model().log_probs(ids, first=1).double().sum(dim=1).exp().sum()
    assert len(completions) == 1 + 3 + 9 + 27 + 81
    assert total.item() == pytest.approx(1.0, abs=1e-5)
    twin = (
        model().logits(ids[:, :-1]).log_softmax(2).gather(2, completions.clamp(max=EOS)[:, :, None])[:, :, 0]
    )
    assert abs(twin.double().sum(dim=1).exp().sum().item() - 1) > 0.01  # with what stands after the end


@pytest.mark.parametrize("prompt", [1, 3])
def test_writing_with_the_cache_is_the_forward_pass_without_it(prompt: int) -> None:
    first = torch.randint(0, 5, (64, prompt), generator=generator(1))
    generated = model().generate(first, HORIZON, generator(2))
    ids = torch.cat([first, generated.tokens], dim=1)
    again = model().log_probs(ids, first=prompt)
    assert torch.allclose(generated.log_probs, again, atol=1e-5)
    ended = (generated.tokens == EOS).any(dim=1)
    assert (generated.length[~ended] == HORIZON).all()
    assert (generated.tokens[ended].argmax(dim=1) >= 0).all()
    assert (generated.log_probs[generated.tokens == PAD] == 0).all()


def test_the_cache_is_read_only_up_to_now() -> None:
    built, first = model(), begin(8)
    caches = built.body.empty_caches(8)
    for cache in caches:
        cache.fill_(1e9)  # whatever was there before must not be met
    vectors = built.body(first, caches, 0)
    assert torch.allclose(vectors, built.body(first), atol=1e-5)
    longer = torch.cat([first, torch.zeros_like(first)], dim=1)
    assert torch.allclose(built.body(longer[:, 1:], caches, 1)[:, 0], built.body(longer)[:, 1], atol=1e-5)


def test_samples_follow_the_models_own_distribution_by_chi_square() -> None:
    built, count = model(3), 20_000
    completions = every_completion()
    ids = torch.cat([begin(len(completions)), completions], dim=1)
    probability = built.log_probs(ids, first=1).double().sum(dim=1).exp()
    generated = built.generate(begin(count), HORIZON, generator()).tokens
    code = 5 ** torch.arange(HORIZON)
    number = {int(row @ code): place for place, row in enumerate(completions)}
    seen = torch.bincount(
        torch.tensor([number[int(row @ code)] for row in generated]), minlength=len(completions)
    )
    often = probability * count >= 5
    statistic = ((seen - count * probability) ** 2 / (count * probability))[often].sum().item()
    freedom = int(often.sum()) - 1
    assert freedom > 10
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_greedy_takes_the_likeliest_and_so_do_the_limits_of_temperature_and_top_k() -> None:
    built, first = model(), torch.randint(0, 5, (32, 2), generator=generator(4))
    greedy = built.generate(first, HORIZON).tokens
    assert torch.equal(greedy, built.generate(first, HORIZON, generator(), top_k=1).tokens)
    assert torch.equal(greedy, built.generate(first, HORIZON, generator(), temperature=1e-4).tokens)
    sampled = built.generate(first, HORIZON, generator()).tokens
    assert not torch.equal(greedy, sampled)
    logits = built.logits(torch.cat([first, greedy], dim=1)[:, :-1])[:, 1:]
    best = logits.argmax(dim=2)
    assert (best == greedy)[greedy < PAD].all()


def test_a_higher_temperature_flattens_and_top_k_keeps_to_the_likeliest() -> None:
    built, first = model(5), begin(4_000)
    logs = built.logits(begin(1))[0, -1].log_softmax(0)
    tokens = built.generate(first, 1, generator(), temperature=2.0).tokens[:, 0]
    share = torch.bincount(tokens, minlength=4) / len(tokens)
    assert torch.allclose(share, (logs / 2).softmax(0), atol=0.03)
    kept = set(built.generate(first, 1, generator(), top_k=2).tokens[:, 0].tolist())
    assert kept == set(logs.topk(2).indices.tolist())


def test_the_same_seed_generates_the_same_and_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    built = model()
    state = torch.get_rng_state()
    texts = [built.generate(begin(50), HORIZON, generator(seed)).tokens for seed in (1, 1, 2)]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])
    assert torch.equal(state, torch.get_rng_state())


def never_twice() -> Mask:
    """No letter after itself; <eos> always; four contexts: the last token, or none yet."""
    available = torch.ones(4, 4, dtype=torch.bool)
    available[torch.arange(3), torch.arange(3)] = False
    return Mask(torch.arange(4).expand(4, 4), available, torch.full((6,), 3))


def test_a_mask_is_never_left_and_what_it_leaves_sums_to_1() -> None:
    mask = never_twice()
    completions = every_completion()
    many = mask._replace(start=torch.full((len(completions),), 3))
    ids = torch.cat([begin(len(completions)), completions], dim=1)
    logs = model().log_probs(ids, 1, many).double().sum(dim=1)
    repeats = ((completions[:, 1:] == completions[:, :-1]) & (completions[:, 1:] < EOS)).any(dim=1)
    assert (logs[repeats] == -math.inf).all()
    assert logs[~repeats].exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    generated = model().generate(
        begin(500), HORIZON, generator(), mask=mask._replace(start=torch.full((500,), 3))
    )
    doubled = (generated.tokens[:, 1:] == generated.tokens[:, :-1]) & (generated.tokens[:, 1:] < EOS)
    assert not doubled.any()
    again = model().log_probs(
        torch.cat([begin(500), generated.tokens], dim=1), 1, mask._replace(start=torch.full((500,), 3))
    )
    assert torch.allclose(generated.log_probs, again, atol=1e-5)
    assert allowed_along(mask._replace(start=torch.tensor([3])), torch.tensor([[0, PAD]]))[0, 1].all()


def test_one_batch_can_be_learned_by_heart() -> None:
    torch.manual_seed(0)
    built = LanguageModel(CONFIG)
    ids = torch.cat([begin(3), torch.tensor([[0, 1, 2, EOS], [1, 1, EOS, PAD], [2, 0, 1, 0]])], dim=1)
    optimizer = torch.optim.Adam(built.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = -built.log_probs(ids, 1).sum() / 3
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(math.log(3), abs=0.05)  # which of the three is all that is left open
    assert built.eval().log_probs(ids, 1).sum(dim=1).detach() == pytest.approx(
        torch.full((3,), -math.log(3)), abs=0.2
    )


def test_it_says_the_shape_of_every_parameter_and_their_number() -> None:
    described = model().describe()
    assert described["head.weight"] == (4, 16)
    assert described["body.tokens.weight"] == (5, 16)
    assert described["body.blocks.0.attention_in.weight"] == (48, 16)
    counted = sum(one.numel() for one in model().parameters())
    assert described["total"] == counted
    assert len(described) == len(list(model().parameters())) + 1


def test_it_begins_near_uniform_and_depth_does_not_change_that() -> None:
    for layers in (1, 6):
        torch.manual_seed(0)
        built = LanguageModel(TransformerConfig(5, 7, layers, 2, 16))
        probability = built.logits(torch.randint(0, 5, (20, 5), generator=generator())).softmax(2)
        assert (probability - 0.25).abs().max() < 0.05


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="width is 10: give a multiple of n_heads = 4"):
        TransformerConfig(5, 7, width=10)
    with pytest.raises(ValueError, match="context is 0"):
        TransformerConfig(5, 0)
    with pytest.raises(ValueError, match="4 tokens and 5 more need a context of 8: it has 7"):
        model().generate(torch.zeros(1, 4, dtype=torch.long), 5)
    for arguments in ({"temperature": 0.0}, {"top_k": 0}):
        with pytest.raises(ValueError, match="give a number above 0, and 1 or more"):
            model().generate(begin(1), 2, generator(), **arguments)  # type: ignore[arg-type]


def test_multiplying_in_bfloat16_is_the_same_model_within_its_three_digits() -> None:
    torch.manual_seed(0)
    plain = LanguageModel(TransformerConfig(8, 12, 2, 2, 32))
    fast = LanguageModel(TransformerConfig(8, 12, 2, 2, 32, bf16=True))
    with torch.no_grad():  # a fresh one says the same of everything
        for one in plain.parameters():
            one.add_(0.1 * torch.randn(one.shape))
    fast.load_state_dict(plain.state_dict())
    ids = torch.randint(0, 7, (16, 12))
    one, other = plain.log_probs(ids, 1), fast.log_probs(ids, 1)
    assert other.dtype == torch.float32
    assert torch.allclose(one, other, atol=0.05)
    assert not torch.equal(one, other)
    gradients = [
        torch.cat([part.flatten() for part in torch.autograd.grad(found.sum(), list(model.parameters()))])
        for found, model in ((one, plain), (other, fast))
    ]
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999
    generated = fast.generate(ids[:, :1], 6, torch.Generator().manual_seed(0))
    again = fast.log_probs(torch.cat([ids[:, :1], generated.tokens], dim=1), 1)
    assert torch.allclose(again, generated.log_probs, atol=0.05)
