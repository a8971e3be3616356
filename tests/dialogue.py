"""Messages for tests of rows: a question, a response, and variants of them."""

PROMPT, REPLY = "What does Ann like?", "Ann likes red."
TURN = {"role": "user", "content": PROMPT}
ANSWER = {"role": "assistant", "content": REPLY}
OTHER = {"role": "user", "content": "Who?"}
EMPTY = {"role": "assistant", "content": ""}
LONG = "red and blue and green and pink " * 20
