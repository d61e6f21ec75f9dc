"""`delta-trl train --plan`: the paper's arithmetic, what is refused, and every checked-in experiment."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env
from support.commands import parse
from support.forked import python
from support.models import tiny_model
from support.places import ROOT
from transformers import AutoConfig
from trl import GRPOTrainer

from delta_trl import DeltaGRPOConfig
from delta_trl.research.tasks import character_tokenizer, tiny_qwen3
from delta_trl.train.__main__ import main, train
from delta_trl.train.memory import ModelSize, checkpoint_bytes, hidden_state_bytes
from delta_trl.train.plan import make_plan
from delta_trl.train.shapes import shape_beside


pytestmark = pytest.mark.trained

PAPER = ("qwen3_8b", "qwen3_14b", "olmo3_7b")
LARGE = ("qwen3_32b", "llama3_70b")
EXPERIMENTS = sorted(
    path for path in (ROOT / "configs").glob("*/*.yaml") if path.parent.name not in ("accelerate", "study")
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders with a config.json of the real dimensions, and no weights."""
    folder = tmp_path_factory.mktemp("models")
    for recipe in EXPERIMENTS:
        name = yaml.safe_load(recipe.read_text())["model_name_or_path"]
        config, _ = shape_beside(recipe, name)
        config.save_pretrained(folder / name)
    return folder


def planned(models, path, processes, *arguments, gpu_memory=80):
    """The plan of a config file whose model lies in `models`."""
    name = yaml.safe_load(Path(path).read_text())["model_name_or_path"]
    command = ["--config", path, "--model_name_or_path", models / name, "--plan", "--plan_processes", processes]
    script_args, *rest = parse(*command, *arguments)
    data_args, args, model_args = rest
    return make_plan(args, data_args, model_args, trainer=script_args.trainer, gpu_memory=gpu_memory)


@pytest.mark.parametrize(
    # SmolLM2 runs without vLLM, one update a rollout batch, even on a CPU
    "path",
    [path for path in EXPERIMENTS if path.parent.name != "smollm2_135m"],
    ids=lambda p: f"{p.parent.name}-{p.stem}",
)
def test_every_experiment_can_be_planned_and_fits_its_hardware(models, path):
    hardware = path.parent.name.removesuffix("_code")  # that of the same model on mathematics
    processes = 8 if hardware in PAPER else 64 if hardware in LARGE else 1
    gpu_memory = {"qwen3_14b": 180, "qwen3_0.6b": 24, "qwen3_1.7b": 24}.get(hardware, 80)
    plan = planned(models, path, processes, gpu_memory=gpu_memory)
    assert plan.processes == processes
    assert plan.updates_per_rollout_batch == 4
    assert plan.steps % 4 == 0
    # The sharding that the header names: ZeRO-3, one GPU, or the optimizer in host memory
    sharding = {"qwen3_0.6b": "one GPU", "qwen3_8b_lora": "one GPU", "qwen3_1.7b": "ZeRO-2, offload"}
    (memory,) = (m for m in plan.memory if m.sharding == sharding.get(hardware, "ZeRO-3, FSDP2"))
    # 4 GB for what the plan does not count
    assert max(memory.generating, memory.scoring, memory.updating) < (gpu_memory - 4) * 1e9
    assert "cannot hold" not in plan.vllm


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("trainer", ["delta", "dapo"])
def test_the_papers_arithmetic(models, name, trainer):
    plan = planned(models, ROOT / f"configs/{name}/delta.yaml", 8, "--trainer", trainer)
    assert plan.responses == 2048
    assert plan.prompts == 128
    assert plan.group_size == 16
    assert plan.updates_per_rollout_batch == 4
    assert (plan.steps, plan.rollout_batches) == ((1200, 300) if name == "qwen3_14b" else (880, 220))
    assert plan.tokens_per_rollout_batch == 2048 * 20480
    assert plan.max_tokens == plan.rollout_batches * 2048 * 20480
    assert (plan.prompt_tokens, plan.completion_tokens) == (2048, 20480)
    assert plan.checkpoints == (10 if name == "qwen3_14b" else 11)


