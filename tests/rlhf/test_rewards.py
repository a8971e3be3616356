"""What PPO rewards: functions, a reward model, both; errors name them."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from quick import slow
from reward_functions import careless

from hfkit.core.errors import HfkitError
from hfkit.models.reward_model import load_reward
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record
from hfkit.rlhf.controllers import KLController, RewardNormalizer
from hfkit.rlhf.reward_functions import import_reward_function, validate_scores
from hfkit.rlhf.rewards import Scorer, initial_normalizer, shape_scores
from hfkit.rlhf.roles import load_roles

HERE = "reward_functions"
LENGTH, NAMES = f"{HERE}:length", f"{HERE}:names"


def updates(folder) -> list[dict]:
    return [row for row in read_metrics(folder) if "objective/kl" in row]


def test_pain_19_a_function_alone_trains_without_a_reward_model(run_stage, tmp_path, capsys):
    changes = {"reward_model_path": None, "reward_functions": [LENGTH], "test_split_size": 2}
    folder = run_stage("ppo", tmp_path / "out", **changes)
    record = read_record(folder)
    assert [parent["role"] for parent in record["lineage"]] == ["start"]
    assert {row["objective/scores"] > 0 for row in updates(folder)} == {True}
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [sample["reward_after"] for sample in samples] == [len(sample["after"]) for sample in samples]
    printed = capsys.readouterr().out
    for sample in samples:  # the file has the text that the model reads, the terminal the question
        assert sample["prompt"].startswith("<|user|>") and sample["prompt"] not in printed
        assert f"  {sample['messages'][-1]['content']!r}\n    before: " in printed
    assert "<|user|>" not in printed


@pytest.mark.slow
def test_a_reward_that_tells_no_response_from_another_is_reported(run_stage, tmp_path):
    changes = {"reward_model_path": None, "reward_functions": [f"{HERE}:constant"], "total_episodes": 40}
    folder = run_stage("ppo", tmp_path / "out", **changes, num_ppo_epochs=1, num_mini_batches=1)
    assert {row["objective/scores_std"] for row in updates(folder)} == {0.0}
    assert sum("the same reward in the last 10 updates" in line for line in read_record(folder)["warnings"]) == 1


@pytest.mark.parametrize("use_peft", [True, False])
def test_a_value_model_without_a_reward_model_begins_at_0(config_of, tmp_path, use_peft):
    config = config_of("ppo", tmp_path, reward_model_path=None, reward_functions=[LENGTH], use_peft=use_peft)
    roles = load_roles(config)
    assert roles.reward is None
    ids = torch.tensor([[5, 6, 7]])
    assert float(roles.value(input_ids=ids, attention_mask=torch.ones_like(ids)).logits) == 0.0
    head = next(p for n, p in roles.value.named_parameters() if "score" in n and p.requires_grad)
    assert head.shape[0] == 1


def test_model_and_functions_are_weighted_and_get_the_columns(run_stage, tmp_path, rows_file):
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


def test_a_column_that_the_data_lacks_is_reported_before_any_model_is_loaded(run_stage, tmp_path):
    with pytest.raises(HfkitError, match="has no column 'answer' \\(for reward_columns\\); it has \\['prompt'\\]"):
        run_stage("ppo", tmp_path / "out", reward_functions=[LENGTH], reward_columns=["answer"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0], "returned 1 numbers for 2 responses"),
        ([1.0, 2.0, 3.0], "returned 3 numbers for 2 responses"),
        ([1.0, math.nan], "not a finite number"),
        ([1.0, 1e300], "not a finite number"),
        (["1.0", "2.0"], "not a number for each response"),
        ("12", "not a number for each response"),
        ([None, 1.0], "not a number for each response"),
        (None, "not a number for each response"),
        (1.0, "not a number for each response"),
        (torch.ones(2, 2), "not a number for each response"),
        ([10**400, 1], "not a number for each response"),
    ],
    ids=repr,
)
def test_scores_must_be_one_finite_number_per_response(scores, message):
    with pytest.raises(HfkitError, match=f"reward function mine:f returned .*{message}|mine:f .*{message}"):
        validate_scores("mine:f", scores, 2)


@pytest.mark.parametrize("scores", [[1, 0], (True, False), np.array([1.0, 0.0]), torch.tensor([1.0, 0.0])], ids=repr)
def test_lists_arrays_and_tensors_are_taken(scores):
    assert validate_scores("mine:f", scores, 2).tolist() == [1.0, 0.0]


def test_a_function_that_raises_is_named(tokenizer):
    scorer = Scorer(tokenizer, functions={"mine:careless": careless})
    with pytest.raises(HfkitError, match="reward function mine:careless raised KeyError: 'colour'"):
        scorer([[5]], [[6]], [{"prompt": "x", "input_ids": [5], "answer": "y"}])


def test_a_function_of_the_working_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_rewards_here.py").write_text("def one(prompts, replies):\n    return [1.0] * len(replies)\n")
    monkeypatch.chdir(tmp_path)
    assert import_reward_function("my_rewards_here:one")([1], [2]) == [1.0]


def test_a_reward_model_computes_as_many_tokens_at_once_as_a_micro_batch(reward_dir):
    reward, passes = load_reward(str(reward_dir)), []
    prompts, replies = [[5 + index] * (1 + index % 4) for index in range(12)], [[9, 10]] * 12
    rows = [{"prompt": "", "input_ids": prompt} for prompt in prompts]
    hook = reward.model.get_input_embeddings().register_forward_pre_hook(lambda _, args: passes.append(args[0].shape))
    by_rows, by_tokens = (
        Scorer(reward.tokenizer, reward, batch_size=2, max_tokens=tokens)(prompts, replies, rows)["total"]
        for tokens in (None, 12 * 6)
    )
    hook.remove()
    torch.testing.assert_close(by_rows, by_tokens)
    assert passes[-1][0] == 12 and max(rows for rows, _ in passes[:-1]) < 12


# A reward model with its own tokenizer


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


@pytest.mark.parametrize("what", ["vocabulary", slow("template")])
def test_it_scores_the_text_rendered_for_it(run_stage, tmp_path, stranger, capsys, what):
    folder = run_stage("ppo", tmp_path / "out", reward_model_path=str(stranger(what)), test_split_size=4)
    assert "responses are rendered with it to be scored" in capsys.readouterr().out
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
    for index, batch in enumerate(batches):
        normalizer.update(torch.tensor(batch))
        so_far = np.concatenate(batches[: index + 1])
        assert (normalizer.mean, normalizer.std) == pytest.approx((so_far.mean(), so_far.std()), abs=1e-9)
    assert normalizer(torch.tensor([so_far.mean(), so_far.mean() + so_far.std()])).tolist() == pytest.approx(
        [0, 1], abs=1e-6
    )


@pytest.mark.parametrize("weights", [None, [-0.5]])
def test_a_normalizer_begins_with_what_the_reward_stage_measured(config_of, reward_dir, tmp_path, weights):
    config = config_of("ppo", tmp_path / "out", normalize_rewards=True, reward_weights=weights)
    known, weight = read_record(reward_dir)["metrics"], weights[0] if weights else 1.0
    normalizer = initial_normalizer(config)
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
    assert shape_scores(scores, ended, normalizer, 3.0, 0.5).tolist() == [3.0, 0.0, -3.0, -0.25]
    assert shape_scores(scores, ended, None, None, None).tolist() == scores.tolist()


def test_kl_coef_follows_its_target():
    """Ziegler et al. 2019, section 2.2."""
    controller = KLController(0.2, target=6.0, horizon=1000)
    for kl, factor in ((6.0, 1.0), (6.6, 1 + 0.1 * 64 / 1000), (60.0, 1 + 0.2 * 64 / 1000), (0.0, 1 - 0.2 * 64 / 1000)):
        before = controller.coef
        controller.update(kl, 64)
        assert controller.coef == pytest.approx(before * factor)


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        slow({}, False),
        ({"kl_target": 1.0, "total_episodes": 4, "num_ppo_epochs": 1}, True),
        slow({"kl_target": 1.0, "kl_horizon": 4, "total_episodes": 16}, False),
    ],
    ids=["no target", "too slow", "quick enough"],
)
def test_a_kl_coef_that_moves_too_slowly_for_its_target_is_warned_of(run_stage, tmp_path, capsys, changes, reported):
    run_stage("ppo", tmp_path / "out", **changes)
    assert ("kl_coef can change at most by" in capsys.readouterr().err) == reported
