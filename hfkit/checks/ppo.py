"""PPO: the reward model's side, and batches that divide."""

from hfkit.checks.models import path_problems, tokenizer_of
from hfkit.config import PPOConfig
from hfkit.errors import Problem, reason


def ppo_problems(config: PPOConfig) -> list[Problem]:
    """The reward model's side: there, one label, and of the policy's tokenizer; batches that divide."""
    problems = []
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    if batch % config.num_mini_batches or config.gradient_accumulation_steps % config.num_mini_batches:
        remedy = "must divide gradient_accumulation_steps: an optimizer step is a whole number of forward passes"
        problems.append(Problem("num_mini_batches", config.num_mini_batches, remedy))
    if config.whiten_rewards and batch // config.num_mini_batches < 8:
        problems.append(Problem("whiten_rewards", True, "needs mini-batches of 8 replies or more"))
    if config.reward_model_path is None:
        return [*problems, Problem("reward_model_path", None, "missing: a model from `hfkit reward`")]
    wrong = path_problems("reward_model_path", config.reward_model_path)
    if wrong or config.model_name_or_path is None or path_problems("", config.model_name_or_path):
        return problems + wrong
    return problems + agreement_problems(config)


def agreement_problems(config: PPOConfig) -> list[Problem]:
    """Policy and reward model must read the same ids and the same template."""
    path = config.reward_model_path
    try:
        policy = tokenizer_of(config.model_name_or_path, config.model_revision, config.pad_token)
        reward = tokenizer_of(config.reward_model_path, config.reward_model_revision, config.pad_token)
    except Exception as error:  # whatever a library says of a folder's content
        return [
            Problem("reward_model_path", config.reward_model_path, f"its tokenizer cannot be read: {reason(error)}")
        ]
    path = config.reward_model_path
    if policy.get_vocab() != reward.get_vocab():
        remedy = f"its vocabulary ({len(reward)} tokens) is not the policy's ({len(policy)}): same tokenizer, please"
        return [Problem("reward_model_path", path, remedy)]
    if policy.chat_template != reward.chat_template:
        return [Problem("reward_model_path", path, "its chat template is not the policy's: train both with one")]
    return []