@pytest.mark.parametrize("name", LARGE)
def test_the_large_recipes_say_what_delta_adds(models, name):
    plan = planned(models, ROOT / f"configs/{name}/delta.yaml", 64)
    assert (plan.responses, plan.prompts, plan.vllm) == (2048, 128, "on its own server")
    width, parameters = {"qwen3_32b": (5120, 32_762_123_264), "llama3_70b": (8192, 70_553_706_496)}[name]
    assert plan.parameters == parameters  # as published
    assert plan.delta.feature_bytes == 32 * 20480 * width * 2
    assert not plan.delta.extra_forward
    text = str(plan)
    assert "DelTA adds to a rollout batch, at 2 TB/s and 400 TFLOP/s a process:" in text
    assert "none is added: TRL's is recorded" in text
    assert "DelTA adds" not in str(planned(models, ROOT / f"configs/{name}/delta.yaml", 64, "--trainer", "dapo"))
    # The header's command, as accelerate reads it
    launch = launch_command_parser().parse_args(
        f"--config_file {ROOT}/configs/accelerate/multi_node_zero3.yaml --num_machines 8 --num_processes 64 --machine_rank"
        "  3 --main_process_ip 10.0.0.1 -m delta_trl.train".split()
    )
    launch, _, _ = _validate_launch_command(launch)
    assert (launch.num_machines, launch.num_processes, launch.machine_rank) == (8, 64, 3)
    assert launch.use_deepspeed
    assert launch.zero_stage == 3


def test_memory_of_the_8b_recipe(models):
    """Against the arithmetic by hand: 16.4 GB of ZeRO-3 states, 144 KiB of KV cache a token, 168 MB a response."""
    plan = planned(models, ROOT / "configs/qwen3_8b/delta.yaml", 8)
    assert plan.parameters == plan.trained == 8_190_735_360  # as published for Qwen3-8B
    zero3 = {m.sharding: m for m in plan.memory}["ZeRO-3, FSDP2"]
    assert zero3.weights + zero3.gradients + zero3.optimizer == pytest.approx(16 * 8_190_735_360 / 8)
    assert plan.kv_cache_bytes == 144 * 1024 * (2048 + 20480)
    # 43 GB are more than a quarter of what is free, so that coef_offload puts them in host memory
    assert (zero3.hidden_states, zero3.hidden_states_on_host) == (0, 256 * 20480 * 4096 * 2)
    assert zero3.generation == pytest.approx(0.55 * 80e9)
    assert zero3.generation_while_training == 0  # sleep mode
    ddp = {m.sharding: m for m in plan.memory}["DDP"]
    assert ddp.weights == 2 * plan.parameters
    assert ddp.optimizer == 4 * plan.parameters
    assert any("float32" in note for note in plan.notes)


def test_what_memory_depends_on(models):
    path = ROOT / "configs/qwen3_8b/delta.yaml"
    base = planned(models, path, 8)

    def column(plan):
        return plan.memory[-1]

    rows = 256 * 20480 * 4096 * 2
    never = column(planned(models, path, 8, "--coef_offload", "never"))
    assert (never.hidden_states, never.hidden_states_on_host) == (rows, 0)
    assert never.scoring - column(base).scoring == rows
    for features in ("hidden_gradient", "temperature_gradient", "local_temperature_gradient"):
        gradient = column(planned(models, path, 8, "--coef_features", features))
        assert 151936 * 4096 * 2 < gradient.hidden_states < 151936 * 4096 * 2 + 1e9
    variant = column(planned(models, path, 8, "--trainer", "variant", "--variant", "mirror"))
    assert (variant.hidden_states, variant.hidden_states_on_host) == (
        4 * rows,
        rows,
    )  # two float32 copies of bf16 rows
    for nothing in (
        planned(models, path, 8, "--trainer", "dapo"),
        planned(models, path, 8, "--coef_max", "0.8"),
    ):
        assert column(nothing).hidden_states == column(nothing).hidden_states_on_host == 0
    awake = planned(models, path, 8, "--vllm_enable_sleep_mode", "false")
    assert column(awake).updating - column(base).updating == pytest.approx(0.55 * 80e9)
    server = planned(models, path, 8, "--vllm_mode", "server")
    assert column(server).generation == 0
    assert "own server" in server.vllm
    without_vllm = planned(models, path, 8, "--use_vllm", "false")
    # 256 responses of a process at once, and the weights gathered from the other processes
    assert column(without_vllm).generation == 256 * base.kv_cache_bytes + 2 * base.parameters
    kept = planned(models, path, 8, "--activation_checkpointing", "false")
    assert column(kept).activations > 5 * column(base).activations
    sixteen = planned(models, path, 16)
    assert sixteen.responses == 2 * base.responses
    assert column(sixteen).optimizer == column(base).optimizer / 2
    lora = planned(models, path, 8, "--use_peft", "true", "--lora_target_modules", "all-linear")
    assert 0 < lora.trained < 0.02 * lora.parameters
    assert column(lora).optimizer < 0.02 * column(base).optimizer
    reference = planned(models, path, 8, "--beta", "0.1")
    assert column(reference).weights == 2 * column(base).weights
    assert "cannot hold" in planned(models, path, 8, gpu_memory=24).vllm


