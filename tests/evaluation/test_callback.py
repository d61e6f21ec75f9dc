"""The training callback in TRL's real GRPO trainer: it evaluates, remembers, and leaves the training as it was."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from support.evaluation_model import adding_folder, question
from support.forked import python
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from delta_trl.evaluation.callback import BEST_FILE, EvaluationCallback
from delta_trl.evaluation.generate import Decoding, TransformersBackend
from delta_trl.evaluation.samples import read_evaluation
from delta_trl.rewards import math_reward


pytestmark = pytest.mark.trained

PAIRS = [(a, b) for a in range(1, 10) for b in range(1, 10)]
DECODING = Decoding(samples=2, top_p=1.0, max_tokens=20, prompt_format="{question}")


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    path.write_text(
        "".join(json.dumps({"question": question(*pair), "answer": sum(pair)}) + "\n" for pair in PAIRS[::8])
    )
    return str(path)


def make_trainer(output, model=None, **options) -> GRPOTrainer:
    model = model or adding_folder()
    rows = Dataset.from_list([{"prompt": question(*pair), "solution": str(sum(pair))} for pair in PAIRS])
    config = GRPOConfig(
        output_dir=str(output), per_device_train_batch_size=8, num_generations=4, max_completion_length=20,
        save_steps=1, logging_steps=3, report_to="none", use_cpu=True, seed=0, disable_tqdm=True,
        **{"max_steps": 3, "learning_rate": 1e-4, **options},
    )  # fmt: skip
    return GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
        reward_funcs=math_reward,
        args=config,
        train_dataset=rows,
    )


def test_every_second_checkpoint_is_evaluated_and_training_is_not_disturbed(tmp_path, benchmark):
    plain = make_trainer(tmp_path / "plain")
    plain.train()
    watched = make_trainer(tmp_path / "watched")  # only now: a trainer seeds the global generators when it is made
    callback = EvaluationCallback(watched, benchmark, DECODING, every=2)
    watched.add_callback(callback)
    watched.train()
    for (name, ours), theirs in zip(watched.model.named_parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=name)
    untrained = AutoModelForCausalLM.from_pretrained(adding_folder())
    assert not torch.equal(watched.model.lm_head.weight, untrained.lm_head.weight)
    # The training metrics of steps 1 to 3 are averaged in one line, also with an evaluation after step 2.
    lines = [[line for line in t.state.log_history if "reward" in line] for t in (plain, watched)]
    assert [line["reward"] for line in lines[0]] == [line["reward"] for line in lines[1]]

    logged = [line for line in watched.state.log_history if "eval_sums_avg@2" in line]
    assert [line["step"] for line in logged] == [2]
    assert 0 < logged[0]["eval_sums_avg@2_error"] < 0.5
    records = read_evaluation(tmp_path / "watched" / "evaluation" / "checkpoint-2.jsonl").benchmarks["sums"]
    assert records.missing == 0
    assert records.correct.mean() == pytest.approx(logged[0]["eval_sums_avg@2"])
    best = json.loads((tmp_path / "watched" / BEST_FILE).read_text())
    assert best["best_checkpoint"] == str(tmp_path / "watched" / "checkpoint-2")
    assert callback.best_step == 2
    assert watched.model.training


def test_the_best_checkpoint_is_kept_and_a_resumed_training_remembers_it(tmp_path, benchmark):
    """The first step is too small to matter and the others break the model, so the first checkpoint stays the best."""
    broken = {"learning_rate": 0.5, "warmup_steps": 1, "save_total_limit": 2}
    trainer = make_trainer(tmp_path, **broken)
    callback = EvaluationCallback(trainer, benchmark, DECODING)
    trainer.add_callback(callback)
    trainer.train()
    assert callback.best_step == 1
    assert callback.scores[1] > 0.2 > callback.scores[3]  # 0.62 ± 0.1 at first; a broken model has no box

    best = tmp_path / "checkpoint-1"
    assert best.exists()
    assert trainer.state.best_model_checkpoint == str(best)
    resumed = make_trainer(tmp_path, max_steps=4, **broken)
    again = EvaluationCallback(resumed, benchmark, DECODING)
    resumed.add_callback(again)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert list(again.scores) == [1, 2, 3, 4]
    assert {step: again.scores[step] for step in (1, 2, 3)} == callback.scores
    assert best.exists()


@pytest.mark.slow
def test_two_processes_of_a_training_share_the_work(tmp_path):
    """An odd number of samples on two processes: both draw equally many, and every sample counts once."""
    problems = [{"question": question(a, a + 1), "answer": 2 * a + 1} for a in range(1, 8)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    launcher = [python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, __file__, tmp_path, adding_folder()], capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    seen = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("rank*.json"))]
    assert [rank["drawn"] for rank in seen] == [4, 4]
    assert seen[0]["scores"] == seen[1]["scores"]
    records = read_evaluation(tmp_path / "run" / "evaluation" / "checkpoint-1.jsonl").benchmarks["sums"]
    assert (len(records.samples), records.missing) == (7, 0)
    assert seen[0]["scores"] == {"1": records.correct.mean()}


def _train_on_one_of_two_processes(folder: Path, model: str) -> None:
    trainer = make_trainer(folder / "run", model, max_steps=1)
    assert trainer.accelerator.num_processes == 2
    callback = EvaluationCallback(trainer, str(folder / "sums.jsonl"), replace(DECODING, samples=1))
    trainer.add_callback(callback)
    drawn = []
    generate = TransformersBackend.generate
    TransformersBackend.generate = lambda self, requests, decoding: (
        drawn.extend(requests) or generate(self, requests, decoding)
    )
    trainer.train()
    rank = trainer.accelerator.process_index
    (folder / f"rank{rank}.json").write_text(json.dumps({"drawn": len(drawn), "scores": callback.scores}))


def test_a_training_without_checkpoints_is_refused(tmp_path, benchmark):
    with pytest.raises(ValueError, match='save_strategy="no" saves none'):
        EvaluationCallback(make_trainer(tmp_path, save_strategy="no"), benchmark, DECODING)


def test_a_callback_that_never_evaluates_says_so(tmp_path, benchmark, caplog):
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.add_callback(EvaluationCallback(trainer, benchmark, DECODING, every=3))
    trainer.train()
    assert "evaluated nothing: it takes every 3. checkpoint, and this training saved 1" in caplog.text


@pytest.mark.parametrize(
    "content", ["", '{"scores": {"1": 0.5', '{"scores": [1]}', "[" * 100_000, '{"scores": {"a": 1}}']
)
def test_a_torn_file_of_scores_is_forgotten(tmp_path, benchmark, caplog, content):
    trainer = make_trainer(tmp_path)
    callback = EvaluationCallback(trainer, benchmark, DECODING)
    (tmp_path / BEST_FILE).write_text(content)
    trainer.state.global_step = 2
    callback.on_train_begin(trainer.args, trainer.state, trainer.control)
    assert callback.scores == {}
    assert f"{BEST_FILE} cannot be read" in caplog.text


def test_one_benchmark_and_a_positive_interval(benchmark):
    with pytest.raises(ValueError, match="stands for 7"):
        EvaluationCallback(None, "paper")
    with pytest.raises(ValueError, match="every is at least 1"):
        EvaluationCallback(None, benchmark, every=0)


if __name__ == "__main__":
    _train_on_one_of_two_processes(Path(sys.argv[1]), sys.argv[2])
