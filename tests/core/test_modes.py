"""Ways to train that TRL offers on one process: in each, coefficients must come from the policy's own hidden states."""

import copy
import re
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from PIL import Image
from support.models import build, config, digit_reward, misaligned, prompts, tiny_model
from support.reference import reference_coefficients
from support.vllm_client import StandInClient, install
from transformers import (
    BitsAndBytesConfig,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from delta_trl import DeltaGRPOTrainer
from delta_trl.config import CHECKPOINTING
from delta_trl.research.tasks import character_tokenizer
from delta_trl.token_mask import token_mask


pytestmark = pytest.mark.trained

SCHEDULES = {"aligned": {}, "misaligned": misaligned()}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ 'Q:' if message['role'] == 'user' else 'A:' }}{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)


def policy_features(model, batch) -> torch.Tensor:
    """What the LM head reads for each token that counts, in one plain pass over the padded batch, shape (N, H)."""
    images = {"pixel_values": batch["pixel_values"]} if "pixel_values" in batch else {}
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    backbone = (model.get_base_model() if hasattr(model, "peft_config") else model).base_model
    with torch.no_grad():
        states = backbone(ids, attention_mask=mask, **images).last_hidden_state
    return states[:, -batch["completion_ids"].size(1) - 1 : -1][token_mask(batch)]


