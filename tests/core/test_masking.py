"""Secrets are masked in every text that is printed or stored; ordinary words, hashes and names stay."""

import io
import json
import logging
from urllib.parse import quote

import pytest
from quick import slow

from hfkit.core.console import CleanStream, printable, say, take_warnings, warn
from hfkit.core.errors import ConfigError, HfkitError, Kind, Problem, reason
from hfkit.core.masking import mask_secrets, without_secrets

HF = "hf_" + "aB3dE" * 7
HEX = "0123456789abcdef0123456789abcdef01234567"
BLOCK = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEow+/=\n-----END RSA PRIVATE KEY-----"
SECRETS = [
    (f"no access with {HF}.", "no access with hf_***."),
    (f"KeyError: '{HF}'", "KeyError: 'hf_***'"),
    (f"token: {HF}", "token: hf_***"),
    (f"pad_token: '{HF}'", "pad_token: 'hf_***'"),
    ("a sk-proj-abcDEF123456ghiJKL789mno", "a sk-***"),
    ("ghp_" + "a1" * 18, "ghp_***"),
    ("github_pat_" + "a1B" * 10, "github_pat_***"),
    ("AKIA" + "ABCD1234" * 2, "AKIA***"),
    ("xoxb-1234567890-abc", "xoxb-***"),
    ("Authorization: Bearer abc123def456", "Authorization: Bearer ***"),
    (f"before {BLOCK} after", "before -----BEGIN RSA PRIVATE KEY-----*** after"),
    ("https://user:pass1word@host/rows.jsonl", "https://user:***@host/rows.jsonl"),
    ("HF_TOKEN=swordfish", "HF_TOKEN=***"),
    (f"WANDB_API_KEY={HEX}", "WANDB_API_KEY=***"),
    (f"wandb_api_key: {HEX}", "wandb_api_key: ***"),
    ("{'hub_token': 'plain words'}", "{'hub_token': '***'}"),
    ('{"api_key": "plain"}', '{"api_key": "***"}'),
    ("unrecognized arguments: --hub_token plain", "unrecognized arguments: --hub_token ***"),
    ("password=hunter2", "password=***"),
    (f"--pad_token {HF}", "--pad_token hf_***"),
    ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic ***"),
    ('{"Authorization": "Basic dXNlcjpwYXNz"}', '{"Authorization": "Basic ***"}'),
    ("{'authorization': 'Bearer swordfish'}", "{'authorization': 'Bearer ***'}"),
    ("https://a1B2c3D4e5F6g7H8@host/x", "https://***@host/x"),
    ("https://host/x?Expires=1&X-Amz-Signature=ab12&Key=1", "https://host/x?Expires=1&X-Amz-Signature=***&Key=1"),
    ("https://host/x?sv=1&sig=ab12%3D", "https://host/x?sv=1&sig=***"),
    (r'"{\"api_key\": \"plain words\"}"', r'"{\"api_key\": \"***\"}"'),
    ("api_key: |\n  plain1\nseed: 1", "api_key: |\n  ***\nseed: 1"),
    ("hf_oauth_" + "aB3dE" * 7, "hf_***"),
    ("api_org_" + "aB3dE" * 7, "api_org_***"),
    ("npm_" + "a1B2" * 9, "npm_***"),
    ("pypi-AgEIcHlwaS5vcmc" + "aB3dE" * 14, "pypi-***"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozj-gNr", "eyJ***"),
]
HARMLESS = [
    *("pad_token: '<pad>' -> no such token", "hub_token: missing -> required", "max_new_tokens: 5", "eos_token='</s>'"),
    *("the special token: '<|im_end|>'", f"commit {HEX}", f"sha256: {'ab12' * 16}", "unknown key: 'stages'"),
    *(
        "/home/me/hf_models/llama-3.2-1b-instruct",
        "hf_internal_testing_models",
        "sk-learn-logistic-regression-v2",
        "sk-2024-05-06-checkpoint",
    ),
    *("http://localhost:8000/v1/chat@home", "user/name@main", "git@github.com:user/repo.git", "num_tokens=123456"),
    *("sorted(rows, key=len)", "hub_token=config.hub_token", "the bearer of this authentication", "stop_token: eos"),
    *("risk-adjusted-returns-of-portfolios", "Set hub_token: it needs write access", "primary key: id", "tokens: 12"),
    *("audio_token='<audio1>'", "token=<|im_end|>", "boi_token: '<start_of_image1>'", "ssh://git@host/user/repo"),
    *("https://host/a?rows=5&significant=3", "https://wandb.ai/me/p/runs/3k2j4h5x", "Basic rules apply to 2 rows"),
]


@pytest.mark.parametrize(("text", "shown"), SECRETS)
def test_a_secret_is_masked(text, shown):
    assert mask_secrets(text) == shown and mask_secrets(shown) == shown


@pytest.mark.parametrize("text", HARMLESS)
def test_a_harmless_text_stays(text):
    assert mask_secrets(text) == text and without_secrets({"note": [text]}) == {"note": [text]}


def test_the_secrets_of_the_environment_are_masked_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", HEX)
    monkeypatch.setenv("PRESSED_KEY", "return")
    assert mask_secrets(f"refused: {HEX} return") == "refused: *** return"


@pytest.mark.parametrize("value", ["wJalr/UtnFEMI/K7MDENG", "two 12\nlines 34", 'pa"ss\\word12', "p@ss/word 123"])
def test_a_secret_of_the_environment_is_masked_as_libraries_write_it(monkeypatch, value):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", value)
    monkeypatch.setenv("SSH_KEY", "/home/me/.ssh/id_ed25519")
    assert mask_secrets(f"refused: {value}, /home/me/.ssh/id_ed25519") == "refused: ***, /home/me/.ssh/id_ed25519"
    assert mask_secrets(f"{json.dumps(value)} {value!r}") in ("\"***\" '***'", '"***" "***"')
    assert mask_secrets(f"http://me@host/{quote(value, safe='')}") == "http://me@host/***"


def test_a_record_keeps_all_but_its_secrets():
    record = {
        "tokens": 5,
        "config": {"hub_token": "x", "paths": [f"https://a:{HF}@host"], "pad_token": "<pad>", "boi_token": "<image>"},
    }
    assert without_secrets(record) == {
        "tokens": 5,
        "config": {"hub_token": "***", "paths": ["https://a:***@host"], "pad_token": "<pad>", "boi_token": "<image>"},
    }


def test_errors_hold_no_secrets():
    typo = Problem("--hub_tokne", "swordfish", "unknown", Kind.UNKNOWN)
    assert str(ConfigError([typo], f"{HF}.yaml")) == "1 problem in hf_***.yaml:\n  --hub_tokne: '***' -> unknown"
    long = Problem("path", f"/{'x' * 10}/{HF}/{'y' * 60}", "no such file")
    assert "aB3" not in str(long) and "dE" not in str(long)
    assert (str(HfkitError(f"no {HF}")), reason(KeyError(HF))) == ("no hf_***", "KeyError: 'hf_***'")


def test_messages_are_clean(capsys):
    say(f"a {HF}\x1b]0;owned\x07")
    warn(f"b {HF}\u202e")
    out, err = capsys.readouterr()
    assert (out, err) == ("a hf_***\\x1b]0;owned\\x07\n", "warning: b hf_***\\u202e\n")
    assert take_warnings() == [r"b hf_***\u202e"]  # as the record of a run keeps it


def test_a_clean_stream_passes_colors_and_progress_bars_alone():
    stream = io.StringIO()
    clean = CleanStream(stream)
    drawn = "\r\x1b[2K\x1b[1A\x1b[?25l\x1b[1;32mgreen\x1b[0m né\u200d\n"
    assert clean.write(drawn) == len(drawn) and stream.getvalue() == drawn
    clean.write("\x1b[2J\x1b]52;c;Zg==\x07\x9b31m\x00")
    assert stream.getvalue() == drawn + r"\x1b[2J\x1b]52;c;Zg==\x07\x9b31m\x00"


def test_logs_of_libraries_and_tracebacks_are_masked():
    stream = io.StringIO()
    handler = logging.StreamHandler(CleanStream(stream))
    record = logging.LogRecord("huggingface_hub", logging.WARNING, "", 0, "refused %s", (HF,), None)
    try:
        raise KeyError(HF)
    except KeyError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    handler.emit(record)
    assert stream.getvalue().startswith("refused hf_***\n") and HF not in stream.getvalue()
    assert "KeyError: 'hf_***'" in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "hf_",
        slow("sk-"),
        slow("eyJa"),
        "eyJaaaaaaaaaaa.",
        slow("?sig="),
        slow("?a"),
        "\\\\",
        "key: |\n ",
        "://a",
        "://a:",
        "--token ",
        "token=",
        "-----BEGIN PRIVATE KEY-----",
        "a-key",
    ],
)
def test_masking_takes_linear_time(text):
    assert len(mask_secrets(text * (200_000 // len(text)))) > 0  # a quadratic pattern takes minutes


def test_printable_shows_escapes():
    assert printable("né\tà\n👩\u200d💻\u3000") == "né\tà\n👩\u200d💻\u3000"
    assert printable("a\x1b]0;b\x07c\rd\x9be\u202ef\x00\ud800") == r"a\x1b]0;b\x07c\rd\x9be\u202ef\x00\ud800"
