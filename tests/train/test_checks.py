"""What the training command says before it loads anything: what is missing, ignored, too small or of no effect."""

import json
import sys

import pytest
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file
from support.commands import parse
from support.models import build, config, digit_reward, prompts, tiny_model
from support.places import ROOT
from transformers import AutoConfig, AutoModelForCausalLM
from trl import GRPOTrainer, ModelConfig

from delta_trl import DeltaGRPOTrainer
from delta_trl.report.runs import read_training_runs
from delta_trl.train.__main__ import main, train
from delta_trl.train.checks import lost_updates, slow_bfloat16


@pytest.fixture
def no_model(monkeypatch):
    monkeypatch.setattr(GRPOTrainer, "__init__", lambda *args, **kwargs: pytest.fail("the trainer was built"))


def one_line(capsys, project, *arguments) -> str:
    """What the command says to arguments that it does not accept, before any model or data is loaded."""
    with pytest.raises(SystemExit, match="2"):
        main(["--config", str(project / "config.yaml"), *map(str, arguments)])
    printed = capsys.readouterr().err
    line = printed[printed.index("error: ") :]
    assert len(line.splitlines()) == 1
    assert "Traceback" not in printed
    return line


def said(project, caplog, *arguments) -> str:
    """What the command says while a run of one step starts."""
    with caplog.at_level("INFO"):
        train(*parse("--config", project / "config.yaml", "--max_steps", 1, *arguments))
    return caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lora_r", 32], "lora_r=32: nothing reads this with use_peft=False, all weights would be trained."),
        (
            ["--lora_alpha", 8, "--lora_target_modules", "all-linear"],
            "lora_alpha=8, lora_target_modules=['all-linear']",
        ),
        (["--use_dora"], "use_dora=True: nothing reads this with use_peft=False"),
        (["--use_bnb_nested_quant"], "nothing reads this with load_in_4bit=False, the weights would not be quantized"),
        (
            ["--loss_type", "foo"],
            "loss_type must be one of 'grpo', 'dr_grpo', 'dapo', 'bnpo', 'cispo', 'sapo', 'luspo'",
        ),
        (["--temperature", 0], "temperature must be above 0; got 0.0"),
        (["--learning_rate", -1], "learning_rate must be at least 0; got -1.0"),
        (
            ["--report_to", "mlflow"],
            "report_to 'mlflow' cannot be used here: its package is not installed. Install mlflow",
        ),
        (["--report_to", "xyzzy"], "xyzzy is not supported, only "),
        (["--eval_strategy", "steps", "--eval_steps", 1], "eval_strategy 'steps' has no problems to evaluate"),
        (["--eval_strategy", "epoch"], "set held_out_share, for instance 0.02, or held_out_name"),
        (["--eval_on_start"], "eval_on_start has no problems to evaluate"),
        (["--reward_weights", 1], "reward_weights needs one number for each of reward_funcs=['math_reward'"),
        (["--load_in_4bit"], "Quantized weights cannot be trained, only adapters on top of them: add --use_peft"),
        (["--load_in_8bit"], "Quantized weights cannot be trained"),
        (["--output_dir", ROOT / "README.md"], "README.md is a file. Choose another --output_dir"),
        (["--output_dir", ROOT / "README.md" / "runs" / "one"], "README.md is a file. Choose another --output_dir"),
        (["--optim", "galore_adamw"], "optim 'galore_adamw' cannot be used here: You need to install `galore_torch`"),
        (["--optim", "grokadamw"], "optim 'grokadamw' cannot be used here: Please install grokadamw"),
        (["--model_name_or_path", "./no/model"], "There is no folder ./no/model, which model_name_or_path names"),
        (["--model_name_or_path", "a/b/c"], "There is no folder a/b/c"),
        (
            ["--model_name_or_path", ROOT / "README.md"],
            "README.md is a file, and model_name_or_path has to be a folder",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_work_costs_one_early_line(project, capsys, no_model, monkeypatch, arguments, message):
    monkeypatch.setattr(
        "delta_trl.train.training.load_problem_data", lambda *args, **kwargs: pytest.fail("data loaded")
    )
    assert message in one_line(capsys, project, *arguments)


@pytest.mark.parametrize(
    ("package", "arguments"), [("wandb", ["--report_to", "wandb"]), ("bitsandbytes", ["--optim", "adamw_8bit"])]
)
def test_a_missing_package_is_named_before_the_model_is_loaded(
    project, capsys, no_model, monkeypatch, package, arguments
):
    """Where the package is installed, transformers is told that it is not."""
    for module in ("transformers.integrations.integration_utils", "transformers.trainer_optimizer"):
        if hasattr(sys.modules[module], f"is_{package}_available"):
            monkeypatch.setattr(f"{module}.is_{package}_available", lambda: False)
    printed = one_line(capsys, project, *arguments)
    assert f"{arguments[1]!r} cannot be used here" in printed
    assert package in printed


def test_without_a_gpu_the_line_says_how_to_go_on(project, capsys, no_model, monkeypatch):
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: False)
    printed = one_line(capsys, project, "--use_cpu", "false", "--bf16", "true")
    assert "Without a GPU add --use_cpu true" in printed
    # A mistake in typing is said first
    assert "Unknown option --halp" in one_line(capsys, project, "--use_cpu", "false", "--bf16", "true", "--halp")


