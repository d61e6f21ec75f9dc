"""`--rehearse`: every recipe from its first option to its model card, in small, and what a rehearsal finds."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from support.commands import parse
from support.forked import python
from support.hub_standin import TOKEN, USER, HubStandIn
from support.models import ARCHITECTURES, tiny_model
from support.places import ROOT, SUPPORT
from transformers import AutoConfig, AutoModelForCausalLM, Trainer

from delta_trl.research.code_task import code_problems
from delta_trl.research.tasks import arithmetic_problems, character_tokenizer, tiny_qwen3
from delta_trl.train.__main__ import main
from delta_trl.train.parts import failure as failure_line
from delta_trl.train.shapes import shape_beside
from delta_trl.train.small_model import make_small_model, small_config
from delta_trl.train.small_settings import UPDATES, Batch
from delta_trl.train.stopping import SIGNALS


LAUNCH = SUPPORT / "launch"
RECIPES = sorted(
    [path for path in (ROOT / "configs").glob("*/*.yaml") if path.parent.name not in ("accelerate", "study")]
    + list((ROOT / "configs").glob("*.yaml"))
)
CHAT_TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant: "


def small_place(recipe: Path, folder: Path, **options) -> Path:
    """
    A copy of a recipe whose model and data are in `folder`: the configuration of the real model without weights, a
    tokenizer of characters, and problems in the same schema. `options` replace those of the recipe.
    """
    settings = yaml.safe_load(recipe.read_text())
    tokenizer = character_tokenizer()
    config, _ = shape_beside(recipe, settings["model_name_or_path"]) or (tiny_qwen3(tokenizer).config, None)
    config.save_pretrained(folder / "model")
    if settings.get("prompt_format") == "chat":
        tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    make = code_problems if settings.get("problem_type") == "code" else arithmetic_problems
    for name, rows in (("train", make(48)), ("test", make(56)[48:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings |= {"model_name_or_path": str(folder / "model"), "dataset_name": str(folder / "train.jsonl")}
    settings |= {"output_dir": str(folder / "run")}
    settings.pop("dataset_files", None)
    if "held_out_name" in settings:
        settings["held_out_name"] = str(folder / "test.jsonl")
    path = folder / recipe.name
    path.write_text(yaml.safe_dump({**settings, **options}))
    return path


def rehearsed(capsys, config: Path, *arguments) -> str:
    main(["--config", str(config), "--rehearse", *map(str, arguments)])
    printed = capsys.readouterr().out
    return printed[printed.index("Rehearsed:") :]


def failure(capsys, config: Path, *arguments) -> str:
    with pytest.raises(SystemExit, match="2"):
        main(["--config", str(config), "--rehearse", *map(str, arguments)])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1, errors
    return errors[0]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: str(p.relative_to(ROOT / "configs").with_suffix("")))
def test_every_recipe_is_rehearsed(tmp_path, capsys, recipe):
    # A token is a character here: the recipe's prompts are longer, and fewer of them make a response of a few words
    config = small_place(recipe, tmp_path, max_prompt_length=600)
    report = rehearsed(capsys, config, "--max_completion_length", 16)
    assert "as without a stop in step" in report
    assert "bit for bit, and so are the weights" in report
    parts = ("model", "data", "updates", "sampling", "rewards", "checkpoint", "final save", "model card", "resume")
    for part in parts:
        assert f"\n  {part}  " in report
    assert not (tmp_path / "run").exists()


@pytest.fixture
def short(project) -> Path:
    """The config of a run of tiny steps."""
    config = yaml.safe_load((project / "config.yaml").read_text())
    (project / "config.yaml").write_text(yaml.safe_dump({**config, "max_prompt_length": 40}))
    return project / "config.yaml"


def test_what_was_cut_is_said(tmp_path, capsys):
    config = small_place(ROOT / "configs/qwen3_8b_lora/delta.yaml", tmp_path, max_prompt_length=600)
    report = rehearsed(capsys, config)
    cut = report[report.index("Cut:") : report.index("Added:")]
    for line in (
        "max_completion_length: 8192 -> 64",
        "steps_per_generation: 256 -> 4",
        "gradient_accumulation_steps: 64 -> 2",
        "max_steps: 400 -> 4 (two rollout batches)",
        "use_vllm: True -> False (there is neither a GPU nor vLLM for CPUs here: transformers samples)",
        "use_cpu: False -> True (no GPU here)",
    ):
        assert f"\n  {line}\n" in cut
    assert "learning_rate" not in cut
    assert "holds no weights" in report  # which the run itself will need


def test_evaluation_is_rehearsed(short, capsys):
    evaluation = ("--held_out_share", 0.2, "--eval_strategy", "epoch")
    # It would begin after the end of a rehearsal
    report = rehearsed(capsys, short, *evaluation, "--eval_delay", 100)
    assert "evaluation: made" in report
    assert "\n  evaluation  " in report
    assert "eval_delay: 100.0 -> 0" in report


def test_a_run_that_is_there_stays_as_it_is(short, capsys):
    run = short.parent / "run"
    main(["--config", str(short), "--max_steps", "1"])
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    report = rehearsed(capsys, short, "--overwrite_output_dir")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert f"Note: {run} holds a run of trainer 'delta'" in report


def test_what_an_earlier_rehearsal_left_is_replaced_and_nothing_else(short, capsys):
    left = short.parent / "run" / "rehearsal"
    failure(capsys, short, "--optim", "lomo")
    assert (left / "model").is_dir()
    (left / "notes.txt").write_text("mine")
    rehearsed(capsys, short)
    assert [path.name for path in left.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("place", ["model", "as_configured"])
def test_what_no_rehearsal_made_is_not_removed(short, capsys, place):
    mine = short.parent / "run" / "rehearsal" / place / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert f"{mine.parent} is there, and no rehearsal made it" in failure(capsys, short)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("was_there", [[], ["a"], ["a", "a/b", "a/b/run"], ["elsewhere", "a", "a/b"]])
def test_the_folders_that_were_there_stay_and_those_that_were_made_go(short, capsys, was_there):
    here = short.parent
    for folder in was_there:
        (here / folder).mkdir()
    if "elsewhere" in was_there:  # as on a cluster, where runs lie on another disk
        (here / "a/b/run").symlink_to(here / "elsewhere")
    before = set(here.rglob("*"))
    rehearsed(capsys, short, "--output_dir", here / "a/b/run")
    assert set(here.rglob("*")) == before


@pytest.mark.parametrize("trainer", ["delta", "dapo"])
def test_a_run_without_an_output_folder_is_rehearsed_in_its_default_one(short, capsys, monkeypatch, trainer):
    monkeypatch.chdir(short.parent)
    config = yaml.safe_load(short.read_text())
    del config["output_dir"]
    short.write_text(yaml.safe_dump(config))
    run = short.parent / "outputs" / "config" / trainer
    run.mkdir(parents=True)
    (run / "README.md").write_text("the run's")
    before = set(short.parent.rglob("*"))
    assert "bit for bit" in rehearsed(capsys, short, "--trainer", trainer)
    assert set(short.parent.rglob("*")) == before
    assert (run / "README.md").read_text() == "the run's"


def test_nothing_reaches_the_hub_with_the_completions(short, capsys):
    # The tests are offline: a repository that was asked for would end it
    report = rehearsed(capsys, short, "--log_completions", "true", "--log_completions_hub_repo", "me/completions")
    assert "log_completions_hub_repo: me/completions -> None" in report


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"save_only_model": True}, "save_only_model keeps too little"),
        ({"ignore_data_skip": True}, "with ignore_data_skip, a continued run begins with the first problems again"),
        ({"beta": 0.1, "sync_ref_model": True}, "sync_ref_model moves the reference model, which is in no checkpoint"),
    ],
)
def test_a_run_that_cannot_be_continued_exactly_is_not_compared(short, capsys, options, reason):
    short.write_text(yaml.safe_dump({**yaml.safe_load(short.read_text()), **options}))
    report = rehearsed(capsys, short)
    assert f"resume: not made: {reason}" in report
    assert "\n  resume  " not in report


def test_a_run_without_checkpoints_is_told_so(short, capsys):
    assert "save_strategy: no -> steps (for the resume;" in rehearsed(capsys, short, "--save_strategy", "no")


def test_attention_that_needs_a_gpu_is_left_out_wherever_it_is_set(short, capsys):
    kwargs = {"attn_implementation": "flash_attention_2", "dtype": "float32"}
    short.write_text(yaml.safe_dump({**yaml.safe_load(short.read_text()), "model_init_kwargs": kwargs}))
    assert f"model_init_kwargs: {kwargs} -> {{'dtype': 'float32'}} (no GPU here)" in rehearsed(capsys, short)


def test_a_hub_that_makes_no_repository_is_said(short, capsys):
    line = failure(capsys, short, "--push_to_hub", "--rehearse_push", "--hub_token", "hf_secret")
    assert line.startswith(
        "error: rehearsal, part 'trainer': push_to_hub: the Hub did not create or find the repository"
    )
    assert "hf_secret" not in line


def test_a_failure_shows_no_token():
    given = {"hub_token": "hf_secret", "hub_strategy": "end"}
    line = failure_line("push", RuntimeError("no answer"), given)
    assert "hf_secret" not in line
    assert "hub_token='***'" in line
    assert "hub_strategy='end'" in line


@pytest.mark.parametrize(
    ("options", "part", "texts"),
    [
        (
            {"reward_funcs": ["maths_reward"]},
            "rewards",
            ["'maths_reward'", "Did you mean 'math_reward'?", "reward_funcs="],
        ),
        ({"reward_funcs": ["support.models.needs_level"]}, "data", ["needs_level", "level"]),
        ({"question_column": "problem"}, "data", ["no column 'problem'", "question_column"]),
        ({"dataset_name": "nowhere.jsonl"}, "data", ["nowhere.jsonl"]),
        ({"prompt_format": "chat"}, "data", ["prompt_format 'chat' needs a chat template"]),
        ({"max_prompt_length": 3}, "data", ["prompt longer than 3 tokens: 40 rows removed"]),
        ({"num_generations": 3}, "options", ["generation_batch_size (8)", "num_generations (3)", "--plan_processes"]),
        ({"gradient_accumulation_steps": 200}, "data", ["40 problems", "generation_batch_size=1600"]),
        ({"learning_rat": 1e-6}, "options", ["'learning_rat'", "Did you mean learning_rate?"]),
        ({"model_name_or_path": "no/model"}, "model", ["There is no model 'no/model'"]),
        ({"report_to": "wandb"}, "options", ["report_to 'wandb'"]),
        ({"output_dir": "/proc/none/run"}, "options", ["output_dir /proc/none/run cannot be"]),
        ({"optim": "lomo"}, "trainer", ["optim 'lomo'"]),
        (
            {"use_peft": True, "lora_target_modules": ["nothing_like_it"]},
            "plan",
            ["nothing_like_it", "lora_target_modules="],
        ),
        ({"generation_kwargs": {"num_beams": 0}}, "sampling", ["generation_kwargs"]),
        ({"max_completion_length": None}, "plan", ["max_completion_length is None", "Set it"]),
        ({"save_steps": 3, "steps_per_generation": 2}, "plan", ["save_steps=3 is not a multiple of 2"]),
    ],
)
def test_a_failure_names_its_part_and_the_option(short, capsys, options, part, texts):
    short.write_text(yaml.safe_dump({**yaml.safe_load(short.read_text()), **options}))
    line = failure(capsys, short)
    # Mistaken names are refused before anything is imported, once the options are remembered
    assert line.startswith(f"error: rehearsal, part '{part}': ") or part == "options"
    for text in texts:
        assert text in line


def test_a_reward_that_raises_is_named(short, capsys, monkeypatch):
    monkeypatch.chdir(short.parent)
    monkeypatch.syspath_prepend(short.parent)
    (short.parent / "raising_rewards.py").write_text(
        "def broken(completions, **kwargs):\n    raise KeyError('answer')\n"
    )
    line = failure(capsys, short, "--reward_funcs", "raising_rewards.broken")
    assert line.startswith("error: rehearsal, part 'rewards': RuntimeError: ")
    assert "KeyError: 'answer'" in line
    with pytest.raises(ValueError, match="part 'rewards'") as raised:
        main(["--config", str(short), "--rehearse", "--reward_funcs", "raising_rewards.broken", "--debug"])
    assert isinstance(raised.value.__cause__.__cause__, KeyError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "--rehearse"], "plan and rehearse are two commands"),
        (["--rehearse_push"], "add --rehearse"),
        (["--rehearse", "--rehearse_push"], "add --push_to_hub"),
        (["--rehearse", "--resume_from_checkpoint", "true"], "leave one of them out"),
        (["--rehearse", "--plan_gpu_memory", "80"], "add --plan"),
    ],
)
def test_options_that_contradict_a_rehearsal(short, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(["--config", str(short), *arguments])
    assert message in capsys.readouterr().err


def test_a_recipe_cannot_ask_for_its_rehearsal(short):
    short.write_text(short.read_text() + "rehearse: true\n")
    with pytest.raises(ValueError, match="belong on the command line"):
        parse("--config", short)


@pytest.mark.parametrize("lost", ["_save_rng_state", "_save_optimizer_and_scheduler"])
def test_a_checkpoint_that_lacks_something_is_noticed(short, capsys, monkeypatch, lost):
    monkeypatch.setattr(Trainer, lost, lambda self, folder: None)
    line = failure(capsys, short)
    assert line.startswith(
        "error: rehearsal, part 'resume': the run continued from its checkpoint of step 1 is not the run"
    )


def test_a_run_that_ends_without_a_model_is_noticed(short, capsys, monkeypatch):
    save = Trainer.save_model

    def only_checkpoints(self, output_dir=None, **kwargs):
        if output_dir is not None:
            save(self, output_dir, **kwargs)

    monkeypatch.setattr(Trainer, "save_model", only_checkpoints)
    line = failure(capsys, short)
    assert line.startswith("error: rehearsal, part 'final save': the run ends without a model")


def test_a_signal_ends_it_with_one_line(short, capsys, monkeypatch):
    before = {number: signal.getsignal(number) for number in SIGNALS}  # which stay ignored, as the process ends
    monkeypatch.chdir(short.parent)
    monkeypatch.syspath_prepend(short.parent)
    (short.parent / "ending_rewards.py").write_text(
        "import os, signal\n\n\ndef end(completions, **kwargs):\n    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    try:
        with pytest.raises(SystemExit, match="143"):
            main(["--config", str(short), "--rehearse", "--reward_funcs", "ending_rewards.end"])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert "Stopped by SIGTERM in part 'rewards' of the rehearsal" in capsys.readouterr().err


@pytest.mark.parametrize("processes", [1, 3, 64])
@pytest.mark.parametrize(("steps", "accumulation"), [(1, 1), (256, 64), (32, 8), (3, 2), (1, 256), (256, 1), (7, 5)])
def test_a_small_batch_is_one_that_trains(processes, steps, accumulation):
    for per_device, group in itertools.product((1, 4, 128), (2, 8, 24)):
        args = SimpleNamespace(
            per_device_train_batch_size=per_device,
            steps_per_generation=steps,
            gradient_accumulation_steps=accumulation,
            generation_batch_size=per_device * steps * processes,
            num_generations=group,
            num_iterations=1,
        )
        batch = Batch.of(args, processes)
        assert batch.per_device * batch.steps * processes == group * batch.prompts(processes, group)
        assert batch.per_device <= 2 * group
        assert max(batch.steps, batch.accumulation) <= 2 * UPDATES * UPDATES
        assert batch.accumulation > 1 or accumulation == 1
        assert (batch.steps > batch.accumulation) == (steps > accumulation)
        assert (batch.steps < batch.accumulation) == (steps < accumulation)
        micro_batches = batch.updates * batch.accumulation
        assert micro_batches % batch.steps == 0  # a rollout batch ends there


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_small_model_is_one_of_its_architecture(architecture, tmp_path):
    tokenizer = character_tokenizer()
    sizes = {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16}
    config = tiny_model(architecture, **sizes, num_hidden_layers=6, vocab_size=500).config
    small = small_config(config, tokenizer)
    assert (small.num_attention_heads, small.num_key_value_heads, small.num_hidden_layers) == (4, 1, 2)
    assert (small.head_dim, small.vocab_size) == (16, len(tokenizer))
    assert small.tie_word_embeddings == config.tie_word_embeddings
    assert config.num_hidden_layers == 6
    source = {"revision": "main", "trust_remote_code": False}
    said = make_small_model(config, tokenizer, str(tmp_path / "none"), tmp_path / "small", 1, **source)
    assert "2 random layers" in said
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert model(torch.tensor([[3, 4, 5]])).logits.shape == (1, 3, len(tokenizer))


def test_the_small_model_keeps_ratios_kinds_of_layers_and_what_vllm_shares():
    tokenizer = character_tokenizer()
    olmo3, _ = shape_beside(ROOT / "configs/olmo3_7b/delta.yaml", "allenai/Olmo-3-1025-7B")
    assert small_config(olmo3, tokenizer).layer_types == ["sliding_attention", "full_attention"]
    llama, _ = shape_beside(ROOT / "configs/llama3_70b/delta.yaml", "meta-llama/Llama-3.1-70B")
    small = small_config(llama, tokenizer, tensor_parallel=4)
    assert (small.num_attention_heads, small.num_key_value_heads) == (32, 4)
    smollm2, _ = shape_beside(ROOT / "configs/smollm2_135m/delta.yaml", "HuggingFaceTB/SmolLM2-135M-Instruct")
    small = small_config(smollm2, tokenizer)
    assert (small.num_attention_heads, small.num_key_value_heads, small.head_dim) == (3, 1, 64)
    assert small.tie_word_embeddings


@pytest.mark.parametrize(
    ("kind", "layers", "kept"),
    [
        ("nemotron_h", ["linear_attention", "moe", "full_attention", "mlp"], ["linear_attention", "full_attention"]),
        ("qwen3_next", ["linear_attention"] * 3 + ["full_attention"], ["linear_attention", "full_attention"]),
        ("gemma3_text", ["sliding_attention"] * 5 + ["full_attention"], ["sliding_attention", "full_attention"]),
    ],
)
def test_layers_without_attention_keep_one_that_has_it(kind, layers, kept, tmp_path):
    name = "layers_block_type" if kind == "nemotron_h" else "layer_types"
    config = AutoConfig.for_model(kind, **{name: layers}, num_hidden_layers=len(layers))
    tokenizer = character_tokenizer()
    assert getattr(small_config(config, tokenizer), name) == kept
    make_small_model(config, tokenizer, "none", tmp_path, 1, revision="main", trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompt = torch.tensor([[3, 4, 5]])
    assert model.generate(prompt, max_new_tokens=2, min_new_tokens=2).shape == (1, 5)


@pytest.mark.parametrize("kind", ["bamba", "mamba2"])
def test_a_model_that_cannot_be_made_small_is_said_in_a_line(kind, tmp_path):
    source = {"revision": "main", "trust_remote_code": False}
    with pytest.raises(ValueError, match=rf"^me/model: a model of type '{kind}' cannot be made with 2") as raised:
        make_small_model(AutoConfig.for_model(kind), character_tokenizer(), "me/model", tmp_path, 1, **source)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["zero3", "fsdp2"])
def test_a_recipe_is_rehearsed_on_two_processes(tmp_path, launcher):
    if launcher == "zero3" and sys.platform != "linux":
        pytest.skip("DeepSpeed is among the development dependencies on Linux only")
    config = small_place(ROOT / "configs/qwen3_8b/delta.yaml", tmp_path, max_prompt_length=600)
    files = {"zero3": ROOT / "configs/accelerate/zero3.yaml", "fsdp2": LAUNCH / "fsdp2.yaml"}
    command = [python(), "-m", "accelerate.commands.launch", "--main_process_port=0", "--num_processes=2"]
    command += [f"--config_file={files[launcher]}", "--mixed_precision=bf16", str(LAUNCH / "command.py"), launcher]
    command += ["--config", str(config), "--rehearse", "--max_completion_length", "16"]
    if launcher == "fsdp2":  # each process saves its share in checkpoints; the result is one model all the same
        command.insert(3, "--fsdp_state_dict_type=SHARDED_STATE_DICT")
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-3000:]
    report = done.stdout[done.stdout.index("Rehearsed:") :]
    assert f"2 processes (cpu, {'DEEPSPEED' if launcher == 'zero3' else 'FSDP'})" in report
    assert "bit for bit, and so are the weights" in report


PUSHES = """
import sys
from delta_trl.train.__main__ import main
for output in ("private", "public"):
    main(["--config", sys.argv[1], "--rehearse", "--rehearse_push", "--push_to_hub", "--output_dir", output])
"""


@pytest.mark.slow
def test_a_push_goes_to_a_private_repository(short):
    with HubStandIn(short.parent / "hub") as hub:
        hub.private[f"{USER}/public-rehearsal"] = False  # which is there already
        # huggingface_hub reads its environment when it is imported
        environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(short.parent / "cache")}
        environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
        environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        command = [sys.executable, "-c", PUSHES, str(short)]
        done = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, cwd=short.parent
        )
    assert done.returncode == 2, done.stderr[-3000:]
    assert f"push: {USER}/private-rehearsal, private" in done.stdout
    assert "\n  push  " in done.stdout
    assert hub.private == {f"{USER}/private-rehearsal": True, f"{USER}/public-rehearsal": False}
    assert {repository for repository, _, _ in hub.commits} == {f"{USER}/private-rehearsal"}
    assert f"{USER}/public-rehearsal is public on the Hub" in done.stderr.splitlines()[-1]
