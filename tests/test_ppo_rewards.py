"""What PPO rewards: functions, a reward model, both; what is wrong with them is told with their name."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, MixtralConfig

from hfkit.adapters import merged_for_now, merges_exactly
from hfkit.callbacks import read_metrics
from hfkit.errors import HfkitError
from hfkit.models import load_policy, load_tokenizer
from hfkit.record import read_record
from hfkit.rlhf.controllers import KLController, RewardNormalizer
from hfkit.rlhf.roles import load_roles
from hfkit.rlhf.rollout import GenerateEngine
from hfkit.rlhf.scores import Scorer, checked, import_function, shaped, start_of_normalizer
from hfkit.scoring import load_reward


def length(prompts, replies, **columns) -> list[float]:
    """The reward function that needs no model."""
    return [float(len(reply)) for reply in replies]


def names(prompts, replies, answer, rank) -> list[float]:
    """One that reads the data's columns: 1 where the prompt is the one that the row's answer belongs to."""
    return [
        float(f"What does {one['name']} like?" == prompt and place >= 0)
        for prompt, one, place in zip(prompts, answer, rank, strict=True)
    ]


def careless(prompts, replies, answer) -> list[float]:
    raise KeyError("colour")


HERE = __name__
LENGTH, NAMES = f"{HERE}:length", f"{HERE}:names"


def updates(folder) -> list[dict]:
    return [row for row in read_metrics(folder) if "objective/kl" in row]


def test_pain_19_a_function_alone_trains_without_a_reward_model(run_stage, tmp_path):
    changes = {"reward_model_path": None, "reward_functions": [LENGTH], "test_split_size": 2}
    folder = run_stage("ppo", tmp_path / "out", **changes)
    record = read_record(folder)
    assert [parent["role"] for parent in record["lineage"]] == ["sft"]
    assert {row["objective/scores"] > 0 for row in updates(folder)} == {True}
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [sample["reward_after"] for sample in samples] == [len(sample["after"]) for sample in samples]


@pytest.mark.parametrize("use_peft", [True, False])
def test_a_value_model_without_a_reward_model_begins_at_0(config_of, tmp_path, use_peft):
    config = config_of("ppo", tmp_path, reward_model_path=None, reward_functions=[LENGTH], use_peft=use_peft)
    roles = load_roles(config)
    assert roles.reward is None
    ids = torch.tensor([[5, 6, 7]])
    assert float(roles.value(input_ids=ids, attention_mask=torch.ones_like(ids)).logits) == 0.0
    head = next(p for n, p in roles.value.named_parameters() if "score" in n and p.requires_grad)
    assert head.shape[0] == 1


def test_model_and_functions_are_weighed_and_get_the_columns(run_stage, tmp_path, rows_file):
    rows = [
        {"prompt": f"What does {name} like?", "answer": {"name": name}, "rank": rank}
        for rank, name in enumerate("ABCDEFGH")
    ]
    changes = {"reward_functions": [LENGTH, NAMES], "reward_weights": [0.5, 2.0, -1.0]}
    folder = run_stage("ppo", tmp_path / "out", datasets=rows_file(rows), reward_columns=["answer", "rank"], **changes)
    for row in updates(folder):
        parts = [row[f"objective/score_{name}"] for name in ("model", LENGTH, NAMES)]
        assert parts[2] == 1.0
        assert row["objective/scores"] == pytest.approx(0.5 * parts[0] + 2 * parts[1] - parts[2], rel=1e-5)


def test_a_column_that_the_data_lacks_is_told_before_any_model_is_loaded(run_stage, tmp_path):
    with pytest.raises(HfkitError, match="has no column 'answer' \\(for reward_columns\\); it has \\['prompt'\\]"):
        run_stage("ppo", tmp_path / "out", reward_functions=[LENGTH], reward_columns=["answer"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ([1.0], "gave 1 numbers for 2 replies"),
        ([1.0, 2.0, 3.0], "gave 3 numbers for 2 replies"),
        ([1.0, math.nan], "not finite"),
        ([1.0, 1e300], "not finite"),
        (["1.0", "2.0"], "not a number for each reply"),
        ("12", "not a number for each reply"),
        ([None, 1.0], "not a number for each reply"),
        (None, "not a number for each reply"),
        (1.0, "not a number for each reply"),
        (torch.ones(2, 2), "not a number for each reply"),
        ([10**400, 1], "not a number for each reply"),
    ],
    ids=repr,
)
def test_what_a_function_gives_must_be_a_number_a_reply(scores, told):
    with pytest.raises(HfkitError, match=f"reward function mine:f gave .*{told}|mine:f .*{told}"):
        checked("mine:f", scores, 2)


@pytest.mark.parametrize("scores", [[1, 0], (True, False), np.array([1.0, 0.0]), torch.tensor([1.0, 0.0])], ids=repr)
def test_lists_arrays_and_tensors_are_taken(scores):
    assert checked("mine:f", scores, 2).tolist() == [1.0, 0.0]


def test_a_function_that_raises_is_named(tokenizer):
    scorer = Scorer(tokenizer, functions={"mine:careless": careless})
    with pytest.raises(HfkitError, match="reward function mine:careless raised KeyError: 'colour'"):
        scorer([[5]], [[6]], [{"prompt": "x", "input_ids": [5], "answer": "y"}])


def test_a_function_of_the_working_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_rewards_here.py").write_text("def one(prompts, replies):\n    return [1.0] * len(replies)\n")
    monkeypatch.chdir(tmp_path)
    assert import_function("my_rewards_here:one")([1], [2]) == [1.0]


# A reward model with a tokenizer of its own


@pytest.fixture
def stranger(run_stage, tmp_path, reward_dir, data):
    """The reward model with another tokenizer, or with another template, in its folder."""

    def make(what: str):
        folder = shutil.copytree(reward_dir, tmp_path / "stranger", ignore=shutil.ignore_patterns("checkpoint-*"))
        if what == "vocabulary":
            docs = [{"path": str(data / "docs.jsonl"), "split": "train[:20]"}]
            other = run_stage("tokenizer", tmp_path / "tokenizer", datasets=docs, vocab_size=290)
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(other / file, folder)
        else:
            (folder / "chat_template.jinja").write_text(
                "{% for m in messages %}{{ m.content }}{{ eos_token if m.role == 'assistant' }} {% endfor %}"
            )
        return folder

    return make


@pytest.mark.parametrize("what", ["vocabulary", "template"])
def test_it_scores_the_text_rendered_for_it(run_stage, tmp_path, stranger, capsys, what):
    folder = run_stage("ppo", tmp_path / "out", reward_model_path=str(stranger(what)), test_split_size=4)
    assert "what it scores is rendered anew for it" in capsys.readouterr().out
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    reward = load_reward(str(tmp_path / "stranger"))
    prompts = [re.search(r"What does \w+ like\?", row["prompt"])[0] for row in rows]
    expected = reward(prompts, [row["after"] for row in rows])
    assert [row["reward_after"] for row in rows] == pytest.approx(expected.tolist(), abs=2e-4)


def test_the_value_model_reads_what_the_policy_writes(config_of, tmp_path, stranger):
    """With another vocabulary the reward model's weights mean nothing to the policy's ids: begin at 0."""
    ids = torch.tensor([[5, 6, 7]])
    for what, begun in (("vocabulary", False), ("template", True)):
        path = stranger(what)
        roles = load_roles(config_of("ppo", tmp_path / what, reward_model_path=str(path)))
        assert (float(roles.value(input_ids=ids).logits) != 0.0) == begun
        shutil.rmtree(path)


def test_one_that_cannot_render_the_prompts_is_refused_before_any_model_is_loaded(
    run_stage, tmp_path, stranger, rows_file
):
    path = stranger("vocabulary")
    (path / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "chat_template"}))
    rows = rows_file([{"prompt": [{"role": "user", "content": f"What does {name} like?"}]} for name in "ABCDEFGH"])
    with pytest.raises(HfkitError, match="cannot render the prompts: messages need a chat template"):
        run_stage("ppo", tmp_path / "out", reward_model_path=str(path), datasets=rows)
    assert not (tmp_path / "out").exists()


# What is made of the scores


def test_the_normalizer_has_the_mean_and_deviation_of_all_rewards():
    generator = np.random.default_rng(0)
    batches = [generator.normal(3.0, 5.0, size) for size in (1, 7, 32, 2)]
    normalizer = RewardNormalizer()
    for place, batch in enumerate(batches):
        normalizer.update(torch.tensor(batch))
        so_far = np.concatenate(batches[: place + 1])
        assert (normalizer.mean, normalizer.std) == pytest.approx((so_far.mean(), so_far.std()), abs=1e-9)
    assert normalizer(torch.tensor([so_far.mean(), so_far.mean() + so_far.std()])).tolist() == pytest.approx(
        [0, 1], abs=1e-6
    )


@pytest.mark.parametrize("weights", [None, [-0.5]])
def test_a_normalizer_begins_with_what_the_reward_stage_measured(config_of, reward_dir, tmp_path, weights):
    config = config_of("ppo", tmp_path / "out", normalize_rewards=True, reward_weights=weights)
    known, weight = read_record(reward_dir)["metrics"], weights[0] if weights else 1.0
    normalizer = start_of_normalizer(config)
    assert normalizer.mean == pytest.approx(weight * known["eval_reward_mean"])
    assert normalizer.std == pytest.approx(abs(weight) * known["eval_reward_std"])


def test_a_normalizer_that_begins_with_measured_rewards_weighs_them():
    known, batch = np.array([1.0, 3.0, 5.0, 7.0]), np.array([0.0, 2.0])
    normalizer = RewardNormalizer(known.mean(), known.std(), len(known))
    normalizer.update(torch.tensor(batch))
    both = np.concatenate([known, batch])
    assert (normalizer.mean, normalizer.std) == pytest.approx((both.mean(), both.std()))
    again = RewardNormalizer()
    again.load_state_dict(normalizer.state_dict())
    assert again == normalizer


def test_equal_rewards_normalize_to_0():
    normalizer = RewardNormalizer()
    normalizer.update(torch.full((4,), 2.5))
    assert normalizer(torch.full((4,), 2.5)).tolist() == [0.0] * 4


def test_scores_are_normalized_then_clipped_then_priced():
    scores, ended = torch.tensor([9.0, 1.0, -9.0, 1.5]), torch.tensor([True, True, True, False])
    normalizer = RewardNormalizer(1.0, 2.0, 8)
    assert shaped(scores, ended, normalizer, 3.0, 0.5).tolist() == [3.0, 0.0, -3.0, -0.25]
    assert shaped(scores, ended, None, None, None).tolist() == scores.tolist()


def test_kl_coef_follows_its_target():
    """Ziegler et al. 2019, section 2.2."""
    controller = KLController(0.2, target=6.0, horizon=1000)
    for kl, factor in ((6.0, 1.0), (6.6, 1 + 0.1 * 64 / 1000), (60.0, 1 + 0.2 * 64 / 1000), (0.0, 1 - 0.2 * 64 / 1000)):
        before = controller.coef
        controller.update(kl, 64)
        assert controller.coef == pytest.approx(before * factor)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({}, False), ({"kl_target": 1.0}, True), ({"kl_target": 1.0, "kl_horizon": 4, "total_episodes": 16}, False)],
    ids=["no target", "too slow", "quick enough"],
)
def test_a_kl_coef_that_moves_too_slowly_for_its_target_is_told(run_stage, tmp_path, capsys, changes, told):
    run_stage("ppo", tmp_path / "out", **changes)
    assert ("kl_coef can change by" in capsys.readouterr().err) == told


# Ends


ENDS = [0, *range(5, 100)]


def many_ends(base_dir, target) -> str:
    """The base with a list of stop tokens, and with a generation config that PPO must not sample by."""
    shutil.copytree(base_dir, target, ignore=shutil.ignore_patterns("checkpoint-*", "hfkit.json"))
    path = target / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": ENDS, "repetition_penalty": 3.0}))
    return str(target)


def test_what_is_sampled_is_the_policy_whatever_the_generation_config(base_dir, tmp_path):
    """At a temperature near 0 each token is the likeliest one: no repetition penalty took hold."""
    from transformers import AutoModelForCausalLM

    path = many_ends(base_dir, tmp_path / "policy")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), load_tokenizer(path)
    engine = GenerateEngine(model, tokenizer, [0], 12, 1e-4, 2)
    prompts = [tokenizer("Ann likes red.").input_ids[:3], tokenizer("The colour of").input_ids]
    for prompt, reply in zip(prompts, engine.sample(prompts), strict=True):
        with torch.no_grad():
            likeliest = model(torch.tensor([prompt + reply])).logits.argmax(-1)[0, len(prompt) - 1 : -1]
        assert reply == likeliest.tolist()
    assert model.generation_config.repetition_penalty == 3.0


def test_every_stop_id_ends_a_reply_and_what_ends_pays_nothing(run_stage, base_dir, tmp_path):
    """The penalty is on replies that no stop token closed, be it the tokenizer's or another of the model's."""
    path = many_ends(base_dir, tmp_path / "policy")
    changes = {"missing_eos_penalty": 3.0, "normalize_rewards": False, "total_episodes": 24}
    folder = run_stage("ppo", tmp_path / "out", model_name_or_path=path, **changes)
    rows = updates(folder)
    for row in rows:
        paid = row["objective/scores"] - row["objective/shaped_scores"]
        assert paid == pytest.approx(3.0 * (1 - row["val/ended"]), abs=1e-5)
    assert 0 < sum(row["val/ended"] for row in rows) < len(rows)


def test_pain_18_replies_that_end_early_are_not_sampled_to_the_limit(base_dir):
    """As many passes as the longest reply has tokens."""
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base_dir), load_tokenizer(str(base_dir))
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    prompts = [tokenizer("Ann likes red.").input_ids[:3], tokenizer("The colour of").input_ids]
    for stops in (ENDS, [*range(len(tokenizer))]):
        passes.clear()
        replies = GenerateEngine(model, tokenizer, stops, 40, 1.0, 2).sample(prompts)
        assert len(passes) == max(map(len, replies)) < 40
    assert [*map(len, replies)] == [1, 1]


@pytest.mark.parametrize(
    "changes",
    [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "lora_only", "lora_bias": True}, {"dtype": "bf16"}],
    ids=str,
)
def test_what_is_no_plain_lora_on_float32_is_sampled_as_it_is(base_dir, changes):
    base = AutoModelForCausalLM.from_pretrained(base_dir)
    if changes.pop("dtype", None):
        base = base.to(torch.bfloat16)
    assert not merges_exactly(get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", **changes)))


def test_experts_are_not_merged():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = AutoModelForCausalLM.from_config(MixtralConfig(**sizes, vocab_size=32, num_local_experts=2))
    assert not merges_exactly(base)
    assert not merges_exactly(get_peft_model(base, LoraConfig(r=2, target_modules="all-linear")))


def test_replies_are_sampled_with_the_adapter_merged_and_the_base_is_left_as_it_was(ppo_dir):
    policy, tokenizer = load_policy(str(ppo_dir))
    assert merges_exactly(policy)
    prompts = [tokenizer("Ann likes red.").input_ids[:3], tokenizer("The colour of").input_ids]
    weights = {name: (weight, weight.clone()) for name, weight in policy.named_parameters()}
    with torch.no_grad():
        inputs = tokenizer(["Ann likes red"], return_tensors="pt", return_token_type_ids=False)
        adapted = policy(**inputs).logits
        with merged_for_now(policy):
            assert torch.allclose(policy(**inputs).logits, adapted, atol=1e-5)
            assert any(weight is not policy.get_parameter(name) for name, (weight, _) in weights.items())
        with policy.disable_adapter():
            assert not torch.allclose(policy(**inputs).logits, adapted, atol=1e-4)
    for name, (weight, before) in weights.items():
        assert policy.get_parameter(name) is weight and torch.equal(weight, before), name
    sampled = []
    for merge in (True, False):
        torch.manual_seed(0)
        engine = GenerateEngine(policy, tokenizer, [tokenizer.eos_token_id], 12, 1.0, 2, merge)
        sampled.append(engine.sample(prompts))
    assert sampled[0] == sampled[1]
    assert torch.equal(policy(**inputs).logits, adapted)
