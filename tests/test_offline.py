"""The whole suite runs without a network: `no_network` in conftest.py is on for all of it."""

import json
import socket

import pytest


def test_the_network_is_blocked_in_tests():
    with pytest.raises(AssertionError, match="went to the network"), socket.socket() as end:
        end.connect(("127.0.0.1", 9))
    with pytest.raises(AssertionError, match="looked up a host"):
        socket.create_connection(("huggingface.co", 443))


def test_pain_35_every_stage_passes_with_sockets_blocked(tokenizer_dir, base_dir, sft_dir, reward_dir, ppo_dir):
    for folder in (tokenizer_dir, base_dir, sft_dir, reward_dir, ppo_dir):
        assert json.loads((folder / "hfkit.json").read_text())["status"] == "done"