def test_a_missing_engine_is_named_before_the_model_is_loaded(project, capsys, no_model, monkeypatch):
    monkeypatch.setattr("trl.generation.vllm_generation.is_vllm_available", lambda: False)
    assert "use_vllm cannot be used here: vllm is not installed" in one_line(capsys, project, "--use_vllm")


def test_an_output_folder_that_may_not_be_written_is_named(project, capsys, no_model, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    assert f"{project} is not yours to write" in one_line(capsys, project)


def test_held_out_problems_are_evaluated_on_start(project):
    train(*parse("--config", project / "config.yaml", "--max_steps", 1, "--held_out_share", 0.2, "--eval_on_start"))
    history = json.loads((project / "run" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "eval_reward" in entry] == [0]


@pytest.mark.parametrize("missing", ["weights", "tokenizer", "config.json"])
def test_a_model_that_is_not_whole_is_named(project, capsys, no_model, monkeypatch, missing):
    monkeypatch.setattr(
        "delta_trl.train.training.load_problem_data", lambda *args, **kwargs: pytest.fail("data loaded")
    )
    patterns = {"weights": "*.safetensors", "tokenizer": "*token*", "config.json": "config.json"}
    for path in (project / "model").glob(patterns[missing]):
        path.unlink()
    printed = one_line(capsys, project)
    assert f"{project / 'model'} holds no {'model' if missing == 'config.json' else missing}" in printed


def test_adapters_may_be_turned_off_by_name(project, caplog):
    said(project, caplog, "--lora_r", 32, "--use_peft", "false")
    assert len(load_file(project / "run" / "model.safetensors")) > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--held_out_share", 0.2], "held_out_share keeps problems out of training, and nothing evaluates them"),
        (["--sapo_temperature_pos", 2], "sapo_temperature_pos=2.0: nothing reads this with loss_type=dapo"),
        (["--label_smoothing_factor", 0.1], "label_smoothing_factor=0.1: no loss of this trainer reads it"),
        (
            ["--metric_for_best_model", "reward"],
            "metric_for_best_model=reward: nothing reads this with eval_strategy=no",
        ),
        (["--sapo_temperature_neg", 2, "--loss_type", "grpo"], "nothing reads this with loss_type=grpo"),
        (["--vllm_gpu_memory_utilization", 0.5, "--ref_model_sync_steps", 3], "with use_vllm=False, transformers"),
        (["--log_completions", "true"], "run/completions; num_completions_to_print has some printed"),
        (["--dtype", "bfloat16", "--learning_rate", 1e-6], "an update smaller than 1/256 of a weight is lost"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_has_no_effect_is_said_and_runs(project, caplog, arguments, message):
    assert message in said(project, caplog, *arguments)
    assert (project / "run" / "checkpoint-1").is_dir()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--held_out_share", 0.2, "--eval_strategy", "steps", "--eval_steps", 1, "--per_device_eval_batch_size", 4],
        ["--sapo_temperature_pos", 2, "--loss_type", "sapo"],
        ["--vllm_gpu_memory_utilization", 0.5, "--use_vllm", "false"],
        ["--log_completions", "true", "--num_completions_to_print", 1],
        ["--dtype", "bfloat16", "--learning_rate", 1e-2],
        ["--learning_rate", 1e-6],
    ],
    ids=lambda value: str(value)[2:30],
)
def test_what_has_an_effect_is_not_talked_about(project, caplog, arguments):
    text = said(project, caplog, *arguments)
    for part in ("nothing", "num_completions_to_print", "is lost"):
        assert part not in text


@pytest.fixture
def cpu(monkeypatch):
    """Has torch see another processor: what it is called, and whether it has either kind of instructions for bfloat16."""

    def seen(machine: str = "x86_64", *, amx: bool = False, avx512: bool = False) -> None:
        monkeypatch.setattr("platform.machine", lambda: machine)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)

    return seen


@pytest.mark.parametrize(
    ("options", "dtype", "chosen"),
    [
        ({"bf16": True}, "float32", "bf16"),
        ({"bf16": False}, "bfloat16", "dtype 'bfloat16'"),
        ({"bf16": True}, None, "bf16"),
    ],
)
def test_bfloat16_without_instructions_for_it_is_called_slow(tmp_path, cpu, options, dtype, chosen):
    args, model_args = config(tmp_path, **options), ModelConfig(dtype=dtype)
    for machine in ("x86_64", "AMD64"):
        cpu(machine)
        said = slow_bfloat16(args, model_args)
        assert said.startswith(f"{chosen} on this CPU, which has neither AMX nor AVX512-BF16")
        assert "--bf16 false --dtype float32 is the faster way" in said
    for machine, instructions in (("x86_64", {"amx": True}), ("x86_64", {"avx512": True}), ("aarch64", {})):
        cpu(machine, **instructions)
        assert slow_bfloat16(args, model_args) is None
    cpu()
    assert slow_bfloat16(config(tmp_path, bf16=False), ModelConfig(dtype="float32")) is None


