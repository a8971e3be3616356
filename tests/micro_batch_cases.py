"""Rows of very different lengths for each trainer that computes micro-batches, and a few steps on them."""

WORDS = "red ball big tree small house old bird".split()
INSTRUCTIONS = [
    {"prompt": f"say {row} {WORDS[row % 8]}", "response": " ".join(WORDS[at % 8] for at in range(row % 13 + 1))}
    for row in range(48)
]
PAIRS = [
    {"prompt": row["prompt"], "chosen": row["response"], "rejected": "no " * (index % 5 + 1)}
    for index, row in enumerate(INSTRUCTIONS)
]
RANKINGS = [
    {
        "prompt": row["prompt"],
        "replies": [row["response"], "no", "well " * (index % 7 + 1)][: 2 + index % 2],
        "scores": [3.0, 1.0, 2.0][: 2 + index % 2],
    }
    for index, row in enumerate(INSTRUCTIONS)
]
CASES = {
    "sft": ("sft", INSTRUCTIONS, {}),
    "smoothed": ("sft", INSTRUCTIONS, {"label_smoothing_factor": 0.3}),
    "pairs": ("reward", PAIRS, {"center_rewards_coefficient": 0.01}),
    "rankings": ("reward", RANKINGS, {"score_margin": 0.1}),
    "dpo": ("dpo", PAIRS, {"eval_prompts": 0}),
}
STEPS = {
    "max_steps": 5,
    "lora_dropout": 0.0,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "test_split_size": None,
    "max_length": 128,
}
