"""Tiny models of real architectures, built offline, and trainers on fixed rollouts."""

import gc
import importlib.util
import io
import json
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # the tests' rollout functions are meant
# bitsandbytes would import the compiler, for two seconds in every process that a test starts
os.environ["TORCHDYNAMO_DISABLE"] = "1"
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # accelerate imports DeepSpeed, which would look for a CUDA toolkit

import cpu  # first: it sets what torch reads
import pytest
import torch
import yaml
from datasets import Dataset
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel
from trl import GRPOTrainer

from delta_trl import DeltaGRPOConfig, DeltaGRPOTrainer
from delta_trl import __main__ as delta_trl_command
from delta_trl import credit as credit_module
from delta_trl.config import CHECKPOINTING
from delta_trl.research.tasks import arithmetic_problems, character_tokenizer
from delta_trl.train.arguments import parse as parse_arguments


ROOT = Path(__file__).parent.parent


# Every training collects garbage, and looked through all that importing made: half of the time of a short one
gc.freeze()

torch.set_num_threads(cpu.THREADS)

if importlib.util.find_spec("hypothesis"):  # tests/real runs without
    from hypothesis import settings

    settings.load_profile("ci")  # the same examples in every run, and no deadline that a busy machine would miss

# What differs between architectures for the LM head and its input: tied or untied, soft-capped, scaled, routed
ARCHITECTURES = {
    "qwen3": ("qwen3", {"tie_word_embeddings": False}),
    "qwen3_tied": ("qwen3", {"tie_word_embeddings": True}),
    "llama": ("llama", {"tie_word_embeddings": False}),
    "olmo3": ("olmo3", {"tie_word_embeddings": False}),
    "gemma2": ("gemma2", {"tie_word_embeddings": True, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8}),
    "granite": ("granite", {"logits_scaling": 4.0}),
    "cohere": ("cohere", {"logit_scale": 0.25}),
    "qwen3_moe": (
        "qwen3_moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "tie_word_embeddings": False},
    ),
}


def pytest_report_header() -> str:
    return f"{cpu.cpu_name()}, computing as {torch.backends.cpu.get_cpu_capability()}, threads: {cpu.THREADS}"


