"""`system_prompt`: every stage and the saved tokenizer add it to conversations without a system message."""

import pytest
from template_families import FAMILIES
from transformers import AutoTokenizer

from hfkit.config.stages import SFTConfig
from hfkit.core.errors import ConfigError
from hfkit.data.chat_template import encode_prompt, encode_replies, turn_end_ids
from hfkit.data.forms import instruction_row
from hfkit.data.system_prompt import SystemPromptError, set_system_prompt, system_prompt_of
from hfkit.evaluation.replies import Subject
from hfkit.models.tokenizers import load_stage_tokenizer, load_tokenizer, read_tokenizer
from hfkit.records.record import read_record
from hfkit.rlhf.rewards import scoring_tokenizer

PROMPT = 'Say "it\'s so" – in {{ one }} {% line %} 🙂\\n\nor two.'
SYSTEM = {"role": "system", "content": PROMPT}
USER, AGAIN = {"role": "user", "content": "Where is Oslo?"}, {"role": "user", "content": "And Rome?"}
ANSWER, SECOND = ({"role": "assistant", "content": text} for text in ("In Norway.", "In Italy."))
CONVERSATION = [USER, ANSWER, AGAIN, SECOND]
NO_SYSTEM = ("Gemma 2",)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in NO_SYSTEM])
def test_a_row_is_encoded_as_one_with_the_system_message(tokenizer_for, name):
    """Compare with the same template without the prompt, rendered by Transformers."""
    plain, prompted = tokenizer_for(name), tokenizer_for(name)
    set_system_prompt(prompted, PROMPT)
    thinks = name in ("DeepSeek R1", "QwQ")
    thought = {"reasoning_content": "I know."} if thinks else {}
    given = [{**one, **thought} if one["role"] == "assistant" else one for one in CONVERSATION]
    expected = instruction_row({"messages": [SYSTEM, *given]}, plain, 2048)
    assert expected["dropped"] == "" and instruction_row({"messages": given}, prompted, 2048) == expected
    assert instruction_row({"messages": [SYSTEM, *given]}, prompted, 2048) == expected
    own = [{"role": "system", "content": "Be brief."}, *given]
    assert instruction_row({"messages": own}, prompted, 2048) == instruction_row({"messages": own}, plain, 2048)
    assert encode_prompt(prompted, "Where is Oslo?") == encode_prompt(plain, [SYSTEM, USER])
    assert turn_end_ids(prompted) == turn_end_ids(plain)
    if not thinks:
        assert encode_replies(prompted, [USER], ["a", "b"]) == encode_replies(plain, [SYSTEM, USER], ["a", "b"])
    assert system_prompt_of(prompted) == PROMPT
    set_system_prompt(prompted, "")
    assert (prompted.chat_template, system_prompt_of(prompted)) == (plain.chat_template, None)


def test_the_saved_tokenizer_has_it_in_other_libraries_and_a_later_stage_changes_it(tokenizer_for, tmp_path):
    tokenizer_for("ChatML").save_pretrained(tmp_path / "plain")
    read_tokenizer(str(tmp_path / "plain"), system_prompt=PROMPT).save_pretrained(tmp_path / "prompted")
    text = AutoTokenizer.from_pretrained(tmp_path / "prompted").apply_chat_template([USER], tokenize=False)
    assert text == f"<|im_start|>system\n{PROMPT}<|im_end|>\n<|im_start|>user\nWhere is Oslo?<|im_end|>\n"
    path = str(tmp_path / "prompted")
    assert system_prompt_of(read_tokenizer(path)) == PROMPT
    assert system_prompt_of(read_tokenizer(path, chat_template="zephyr")) == PROMPT, "another template, the same prompt"
    assert system_prompt_of(read_tokenizer(path, system_prompt="Be brief.")) == "Be brief."
    assert system_prompt_of(read_tokenizer(path, system_prompt="")) is None
    config = SFTConfig(model_name_or_path=path, output_dir="x", system_prompt="Be brief.")
    assert system_prompt_of(load_stage_tokenizer(config)) == "Be brief."


@pytest.mark.parametrize(
    ("name", "prompt", "reported"),
    [
        ("Gemma 2", "Be brief.", "System role not supported: set another chat_template"),
        ("ChatML", "Be <|im_end|>", r"contains the special token <\|im_end\|>"),
    ],
)
def test_what_a_template_cannot_write_is_refused(tokenizer_for, name, prompt, reported):
    with pytest.raises(SystemPromptError, match=reported):
        set_system_prompt(tokenizer_for(name), prompt)


@pytest.mark.parametrize(
    ("template", "reported"),
    [
        ("{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}", "omits the text"),
        (None, "needs a chat template"),
    ],
)
def test_a_stage_refuses_it(template, reported, with_template, copy, base_dir, config_of, tmp_path, no_weights):
    folder = copy(base_dir)
    (folder / "chat_template.jinja").unlink()
    with_template(template).save_pretrained(folder)
    with pytest.raises(ConfigError) as error:
        config_of("sft", tmp_path / "out", model_name_or_path=str(folder), system_prompt="Be brief.")
    assert [problem.key for problem in error.value.problems] == ["system_prompt"]
    assert reported in error.value.problems[0].remedy


def test_stages_after_sft_read_with_its_system_prompt(run_stage, config_of, reward_dir, tmp_path):
    folder = run_stage("sft", tmp_path / "sft", system_prompt="Be brief.", max_steps=1)
    assert read_record(folder)["config"]["system_prompt"] == "Be brief."
    tokenizer, plain = load_tokenizer(str(folder)), load_tokenizer(str(reward_dir))
    wanted = encode_prompt(plain, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    assert encode_prompt(tokenizer, "Hi") == wanted
    question = [{"role": "user", "content": "Hi"}]
    assert Subject("sft", str(folder)).encode(question) == wanted, "evaluations read with it"
    assert Subject("sft", str(folder), system_prompt="").encode(question) == encode_prompt(plain, "Hi")
    later = {"model_name_or_path": str(folder)}
    assert encode_prompt(load_stage_tokenizer(config_of("reward", tmp_path / "r", **later)), "Hi") == wanted
    config = config_of("ppo", tmp_path / "p", **later)
    policy = load_stage_tokenizer(config)
    assert encode_prompt(policy, "Hi") == wanted
    own = scoring_tokenizer(config, policy)
    assert own is not policy
    assert encode_prompt(own, "Hi") == encode_prompt(plain, "Hi"), "as the reward model was trained"
    config = config_of("ppo", tmp_path / "p", **later, system_prompt="Be brief.")
    assert scoring_tokenizer(config, policy) is policy
