"""Commands on hostile inputs are watched: an ordinary one holds, in its folder, in a separate process."""


def test_an_ordinary_command_holds(attack):
    ran = attack("--version")
    assert ran.status == 0 and ran.output.startswith("hfkit ") and 0 < ran.peak_bytes


def test_a_command_runs_in_the_folder(attack, tmp_path):
    (tmp_path / "here.yaml").write_text("nothing: 1\n")
    assert attack("sft", "nowhere.yaml").output != attack("sft", "here.yaml").output