def tiny_model(architecture: str = "qwen3", tokenizer=None, seed: int = 0, **options) -> PreTrainedModel:
    """A random model with hidden size 16 and two layers. Its weights are large, so that tokens differ."""
    tokenizer = tokenizer or character_tokenizer()
    model_type, special = ARCHITECTURES[architecture]
    config = CONFIG_MAPPING[model_type](
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "max_position_embeddings": 128,
            "initializer_range": 0.3,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **special,
            **options,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def digit_reward(completions, **kwargs) -> list[float]:
    """Counts digits: enough for advantages that differ within a group of random completions."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [float(sum(character.isdigit() for character in text)) for text in texts]


def prompts(n: int = 64) -> Dataset:
    return Dataset.from_dict({"prompt": [f"{i}+{i * 7 % 10}=?\n" for i in range(n)]})


def config(output_dir, config_class=DeltaGRPOConfig, **options):
    """One rollout batch of 8 completions for every update, unless options say otherwise; every step is logged."""
    return config_class(
        **{
            "output_dir": str(output_dir),
            "use_cpu": True,
            "bf16": False,
            "report_to": "none",
            "logging_steps": 1,
            "save_strategy": "no",
            CHECKPOINTING: False,
            "disable_tqdm": True,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "num_generations": 4,
            "max_completion_length": 10,
            "max_steps": 3,
            "learning_rate": 1e-2,
            "disable_dropout": True,
            "epsilon_high": 0.28,
            **options,
        }
    )


def misaligned(**options) -> dict:
    """Two updates on each rollout batch, so that TRL computes old log-probabilities."""
    return {"gradient_accumulation_steps": 1, "steps_per_generation": 2, "max_steps": 4, **options}


def build(trainer_class, args, model=None, reward_funcs=digit_reward, **options):
    tokenizer = character_tokenizer()
    return trainer_class(
        model=tiny_model(tokenizer=tokenizer) if model is None else model,
        reward_funcs=reward_funcs,
        args=args,
        train_dataset=options.pop("train_dataset", prompts()),
        processing_class=tokenizer,
        **options,
    )


@pytest.fixture
def collected(monkeypatch):
    """Everything that passes between the trainer and the maths: rollout batches, features, coefficients, loss inputs."""
    seen = {"batches": [], "features": [], "coefficients": [], "losses": []}
    generate = DeltaGRPOTrainer._generate_and_score_completions
    compute = credit_module.delta_coefficients
    loss = GRPOTrainer.compute_loss

    def generate_and_keep(self, inputs):
        seen["batches"].append(generate(self, inputs))
        return seen["batches"][-1]

    def compute_and_keep(features, advantages, **options):
        seen["features"].append((features.clone(), advantages.clone(), options["feature_scale"]))
        seen["coefficients"].append(compute(features, advantages, **options))
        return seen["coefficients"][-1]

    def loss_and_keep(self, model, inputs, *args, **kwargs):
        seen["losses"].append({k: v.clone() for k, v in inputs.items() if isinstance(v, torch.Tensor)})
        return loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(DeltaGRPOTrainer, "_generate_and_score_completions", generate_and_keep)
    monkeypatch.setattr(credit_module, "delta_coefficients", compute_and_keep)
    monkeypatch.setattr(GRPOTrainer, "compute_loss", loss_and_keep)
    return seen


def run_script(script: str, *arguments, **environment: str) -> subprocess.CompletedProcess:
    """
    A script in this process, for the seconds that importing takes in another. Processes that it starts are real.

    Args:
        script: Path from the root of the repository.
        environment: Variables to set meanwhile.
    """
    return _run(script, arguments, environment, lambda: runpy.run_path(str(ROOT / script), run_name="__main__"))


def run_command(name: str, *arguments, **environment: str) -> subprocess.CompletedProcess:
    """`delta-trl NAME ...` in this process, like `run_script`."""
    return _run("delta-trl", (name, *arguments), environment, lambda: sys.exit(delta_trl_command.main()))


def _run(program: str, arguments, environment: dict[str, str], start) -> subprocess.CompletedProcess:
    output, errors, status = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as context,
        patch.dict(os.environ, environment),  # which takes back what the script sets, too
        redirect_stdout(output),
        redirect_stderr(errors),
    ):
        context.chdir(ROOT)
        context.setattr(sys, "argv", [program, *map(str, arguments)])
        try:
            start()
        except SystemExit as leaving:
            status = leaving.code or 0
            if isinstance(status, str):  # goes to stderr, with status 1
                status = print(status, file=errors) or 1
    return subprocess.CompletedProcess([program, *arguments], status, output.getvalue(), errors.getvalue())


def load_script(script: str):
    """A script's module, by its path from the root of the repository; `main` is not called."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(*arguments):
    """What the training command makes of these arguments."""
    return parse_arguments([str(argument) for argument in arguments])


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path)


def make_project(folder: Path) -> Path:
    """A folder with a tiny model, problems in DeepMath's schema, and a config for a run of three short steps."""
    tokenizer = character_tokenizer()
    tiny_model(tokenizer=tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = "".join(json.dumps(row) + "\n" for row in arithmetic_problems(40))
    (folder / "problems.jsonl").write_text(rows)
    settings = {
        "model_name_or_path": str(folder / "model"),
        "dataset_name": str(folder / "problems.jsonl"),
        "prompt_format": "{question}\n",
        "output_dir": str(folder / "run"),
        "reward_funcs": ["math_reward", "conftest.digit_reward"],
        "use_cpu": True,
        "bf16": False,
        CHECKPOINTING: False,
        "dtype": "float32",
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "max_steps": 3,
        "logging_steps": 1,
        "save_steps": 1,
        "learning_rate": 1e-3,
        "report_to": "none",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder
