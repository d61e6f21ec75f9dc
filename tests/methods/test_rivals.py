"""RLSD, STARE, AR and GTPO against literal loops in float64, and inside TRL's loss."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import build, config, digit_reward, misaligned, prompts, tiny_model
from support.rivals import RIVALS, solved_prompts
from trl import GRPOTrainer

from delta_trl.methods.ar import ar_weights
from delta_trl.methods.gtpo import gtpo_weights
from delta_trl.methods.rlsd import RLSDConfig, hinted, rlsd_weights
from delta_trl.methods.stare import stare_weights
from delta_trl.research.tasks import character_tokenizer
from delta_trl.token_credit import TokenCreditTrainer


pytestmark = pytest.mark.trained


def built(name, tmp_path, **options):
    trainer_class, config_class, special = RIVALS[name]
    return build(
        trainer_class, config(tmp_path, config_class, **{**special, **options}), train_dataset=solved_prompts()
    )


# --- The formulas, one token at a time


def reference_ar(log_probs, alpha):
    return [alpha * math.exp(x) + (1 - alpha) for x in log_probs]


def reference_gtpo(entropies, responses, beta):
    weights = []
    for h, response in zip(entropies, responses, strict=True):
        own = [x for x, other in zip(entropies, responses, strict=True) if other == response]
        mean = sum(own) / len(own)
        weights.append(1.0 if mean == 0 else 1 + beta * (h / mean - 1))
    return weights


def reference_stare(log_probs, entropies, advantages, weight, share, target):
    positive = sorted((-x for x, a in zip(log_probs, advantages, strict=True) if a > 0), reverse=True)
    if not positive or sum(entropies) / len(entropies) >= target:
        return [1.0] * len(log_probs)
    threshold = positive[math.ceil(share * len(positive)) - 1]
    pairs = zip(log_probs, advantages, strict=True)
    return [weight if a > 0 and -x >= threshold else 1.0 for x, a in pairs]


def reference_rlsd(teacher, log_probs, advantages, mix, clip):
    weights = []
    for t, x, a in zip(teacher, log_probs, advantages, strict=True):
        sign = (a > 0) - (a < 0)
        weights.append((1 - mix) + mix * min(max(math.exp(sign * (t - x)), 1 - clip), 1 + clip))
    return weights


def random_tokens(seed, n):
    generator = torch.Generator().manual_seed(seed)
    log_probs, teacher = -5 * torch.rand(2, n, generator=generator, dtype=torch.float64)
    entropies = torch.rand(n, generator=generator, dtype=torch.float64)
    responses = torch.randint(0, 4, (n,), generator=generator).sort().values
    advantages = torch.tensor([1.5, -0.5, 0.0, 0.7], dtype=torch.float64)[responses]
    entropies[responses == 3] = 0  # a response without a choice
    return log_probs, teacher, entropies, responses, advantages


@given(seed=st.integers(0, 10_000), n=st.integers(0, 60), size=st.sampled_from([0.05, 0.3, 0.9]))
@settings(max_examples=40)
def test_weights_are_the_definitions(seed, n, size):
    log_probs, teacher, entropies, responses, advantages = random_tokens(seed, n)
    lists = [x.tolist() for x in (log_probs, teacher, entropies, responses, advantages)]
    x, t, h, r, a = lists
    for got, expected in (
        (ar_weights(log_probs, size), reference_ar(x, size)),
        (gtpo_weights(entropies, responses, size), reference_gtpo(h, r, size)),
        (
            stare_weights(log_probs, entropies, advantages, weight=1.3, share=size, target_entropy=0.4),
            reference_stare(x, h, a, 1.3, size, 0.4),
        ),
        (
            rlsd_weights(teacher, log_probs, advantages, mix=size, clip=0.3),
            reference_rlsd(t, x, a, size, 0.3),
        ),
    ):
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_stare_is_off_while_entropy_is_high_and_takes_the_surprising_tokens_of_right_responses():
    log_probs = -torch.arange(1.0, 21.0)
    advantages = torch.tensor([1.0, -1.0]).repeat(10)
    low, high = torch.full((20,), 0.29), torch.full((20,), 0.31)
    weights = stare_weights(log_probs, low, advantages)
    assert weights.nonzero().numel() == 20
    assert (weights != 1).nonzero().flatten().tolist() == [18]  # a tenth of ten; 19 is more surprising but wrong
    assert weights[18] == pytest.approx(1.1)
    assert (stare_weights(log_probs, high, advantages) == 1).all()
    assert (stare_weights(log_probs, low, -advantages.abs()) == 1).all()


# --- Inside TRL's loss


@pytest.fixture
def seen(monkeypatch):
    """Rollout batches with their inputs, and what TRL's loss reads."""
    records = {"batches": [], "losses": []}
    loss = GRPOTrainer._compute_loss

    def loss_and_keep(self, model, inputs):
        records["losses"].append({k: v.clone() for k, v in inputs.items() if isinstance(v, torch.Tensor)})
        return loss(self, model, inputs)

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", loss_and_keep)
    generate = TokenCreditTrainer._generate_and_score_completions

    def generate_and_keep(self, inputs):
        batch = generate(self, inputs)
        records["batches"].append((batch, torch.tensor(expected_weights(self._name.lower(), self, inputs, batch))))
        return batch

    monkeypatch.setattr(TokenCreditTrainer, "_generate_and_score_completions", generate_and_keep)
    return records