def test_a_sliding_window_bounds_the_kv_cache(models):
    plan = planned(models, ROOT / "configs/olmo3_7b/delta.yaml", 8)
    full, sliding = 8 * 22528, 24 * 4096
    assert plan.kv_cache_bytes == (full + sliding) * 2 * 32 * 128 * 2


def test_sizes_are_those_of_a_real_model(tmp_path):
    model = tiny_model("qwen3_tied")
    size = ModelSize.of(model.config)
    assert size.parameters == sum(p.numel() for p in model.parameters())
    outputs = model(torch.zeros((1, 7), dtype=torch.long), use_cache=True)
    cached = sum(layer.keys.numel() + layer.values.numel() for layer in outputs.past_key_values.layers)
    assert size.kv_cache_bytes(7) == 2 * cached


@pytest.mark.parametrize("tokens", [64, 128])
def test_activations_are_what_a_real_model_keeps_for_the_backward_pass(tokens):
    shape = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4, "num_key_value_heads": 2}
    shape |= {"head_dim": 16, "num_hidden_layers": 6, "max_position_embeddings": 256}
    model = tiny_model("qwen3", **shape).to(torch.bfloat16).train()
    size = ModelSize.of(model.config)
    assert sum(p.nbytes for p in model.parameters()) == 2 * size.parameters

    def kept_bytes():
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # alive, so that the address stays its own
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            states = model.model(torch.arange(tokens)[None] % 90, use_cache=False).last_hidden_state
        assert states.requires_grad
        return sum(nbytes for nbytes, _ in kept.values())

    estimate = size.activation_bytes(tokens, checkpointing=False, residual_bytes=2)
    assert 0.75 < estimate / kept_bytes() < 1.25
    # Of a checkpointed model the estimate has one layer's recomputation besides, which is not there yet
    model.gradient_checkpointing_enable()
    inputs = 6 * tokens * 64 * 2
    assert inputs <= kept_bytes() <= size.activation_bytes(tokens, checkpointing=True, residual_bytes=2)


def test_a_checkpoint_takes_what_the_plan_says(tmp_path):
    from support.models import build, config
    from trl import ModelConfig

    from delta_trl import DeltaGRPOTrainer

    shape = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 6}
    args = config(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    trainer = build(DeltaGRPOTrainer, args, model=tiny_model("qwen3", **shape))
    trainer.train()
    size = ModelSize.of(trainer.model.config)
    files = [tmp_path / "checkpoint-1" / name for name in ("model.safetensors", "optimizer.pt")]
    on_disk = sum(file.stat().st_size for file in files)
    estimate = checkpoint_bytes(args, ModelConfig(dtype="float32"), size)
    assert estimate == 12 * size.parameters
    assert estimate < on_disk < 1.1 * estimate
    state = trainer.optimizer.state_dict()["state"].values()
    assert sum(s["exp_avg"].nbytes + s["exp_avg_sq"].nbytes for s in state) == 8 * size.parameters


def test_hidden_states_are_as_many_as_the_trainer_keeps(tmp_path, collected):
    from support.models import build, config

    from delta_trl import DeltaGRPOTrainer

    args = config(tmp_path, max_steps=1, max_completion_length=6, coef_offload="never")
    build(DeltaGRPOTrainer, args).train()
    ((features, _, _),) = collected["features"]
    estimate, on_host = hidden_state_bytes(args, ModelSize.of(tiny_model().config), features.element_size(), 0)
    tokens = int(collected["batches"][0]["completion_mask"].sum())
    assert tokens <= 8 * 6
    assert features.numel() * features.element_size() == estimate * tokens / (8 * 6)
    assert on_host == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_generations", "24"], r"generation_batch_size \(2048\) must be divisible by num_generations \(24\)"),
        (["--save_steps", "90"], r"save_steps=90 is not a multiple of 4.*Set save_steps=92"),
        (["--save_steps", "0.1", "--max_steps", "100"], r"save_steps=0.1 is not a multiple of 4.*Set save_steps=12"),
        (
            ["--max_completion_length", "31000", "--vllm_max_model_length", "40000"],
            "make 33048, and the model's context",
        ),
        (["--vllm_max_model_length", "20480"], "make 22528, and vllm_max_model_length is 20480"),
        (["--vllm_tensor_parallel_size", "3"], "must divide the number of processes, 8"),
    ],
)
def test_what_cannot_work_is_refused(models, arguments, message):
    with pytest.raises(ValueError, match=message):
        planned(models, ROOT / "configs/qwen3_8b/delta.yaml", 8, *arguments)