def assert_coefficients_are_the_policys(trainer, collected, tolerance=1e-4):
    """After a run with a learning rate of 0: every recorded feature is the policy's, and so is every coefficient."""
    assert len(collected["batches"]) == len(collected["features"]) > 1
    for batch, features, coefficients in zip(
        collected["batches"], collected["features"], collected["coefficients"], strict=True
    ):
        expected = policy_features(trainer.model, batch)
        torch.testing.assert_close(features[0].float(), expected.float(), rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(coefficients.values.double(), reference_coefficients(*features), rtol=0, atol=1e-5)
        assert coefficients.fallback is None
        assert coefficients.values.std() > 0.03
    assert any((inputs["advantages"].std(1) > 0.01).any() for inputs in collected["losses"])


def run(tmp_path, schedule, model=None, trainer_options=None, **options):
    args = config(tmp_path / "run", **{**SCHEDULES[schedule], "max_steps": 4, "learning_rate": 0.0, **options})
    trainer = build(DeltaGRPOTrainer, args, model, **(trainer_options or {}))
    trainer.train()
    return trainer


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(tmp_path, collected, schedule, reentrant):
    options = {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": reentrant}}
    assert_coefficients_are_the_policys(run(tmp_path, schedule, **options), collected)
    checkpointed = run(tmp_path, schedule, **options, learning_rate=1e-2)
    plain = run(tmp_path, schedule, learning_rate=1e-2)
    assert checkpointed.model.is_gradient_checkpointing
    assert not plain.model.is_gradient_checkpointing
    for one, other in zip(plain.model.parameters(), checkpointed.model.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


def test_checkpointing_does_not_warn_in_every_step(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(tmp_path, "aligned", **{CHECKPOINTING: True})
    assert not [str(warning.message) for warning in caught if issubclass(warning.category, FutureWarning)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_bf16_autocast(tmp_path, collected, schedule):
    trainer = run(tmp_path, schedule, bf16=True)
    assert_coefficients_are_the_policys(trainer, collected, tolerance=0.1)
    entries = [entry for entry in trainer.state.log_history if "delta/coef/std" in entry]
    assert all(entry["delta/fallback/non_finite"] == 0 for entry in entries)


def test_bf16_weights(tmp_path, collected):
    trainer = run(tmp_path, "aligned", tiny_model().to(torch.bfloat16))
    assert {features.dtype for features, *_ in collected["features"]} == {torch.bfloat16}
    assert_coefficients_are_the_policys(trainer, collected, tolerance=0.05)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_torch_compile(tmp_path, collected, schedule, monkeypatch):
    """The trainer compiles what is trained; recording goes through the same weights, uncompiled."""
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    options = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    trainer = run(tmp_path, schedule, **options)
    assert type(trainer.model_wrapped).__name__ == "OptimizedModule"
    assert_coefficients_are_the_policys(trainer, collected)
    # SGD: Adam makes a full step of what rounding leaves of a gradient that is nearly 0
    training = {"optim": "sgd", "learning_rate": 0.1}
    compiled, plain = run(tmp_path, schedule, **options, **training), run(tmp_path, schedule, **training)
    for one, other in zip(plain.model.parameters(), compiled.model.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)
    assert not any(map(torch.equal, compiled.model.parameters(), trainer.model.parameters()))  # it trained


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_conversational_prompts(tmp_path, collected, schedule):
    tokenizer = character_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    questions = [[{"role": "user", "content": f"{i}+{i * 7 % 10}"}] for i in range(64)]
    seen = []

    def reward(completions, **kwargs):
        seen.extend(completions)
        return digit_reward(completions)

    trainer = DeltaGRPOTrainer(
        tiny_model(),
        reward,
        config(tmp_path, **{**SCHEDULES[schedule], "max_steps": 4, "learning_rate": 0.0}),
        Dataset.from_dict({"prompt": questions}),
        processing_class=tokenizer,
    )
    trainer.train()
    assert_coefficients_are_the_policys(trainer, collected)
    assert all(message["role"] == "assistant" for (message,) in seen)
    prompt = collected["batches"][0]["prompt_ids"][0][collected["batches"][0]["prompt_mask"][0].bool()]
    assert re.fullmatch(r"Q:\d+\+\dA:", tokenizer.decode(prompt))


def test_a_model_given_as_a_path(tmp_path, collected):
    tiny_model().save_pretrained(tmp_path / "base")
    character_tokenizer().save_pretrained(tmp_path / "base")
    # The tokenizer comes from the path too
    args = config(tmp_path / "run", max_steps=3, learning_rate=0.0)
    trainer = DeltaGRPOTrainer(str(tmp_path / "base"), digit_reward, args, prompts())
    trainer.train()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert_coefficients_are_the_policys(trainer, collected)


def test_an_iterable_dataset(tmp_path, collected):
    trainer = run(tmp_path, "aligned", trainer_options={"train_dataset": prompts().to_iterable_dataset()})
    assert_coefficients_are_the_policys(trainer, collected)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_lora_over_quantized_weights(tmp_path, collected, bits, beta):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: a development dependency on Linux")
    tiny_model(hidden_size=64, intermediate_size=128, head_dim=32).save_pretrained(tmp_path / "base")
    quantization = {
        4: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32),
        8: BitsAndBytesConfig(load_in_8bit=True),
    }[bits]
    options = {
        "quantization_config": quantization,
        "peft_config": LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    }
    trainer = run(tmp_path, "aligned", str(tmp_path / "base"), options, beta=beta, learning_rate=0.0)
    layers = {type(module).__name__ for module in trainer.model.modules()}
    assert {4: "Linear4bit", 8: "Linear8bitLt"}[bits] in layers
    assert_coefficients_are_the_policys(trainer, collected, tolerance=0.05)

    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trained = run(tmp_path, "aligned", str(tmp_path / "base"), options, beta=beta, learning_rate=1e-2)
    after = dict(trained.model.named_parameters())
    assert any((after[name] - weights).abs().max() > 1e-3 for name, weights in before.items())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("correction", [False, True])
def test_vllm_server_with_a_stand_in_for_the_client(tmp_path, collected, monkeypatch, schedule, correction):
    """Only the HTTP client is a stand-in, see vllm_client.py. Its engine samples from noisy weights."""
    client = StandInClient(tiny_model(seed=1), noise=0.02)
    install(client, monkeypatch)
    options = {"use_vllm": True, "vllm_mode": "server", "vllm_importance_sampling_correction": correction}
    trainer = run(tmp_path, schedule, **options)
    assert_coefficients_are_the_policys(trainer, collected)

    batches = collected["batches"]
    assert client.syncs == len(batches)
    for batch, (features, *_) in zip(batches[-1:], collected["features"][-1:], strict=True):
        assert (features - policy_features(client.model, batch)).abs().max() > 0.01
        assert ("importance_sampling_ratio" in batch) == correction
        if correction:
            assert (batch["importance_sampling_ratio"] - 1).abs().max() > 0.01
    entries = [entry for entry in trainer.state.log_history if "delta/extra_forward_passes" in entry]
    recorded_by_trl = correction or schedule == "misaligned"
    assert {entry["delta/extra_forward_passes"] for entry in entries} == {float(not recorded_by_trl)}


def test_vllm_server_samples_from_the_latest_weights(tmp_path, monkeypatch):
    client = StandInClient(tiny_model(seed=1))
    install(client, monkeypatch)
    generate, differences = client.generate, []

    def compare_and_generate(*args, **kwargs):
        pairs = zip(trainer.model.parameters(), client.model.parameters(), strict=True)
        differences.append(max((one - other).abs().max().item() for one, other in pairs))
        return generate(*args, **kwargs)

    client.generate = compare_and_generate
    args = config(tmp_path, use_vllm=True, vllm_mode="server")
    trainer = build(DeltaGRPOTrainer, args)
    initial = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    assert differences == [0, 0, 0]
    assert (client.model.lm_head.weight - initial["lm_head.weight"]).abs().max() > 1e-3


def tiny_vision_model():
    """LLaVA with a CLIP tower for images of 8 x 8 pixels, and its processor."""
    text = tiny_model().config
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    text.vocab_size = len(tokenizer)
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the vision tower's class token
        chat_template=(
            "{% for message in messages %}{{ 'Q:' if message['role'] == 'user' else 'A:' }}"
            "{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
            "{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
        ),
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        projection_dim=16,
    )
    model_config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlavaForConditionalGeneration(model_config).float(), processor


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_vision_language_model(tmp_path, collected, schedule):
    model, processor = tiny_vision_model()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    dataset = Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": f"{i}?"}] for i in range(64)],
            "image": [Image.fromarray(array) for array in pixels],
        }
    )
    args = config(tmp_path, **{**SCHEDULES[schedule], "max_steps": 4, "learning_rate": 0.0})
    trainer = DeltaGRPOTrainer(model, digit_reward, args, dataset, processing_class=processor)
    trainer.train()
    assert_coefficients_are_the_policys(trainer, collected)
    batch, (features, *_) = collected["batches"][0], collected["features"][0]
    other_images = {**batch, "pixel_values": batch["pixel_values"].flip(0)}
    assert (features - policy_features(model, other_images)).abs().max() > 0.01
