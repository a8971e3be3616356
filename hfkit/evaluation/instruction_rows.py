"""Turns prompts with responses into rows for SFT; imports no heavy library, so that `hfkit label` starts fast."""

from hfkit.data.messages import Messages, as_messages


def instruction_rows(answers: list[tuple[str | Messages, str, dict]]) -> list[dict]:
    """Return prompts with a response as rows for SFT, all of one form: messages if a prompt is a conversation.

    Args:
        answers: prompt, response and further columns of each row.
    """
    if all(isinstance(prompt, str) for prompt, _, _ in answers):
        return [{"prompt": prompt, "response": text, **options} for prompt, text, options in answers]
    return [
        {"messages": [*as_messages(prompt), {"role": "assistant", "content": text}], **options}
        for prompt, text, options in answers
    ]
