"""What is said in tests of rows: a question, its answer, and what may stand in their place."""

PROMPT, REPLY = "What does Ann like?", "Ann likes red."
TURN = {"role": "user", "content": PROMPT}
ANSWER = {"role": "assistant", "content": REPLY}
OTHER = {"role": "user", "content": "Who?"}
EMPTY = {"role": "assistant", "content": ""}
LONG = "red and blue and green and pink " * 20