def test_group_size_is_checked_for_the_processes_planned_for(models):
    # 2 responses on one process make no group of 16; on 8 processes they do
    small = ("--steps_per_generation", "2", "--gradient_accumulation_steps", "2")
    assert planned(models, ROOT / "configs/qwen3_8b/delta.yaml", 8, *small).prompts == 1
    with pytest.raises(ValueError, match="must be divisible by num_generations"):
        planned(models, ROOT / "configs/qwen3_8b/delta.yaml", 1, *small)


def test_save_steps_may_be_a_share_of_all_steps(models):
    plan = planned(models, ROOT / "configs/qwen3_8b/delta.yaml", 8, "--save_steps", "0.1")
    assert plan.checkpoints == 10  # every 88 of 880 steps


def test_a_rollout_batch_may_serve_less_than_one_update(models):
    plan = planned(
        models, ROOT / "configs/qwen3_8b/delta.yaml", 8, "--gradient_accumulation_steps", "384", "--save_steps", "6"
    )
    assert plan.updates_per_rollout_batch == pytest.approx(2 / 3)
    assert plan.rollout_batches == 1320  # 880 x 1.5
    assert _args(256, 384).generation_boundary == 2


def _args(steps_per_generation, gradient_accumulation_steps):
    return DeltaGRPOConfig(
        output_dir="unused",
        use_cpu=True,
        steps_per_generation=steps_per_generation,
        gradient_accumulation_steps=gradient_accumulation_steps,
    )


def test_options_of_a_plan_need_a_plan_on_the_command_line(tmp_path):
    with pytest.raises(ValueError, match="add --plan"):
        parse("--output_dir", "unused", "--plan_processes", "8")
    (tmp_path / "config.yaml").write_text("plan: true\nplan_processes: 8\noutput_dir: unused\nuse_cpu: true\n")
    with pytest.raises(ValueError, match="belong on the command line"):
        parse("--config", str(tmp_path / "config.yaml"))


def test_the_quickstart_can_be_planned_before_it_has_run(tmp_path, monkeypatch, capsys):
    for name in ("quickstart.yaml", "quickstart.model.json"):
        (tmp_path / name).write_bytes((ROOT / "configs" / name).read_bytes())
    monkeypatch.chdir(tmp_path)  # where there is no outputs/quickstart/warm
    main(["--config", "quickstart.yaml", "--plan"])
    printed = capsys.readouterr().out
    for text in (
        "outputs/quickstart/warm, 0.42 million parameters",
        "128 responses: 16 prompts x 8",
        "its shape is taken from quickstart.model.json",
        "0 written",
    ):
        assert text in printed


def test_the_shape_beside_the_quickstart_is_its_models():
    config, _ = shape_beside(ROOT / "configs/quickstart.yaml", "outputs/quickstart/warm")
    real = tiny_qwen3(character_tokenizer()).config.to_dict()
    kept = json.loads((ROOT / "configs/quickstart.model.json").read_text())
    assert {name: real[name] for name in kept if name != "_name_or_path"} == {
        name: config.to_dict()[name] for name in kept if name != "_name_or_path"
    }


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_recipe_is_planned_without_the_hub(path, capsys):
    main(["--config", str(path), "--plan", "--plan_processes", "8", "--plan_gpu_memory", "80"])
    printed = capsys.readouterr().out
    assert f"its shape is taken from {path.with_name('model.json')}" in printed
    assert "fits in 80 GB" in printed


def test_what_does_not_fit_is_marked(models):
    plan = planned(models, ROOT / "configs/qwen3_8b/delta.yaml", 8)
    (line,) = (line for line in str(plan).splitlines() if line.startswith("fits in 80 GB"))
    assert line.split()[4:] == ["DOES", "NOT", "FIT", "yes", "yes", "yes"]
    assert [m.sharding for m in plan.memory if not m.fits(80)] == ["DDP"]


def test_without_hub_and_shape_there_is_one_line(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--config", str(ROOT / "configs/qwen3_8b/delta.yaml"), "--plan", "--model_name_or_path", "a/b"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: There is no model 'a/b'")


