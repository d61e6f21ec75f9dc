"""Sampling with transformers: the distribution, independence of the batch, ends of completions, model sources."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.evaluation_model import adding_folder, answer, question, random_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from delta_trl.evaluation.generate import Request, SeededSampler, TransformersBackend, encode_prompt, sample_seed
from delta_trl.evaluation.models import find_model
from delta_trl.evaluation.options import Decoding


pytestmark = pytest.mark.trained

PLAIN = Decoding(samples=4, top_p=1.0, max_tokens=30, prompt_format="{question}")


@pytest.fixture(scope="module")
def backend() -> TransformersBackend:
    return TransformersBackend.load(find_model(str(adding_folder())))


def requests_for(backend, decoding, questions):
    requests = []
    for problem in questions:
        prompt, ids = encode_prompt(problem, decoding, backend.tokenizer)
        for index in range(decoding.samples):
            seed = sample_seed(decoding.seed, "b", problem, index)
            requests.append(Request("b", problem, index, seed, prompt, tuple(ids), "0"))
    return requests


def draw(backend, decoding, requests, batch_size=64):
    backend.batch_size = batch_size
    return {(r.problem, r.index): c for batch in backend.generate(requests, decoding) for r, c in batch}


# Prompts of unlike length, so that batches are padded.
QUESTIONS = [question(a, b) for a, b in [(1, 2), (9, 9), (4, 7)]] + ["12+34+5=?\n", "And now: 3+4=?\n"]


def test_the_sampler_draws_from_the_tempered_and_truncated_distribution():
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -3.0])
    decoding = Decoding(temperature=1.5, top_p=0.9)
    rows = 20_000
    sampler = SeededSampler(range(rows), 1, decoding)
    drawn = sampler(torch.zeros(rows, 1, dtype=torch.long), logits.repeat(rows, 1)).argmax(dim=1)
    shares = torch.bincount(drawn, minlength=5) / rows
    p = (logits / 1.5).softmax(0)
    assert p[:3].sum() < 0.9 < p[:4].sum()  # so four tokens stay
    expected = torch.cat([p[:4] / p[:4].sum(), torch.zeros(1)])
    assert shares == pytest.approx(expected, abs=0.012)  # 3.5 standard errors
    assert shares[4] == 0


def test_top_k_and_greedy():
    logits = torch.tensor([[0.0, 3.0, 2.9, 1.0]]).repeat(200, 1)
    ids = torch.zeros(200, 1, dtype=torch.long)
    drawn = SeededSampler(range(200), 1, Decoding(top_k=2, top_p=1.0))(ids, logits).argmax(dim=1)
    assert set(drawn.tolist()) == {1, 2}
    greedy = SeededSampler(range(200), 1, Decoding(temperature=0))(ids, logits).argmax(dim=1)
    assert set(greedy.tolist()) == {1}


def test_a_sample_does_not_depend_on_the_samples_beside_it(backend):
    """Batches of 1, of 7, and of all, in another order, and alone."""
    requests = requests_for(backend, PLAIN, QUESTIONS)
    texts = {key: completion.text for key, completion in draw(backend, PLAIN, requests).items()}
    assert len(set(texts.values())) > 5  # they are sampled, not copies of each other
    for order, batch_size in [(requests[::-1], 7), (requests, 1), (requests[5:6], 64)]:
        again = draw(backend, PLAIN, order, batch_size)
        assert {key: completion.text for key, completion in again.items()} == {key: texts[key] for key in again}


def test_seeds_differ_by_seed_benchmark_problem_and_index():
    keys = [(0, "b", "p", 0), (1, "b", "p", 0), (0, "c", "p", 0), (0, "b", "q", 0), (0, "b", "p", 1)]
    seeds = [sample_seed(*key) for key in keys]
    assert len(set(seeds)) == 5
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert sample_seed(0, "aime24", "60", 3) == 75371505  # a change would make old records unrepeatable


def test_greedy_equals_transformers_own(backend):
    greedy = Decoding(samples=1, temperature=0, max_tokens=30, prompt_format="{question}")
    ours = draw(backend, greedy, requests_for(backend, greedy, QUESTIONS))
    for problem in QUESTIONS:
        ids = backend.tokenizer(problem, return_tensors="pt")
        config = GenerationConfig(do_sample=False, max_new_tokens=30, eos_token_id=1, pad_token_id=0)
        theirs = backend.model.generate(
            ids["input_ids"], attention_mask=ids["attention_mask"], generation_config=config
        )
        text = backend.tokenizer.decode(theirs[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        assert ours[problem, 0].text == text


def test_the_models_own_generation_defaults_play_no_part(backend):
    requests = requests_for(backend, PLAIN, QUESTIONS)
    before = {key: completion.text for key, completion in draw(backend, PLAIN, requests).items()}
    own = backend.model.generation_config
    try:
        backend.model.generation_config = GenerationConfig(
            do_sample=True, temperature=0.1, repetition_penalty=5.0, eos_token_id=own.eos_token_id
        )
        after = {key: completion.text for key, completion in draw(backend, PLAIN, requests).items()}
        assert backend.model.generation_config.repetition_penalty == 5.0  # and it is put back
    finally:
        backend.model.generation_config = own
    assert after == before


def test_tokens_and_truncation(backend):
    """`Sum: \\boxed{3}.` is 9 tokens and an end of sequence."""
    greedy = Decoding(samples=1, temperature=0, max_tokens=30, prompt_format="{question}")
    whole = draw(backend, greedy, requests_for(backend, greedy, [question(1, 2)]))[question(1, 2), 0]
    assert (whole.text, whole.tokens, whole.truncated) == (answer(3), 10, False)
    assert whole.seconds > 0
    short = replace(greedy, max_tokens=5)
    cut = draw(backend, short, requests_for(backend, short, [question(1, 2)]))[question(1, 2), 0]
    assert (cut.text, cut.tokens, cut.truncated) == (whole.text[:5], 5, True)


def test_a_completion_ends_where_the_context_does(backend, caplog):
    """With 1,024 positions a prompt of 1,020 tokens has room for 4, and one of 1,024 for none."""
    requests = requests_for(backend, PLAIN, ["9" * 1020, "9" * 1024])
    found = draw(backend, PLAIN, requests)
    assert {problem for problem, _ in found} == {"9" * 1020}
    assert all(completion.tokens <= 4 for completion in found.values())
    assert "It counts as wrong" in caplog.text
    assert "the model's context of 1024 positions has room for 4 tokens after the longest prompt" in caplog.text


def test_a_stop_string_ends_a_completion_and_is_left_out(backend, monkeypatch):
    """The "paper" format stops where a base model goes on with the next user's turn."""
    monkeypatch.setattr("delta_trl.data.PromptFormat.stop_strings", property(lambda self: ["m:"]))
    for completion in draw(backend, PLAIN, requests_for(backend, PLAIN, QUESTIONS[:3])).values():
        assert completion.text == "Su"
        assert (completion.tokens, completion.truncated) == (4, False)