@torch.no_grad()
def policy_of(trainer, batch, prefixes=None):
    """Log-probs and entropies of each response under the policy as it is, by a plain pass over it alone, in float64."""
    model = trainer.model.double()
    results = []
    for i, completion in enumerate(batch["completion_ids"]):
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]
        prompt = prompt if prefixes is None else torch.tensor(prefixes[i])
        completion = completion[batch["completion_mask"][i].bool()]
        logits = model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
        log_pi = (logits / trainer.temperature).log_softmax(1)
        own = log_pi.gather(1, completion[:, None])[:, 0]
        results.append((own.tolist(), (-(log_pi.exp() * log_pi).sum(1)).tolist()))
    trainer.model.float()
    return results


def expected_weights(name, trainer, inputs, batch):
    policy = policy_of(trainer, batch)
    log_probs = [x for own, _ in policy for x in own]
    entropies = [x for _, own in policy for x in own]
    responses = [i for i, (own, _) in enumerate(policy) for _ in own]
    advantages = [batch["advantages"][i].item() for i in responses]
    args = trainer.args
    if name == "ar":
        return reference_ar(log_probs, args.ar_alpha)
    if name == "gtpo":
        return reference_gtpo(entropies, responses, args.gtpo_beta)
    if name == "stare":
        options = (args.stare_weight, args.stare_share, args.stare_target_entropy)
        return reference_stare(log_probs, entropies, advantages, *options)
    tokenizer = trainer.processing_class
    prefixes = [
        tokenizer(f"{row['prompt']}\n\nThe correct answer is {row['solution']}.\n\n").input_ids for row in inputs
    ]
    teacher = [x for own, _ in policy_of(trainer, batch, prefixes) for x in own]
    return reference_rlsd(teacher, log_probs, advantages, args.rlsd_mix, args.rlsd_clip)


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("updates", [1, 2])
def test_trls_loss_sees_the_weighted_advantages(tmp_path, seen, name, updates):
    trainer = built(name, tmp_path, **(misaligned(max_steps=2) if updates == 2 else {"max_steps": 1}))
    trainer.train()
    ((batch, weights),) = seen["batches"]
    mask = batch["completion_mask"].bool()
    torch.testing.assert_close(batch["token_coefficients"][mask], weights, rtol=1e-4, atol=1e-4)
    assert (batch["token_coefficients"][~mask] == 1).all()
    assert weights.std() > 0.01
    # Rows were shuffled and split: what the loss reads is the product, for the same rows
    rows = {tuple(row.tolist()): i for i, row in enumerate(batch["completion_ids"])}
    for losses in seen["losses"]:
        for j, row in enumerate(losses["completion_ids"]):
            i = rows[tuple(row.tolist())]
            expected = batch["advantages"][i] * batch["token_coefficients"][i]
            assert torch.equal(losses["advantages"][j], expected)
    (entry, *_) = [entry for entry in trainer.state.log_history if f"{name}/mean" in entry]
    assert entry[f"{name}/mean"] == pytest.approx(weights.mean().item(), abs=1e-4)
    assert entry[f"{name}/share_above_1"] == pytest.approx((weights > 1).double().mean().item(), abs=0.05)
    assert entry[f"{name}/non_finite"] == 0
    assert entry[f"{name}/extra_forward_passes"] == (updates == 1)


@pytest.mark.parametrize("name", RIVALS)
def test_evaluation_is_trls(tmp_path, name):
    trainer = built(name, tmp_path)
    trainer.model.eval()
    assert "token_coefficients" not in trainer._generate_and_score_completions(solved_prompts().to_list()[:4])


@pytest.mark.parametrize("name", RIVALS)
def test_a_value_that_is_not_finite_leaves_the_batch_without_weights(tmp_path, monkeypatch, name):
    trainer = built(name, tmp_path, max_steps=1)
    forward = GRPOTrainer._get_per_token_logps_and_entropies

    def broken(self, *args, **kwargs):
        logps, entropies, *rest = forward(self, *args, **kwargs)
        if self._passes is not None:
            logps[0, 0] = torch.nan
            if entropies is not None:
                entropies[0, 0] = torch.nan
        return logps, entropies, *rest

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", broken)
    trainer.model.train()
    batch = trainer._generate_and_score_completions([row for row in solved_prompts().to_list()[:2] for _ in range(4)])
    assert (batch["token_coefficients"] == 1).all()
    if name != "stare":  # no token is below a threshold that is not a number
        assert trainer._metrics["train"][f"{name}/non_finite"] == [1.0]