@pytest.mark.parametrize(
    ("name", "options", "processes", "stage", "fsdp", "offload"),
    [
        ("single_gpu", [], 1, None, False, None),
        ("ddp", [], 8, None, False, None),
        ("fsdp2", [], 8, None, True, None),
        ("zero2", [], 8, 2, False, "none"),
        ("zero2", ["--num_processes", "1", "--offload_optimizer_device", "cpu"], 1, 2, False, "cpu"),
        ("zero3", [], 8, 3, False, "none"),
    ],
)
def test_hardware_files_launch_what_their_names_say(name, options, processes, stage, fsdp, offload):
    args = launch_arguments(name, *options)
    assert args.num_processes == processes
    assert args.mixed_precision == "bf16"
    assert bool(args.use_deepspeed) == (stage is not None)
    assert bool(args.use_fsdp) == fsdp
    if stage is not None:
        assert (args.zero_stage, args.offload_optimizer_device) == (stage, offload)
    if fsdp:
        assert str(args.fsdp_version) == "2"
    assert bool(args.multi_gpu) == (name == "ddp")


@pytest.mark.parametrize("rank", [0, 1])
def test_two_machines_get_their_ranks_from_the_command(rank):
    address = ["--main_process_ip", "10.0.0.1", "--main_process_port", "29500"]
    args = launch_arguments("multi_node_zero3", "--machine_rank", str(rank), *address)
    args.deepspeed_fields_from_accelerate_config = ""  # which the launcher fills in between the two functions
    _, environment = prepare_deepspeed_cmd_env(args)
    assert (int(args.nnodes), int(args.nproc_per_node), int(args.node_rank)) == (2, 8, rank)
    assert (args.rdzv_backend, args.rdzv_endpoint) == ("static", "10.0.0.1:29500")
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "3"


def launch_arguments(name, *options):
    """What `accelerate launch` makes of a hardware file and options before it starts processes."""
    command = ["--config_file", str(ROOT / f"configs/accelerate/{name}.yaml"), *options, "-m", "delta_trl.train"]
    return _validate_launch_command(launch_command_parser().parse_args(command))[0]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.parent.name)
def test_the_baseline_differs_only_in_what_is_compared(path):
    """`--trainer dapo` of the same file: the same options but DelTA's own, in a folder of its own."""
    delta, dapo = (parse("--config", path, "--trainer", name, "--use_cpu", "true") for name in ("delta", "dapo"))
    assert (delta[0].trainer, dapo[0].trainer) == ("delta", "dapo")
    assert (delta[1], delta[3]) == (dapo[1], dapo[3])
    treatment, baseline = delta[2].to_dict(), dapo[2].to_dict()
    shared = {key for key in treatment if not key.startswith("coef_")}
    assert baseline.keys() == shared
    assert {key for key in shared if treatment[key] != baseline[key]} == {"output_dir"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_header_says_what_an_experiment_is(path):
    header = path.read_text().split("\n\n")[0]
    for word in ("Question:", "Hardware:", "xpected time", "Metric:"):
        assert word in header


def test_the_script_prints_a_plan_without_weights_or_data(models, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(GRPOTrainer, "__init__", lambda *args, **kwargs: pytest.fail("the trainer was built"))
    name = models / "Qwen/Qwen3-8B-Base"
    assert {path.name for path in name.iterdir()} == {"config.json"}
    arguments = ["--config", ROOT / "configs/qwen3_8b/delta.yaml", "--model_name_or_path", name, "--plan"]
    train(*parse(*arguments, "--plan_processes", 8))
    printed = capsys.readouterr().out
    for text in (
        "2,048 responses: 128 prompts x 16",
        "optimizer steps            880",
        "rollout batches            220",
        "at most 41,943,040 per rollout batch",
        "11 written",
        "hidden states",
        "Assumptions:",
    ):
        assert text in printed


@pytest.mark.slow
def test_the_number_of_processes_is_the_launchers(models, tmp_path):
    command = [python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = ["-m", "delta_trl.train", "--config", str(ROOT / "configs/qwen3_0.6b/delta.yaml")]
    model = ["--model_name_or_path", str(models / "Qwen/Qwen3-0.6B-Base"), "--plan"]
    output = subprocess.run(
        [*command, *script, *model],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout
    assert output.count("2 processes") == 1  # printed once
    assert "512 responses" in output


def test_config_json_is_all_that_is_read(models):
    config = AutoConfig.from_pretrained(models / "allenai/Olmo-3-1025-7B")
    assert ModelSize.of(config).parameters == 7_298_011_136
    assert json.loads((models / "allenai/Olmo-3-1025-7B/config.json").read_text())["sliding_window"] == 4096