def test_chat_prompts_are_made_with_the_template(backend):
    tokenizer = AutoTokenizer.from_pretrained(adding_folder())
    chat = Decoding(prompt_format="chat", system_prompt="Be brief.")
    with pytest.raises(ValueError, match="needs a chat template"):
        encode_prompt("1+1=?", chat, tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    text, ids = encode_prompt("1+1=?", chat, tokenizer)
    assert text.startswith("[system]Be brief.[user]1+1=?")
    assert text.endswith("[assistant]")
    assert tokenizer.decode(ids) == text


def test_the_paper_prompt():
    text, _ = encode_prompt("1+1=?", Decoding(), AutoTokenizer.from_pretrained(adding_folder()))
    assert text == (
        "User:\n1+1=?\nPlease reason step by step, and put your final answer within \\boxed{}.\n\nAssistant:\n"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 0}, {"max_tokens": 0}, {"top_p": 0}, {"temperature": -1}, {"top_k": -1}, {"temperature": math.nan},
        {"temperature": math.inf}, {"top_p": math.nan},
    ],
)  # fmt: skip
def test_impossible_decoding_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Decoding(**wrong)


def test_an_adapter_is_loaded_onto_its_base(tmp_path, backend):
    base = AutoModelForCausalLM.from_pretrained(adding_folder())
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    source = find_model(str(tmp_path / "adapter"))
    assert source.base == str(adding_folder())
    loaded = TransformersBackend.load(source)
    ids = torch.tensor([[5, 14, 6, 15, 16, 42]])
    torch.testing.assert_close(loaded.model(ids).logits, adapted.eval()(ids).logits)
    assert not torch.allclose(loaded.model(ids).logits, backend.model(ids).logits)
    assert len(draw(loaded, PLAIN, requests_for(loaded, PLAIN, QUESTIONS[:1]))) == 4


def test_an_adapter_without_a_base_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    for torn, reason in (
        ('{"peft_', "is not JSON"),
        ("[" * 100_000, "is not JSON: it is nested too deeply"),
        ("[]", "holds a list"),
    ):
        (tmp_path / "torn").mkdir(exist_ok=True)
        (tmp_path / "torn" / "adapter_config.json").write_text(torn)
        with pytest.raises(ValueError, match=f"adapter_config.json {reason}"):
            find_model(str(tmp_path / "torn"))
    with pytest.raises(ValueError, match="does not name its base model"):
        find_model(str(tmp_path))


def test_the_newest_complete_checkpoint_of_a_running_training(tmp_path):
    with pytest.raises(ValueError, match="holds no model, adapter or checkpoint"):
        find_model(str(tmp_path))
    for step in (20, 100):
        shutil.copytree(adding_folder(), tmp_path / f"checkpoint-{step}")
    with pytest.raises(ValueError, match="only incomplete checkpoints"):
        find_model(str(tmp_path))
    (tmp_path / "checkpoint-20" / "trainer_state.json").write_text("{}")
    assert find_model(str(tmp_path)).path.endswith("checkpoint-20")
    (tmp_path / "checkpoint-100" / "trainer_state.json").write_text("{}")
    source = find_model(str(tmp_path))
    assert source.path.endswith("checkpoint-100")
    assert source.label == f"{tmp_path.name}--checkpoint-100"


def test_weights_that_were_replaced_are_another_revision(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(adding_folder(), folder)
    before = find_model(str(folder)).revision
    assert find_model(str(folder)).revision == before
    random_model(AutoTokenizer.from_pretrained(folder)).save_pretrained(folder)
    assert find_model(str(folder)).revision != before


def test_hub_ids_and_folders_that_do_not_exist():
    assert find_model("Qwen/Qwen3-8B-Base", "main").revision == "main"
    assert find_model("Qwen/Qwen3-8B-Base").label == "Qwen--Qwen3-8B-Base"
    with pytest.raises(ValueError, match="looks like a folder"):
        find_model("./outputs/nowhere")
    with pytest.raises(ValueError, match="Revisions exist on the Hub only"):
        find_model(str(adding_folder()), "main")