def test_the_teacher_of_rlsd_prefers_an_answer_it_was_told(tmp_path):
    """With a hint of nothing but the answer, the ratio is that of two plain passes, and a row without an answer has none."""
    trainer = built("rlsd", tmp_path, rlsd_hint="{solution}", rlsd_clip=0.99, rlsd_mix=1.0)
    trainer.model.train()
    rows = solved_prompts().to_list()[:2]
    rows[1]["solution"] = None
    batch = trainer._generate_and_score_completions([row for row in rows for _ in range(4)])
    assert (batch["token_coefficients"][4:] == 1).all()
    assert (batch["token_coefficients"][:4] != 1).any()


def test_the_hint_goes_to_the_end_or_into_the_last_user_message():
    assert hinted("1+1=?\n", 2, "Answer {solution}, boxed {x}.") == "1+1=?\nAnswer 2, boxed {x}."
    assert hinted("1+1=?\n", None, "Answer {solution}") == "1+1=?\n"
    system, user, other = ({"role": role, "content": role} for role in ("system", "user", "assistant"))
    assert hinted([system, user, other], "{2}", " {solution}") == [system, {**user, "content": "user {2}"}, other]
    assert user["content"] == "user"
    with pytest.raises(ValueError, match="the last user message, but this prompt has none with a text"):
        hinted([system], "2", "{solution}")


def test_rlsd_reads_conversational_prompts(tmp_path):
    tokenizer = character_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role[0] + ':' + m.content + ' ' }}{% endfor %}a:"
    data = solved_prompts().map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"].strip()}]})
    trainer = TokenCreditTrainer(
        model=tiny_model(tokenizer=tokenizer),
        reward_funcs=digit_reward,
        args=config(tmp_path, RLSDConfig, max_steps=1, rlsd_hint=" = {solution}"),
        train_dataset=data,
        processing_class=tokenizer,
    )
    seen = []
    tokenize = trainer._tokenize_prompts
    trainer._tokenize_prompts = lambda prompts: seen.append(prompts) or tokenize(prompts)
    trainer.train()
    plain, told = seen
    assert [len(prompt) for prompt in told] == [1] * 8
    for one, other in zip(plain, told, strict=True):
        assert other[0]["content"].startswith(f"{one[0]['content']} = ")
    assert trainer.state.log_history[0]["rlsd/mean"] != 1


# --- What is refused


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        *[
            (name, {"importance_sampling_level": "sequence"}, rf"cannot be combined with {name.upper()}")
            for name in RIVALS
        ],
        ("ar", {"ar_alpha": 0.0}, r"ar_alpha must lie above 0 and be at most 1; got 0\.0\. 0 is DAPO"),
        ("gtpo", {"gtpo_beta": 1.1}, "gtpo_beta must lie above 0"),
        ("stare", {"stare_weight": 1.0}, "stare_weight must exceed 1"),
        ("stare", {"stare_share": 1.0}, "stare_share must lie between 0 and 1"),
        ("stare", {"stare_target_entropy": math.nan}, "stare_target_entropy must be positive"),
        ("rlsd", {"rlsd_mix": math.nan}, "rlsd_mix must lie above 0"),
        ("rlsd", {"rlsd_clip": 1.0}, "rlsd_clip must lie between 0 and 1"),
        ("rlsd", {"rlsd_hint": "Think."}, "rlsd_hint must contain {solution}"),
    ],
)
def test_bad_options_are_refused(tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, RIVALS[name][1], **options)


@pytest.mark.parametrize("iterable", [False, True])
def test_rlsd_needs_answers_before_a_model_is_loaded(tmp_path, iterable):
    data = prompts().to_iterable_dataset() if iterable else prompts()
    args = config(tmp_path, RLSDConfig)
    with pytest.raises(ValueError, match="needs a column 'solution'; it has prompt"):
        TokenCreditTrainer("no/such/model", digit_reward, args, data)
    with pytest.raises(ValueError, match="prompts of text only; the training dataset has images"):
        TokenCreditTrainer("no/such/model", digit_reward, args, solved_prompts(4).add_column("images", [1, 2, 3, 4]))
    with pytest.raises(ValueError, match="cannot be combined with environment_factory"):
        TokenCreditTrainer("no/such/model", digit_reward, args, solved_prompts(), environment_factory=object)


@pytest.mark.parametrize("name", RIVALS)
def test_dropout_is_refused(tmp_path, name):
    model = tiny_model(attention_dropout=0.1)
    trainer_class, config_class, _ = RIVALS[name]
    with pytest.raises(ValueError, match=rf"Dropout is active .* {name.upper()}'s coefficients"):
        build(trainer_class, config(tmp_path, config_class), model=model, train_dataset=solved_prompts())