def test_slow_bfloat16_is_said_once(project, caplog, cpu):
    cpu()
    assert said(project, caplog, "--bf16", "true").count("neither AMX nor AVX512-BF16") == 1


def test_few_lines_are_printed_for_a_step_unless_asked_for(project, capsys):
    def lines(*arguments):
        train(*parse("--config", project / "config.yaml", "--log_completions", "true", *arguments))
        return capsys.readouterr().out.splitlines()

    assert len([line for line in lines("--max_steps", 2) if line.strip()]) < 10
    asked = ["--max_steps", 1, "--overwrite_output_dir", "--num_completions_to_print", 3]
    assert len(lines(*asked)) > 10


@pytest.mark.parametrize(("learning_rate", "moves"), [(1e-6, False), (1e-2, True)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_updates_are_lost_where_it_says_so(tmp_path, dtype, learning_rate, moves):
    """What is said, against the share of weights that a run changes."""
    tiny_model().save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=dtype)
    before = torch.cat([weight.flatten().clone() for weight in model.parameters()])
    args = config(tmp_path, learning_rate=learning_rate, max_steps=2, lr_scheduler_type="constant", coef_max=0.8)
    message = lost_updates(args, ModelConfig(dtype=dtype), AutoConfig.from_pretrained(tmp_path / "model"))
    assert (message is None) == moves
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0, eps=1e-4)
    for _ in range(2):  # gradients of one sign and any size, as Adam's first steps see them
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        optimizer.step()
    after = torch.cat([weight.flatten() for weight in model.parameters()])
    changed = (before != after).float().mean()
    assert (changed > 0.5) if moves else (changed < 0.05)


@pytest.mark.parametrize(
    ("problems", "options"),
    [
        (10, {"per_device_train_batch_size": 48}),
        (5, {"generation_batch_size": 24}),
        (1, {}),
    ],
)
def test_fewer_problems_than_a_rollout_batch_are_refused_or_warned_about(
    project, capsys, no_model, tmp_path, problems, options
):
    rows = (project / "problems.jsonl").read_text().splitlines(keepends=True)
    (project / "problems.jsonl").write_text("".join(rows[:problems]))
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    printed = one_line(capsys, project, *arguments)
    assert f"There are {problems} problems to train on, and a rollout batch takes " in printed
    assert "no step would be made" in printed


@pytest.mark.parametrize("problems", [1, 2])
def test_a_trainer_warns_of_too_few_problems_exactly_where_trl_trains_no_step(tmp_path, problems, recwarn):
    trainer = build(DeltaGRPOTrainer, config(tmp_path, max_steps=2), train_dataset=prompts(problems))
    trainer.train()
    warned = any("no step would be made" in str(warning.message) for warning in recwarn)
    assert warned == (problems == 1)
    assert trainer.state.global_step == (0 if warned else 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DatasetDict(train=prompts(8), test=prompts(2)), r"is a DatasetDict with 'train', 'test', .*data\['train'\]"),
        ({"train": prompts(8)}, "is a dict with 'train'"),
        ([{"prompt": "1+1=?"}] * 8, r"is a list of 8, .*Dataset\.from_list"),
        (({"prompt": "1+1=?"},), "is a tuple of 1"),
    ],
    ids=["DatasetDict", "dict", "list", "tuple"],
)
def test_data_that_is_no_dataset_is_refused_with_what_to_pass(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        build(DeltaGRPOTrainer, config(tmp_path), train_dataset=data)
    with pytest.raises((TypeError, ValueError)):  # nor does TRL take it
        build(GRPOTrainer, config(tmp_path, coef_max=0.8), reward_funcs=digit_reward, train_dataset=data)


def test_the_plan_says_it_too(project, capsys):
    main(["--config", str(project / "config.yaml"), "--plan", "--held_out_share", "0.2", "--max_prompt_length", "20"])
    assert "Note: held_out_share keeps problems out of training" in capsys.readouterr().out
    elsewhere = ["--plan", "--report_to", "mlflow", "--optim", "galore_adamw", "--max_prompt_length", "20"]
    main(["--config", str(project / "config.yaml"), *elsewhere])  # where it runs, these may be installed
    assert "lora_r=4: nothing reads this" in one_line(capsys, project, "--plan", "--lora_r", 4)


def test_what_is_advised_instead_of_a_list_works(tmp_path):
    trainer = build(DeltaGRPOTrainer, config(tmp_path), train_dataset=Dataset.from_list([{"prompt": "1+1=?"}] * 8))
    assert len(trainer.train_dataset) == 8


@pytest.mark.parametrize(("logging_steps", "steps"), [(5, 2), (3, 4), (1, 2)])
def test_a_run_shorter_than_its_logging_interval_has_no_other_runs_log(project, logging_steps, steps):
    arguments = ["--logging_steps", logging_steps, "--max_steps", steps]
    train(*parse("--config", project / "config.yaml", *arguments))
    (run,) = read_training_runs([project / "run"])
    assert run.left_out == []
    assert run.state["global_step"] == steps
