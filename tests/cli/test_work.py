import json

import pytest


def test_run_prints_verdicts_and_where_the_report_is(command, tmp_path):
    answer = command("run", "toy_paper", "--backend", "inline", check=0)
    assert "HOLDS better" in answer.stdout
    assert "report: runs/toy_paper/report.html" in answer.stdout
    assert (tmp_path / "runs" / "toy_paper" / "report.html").exists()
    assert answer.stderr.count("done ") == 10


def test_a_second_run_has_nothing_left_to_do(command):
    command("run", "toy_paper", "--scale", "smoke", "--backend", "inline", check=0)
    again = command("run", "toy_paper", "--scale", "smoke", "--backend", "inline", check=0)
    assert "4 trials, 4 finished already" in again.stderr
    assert "done " not in again.stderr


def test_config_fields_are_flags(command):
    answer = command("run", "toy_paper", "--backend", "inline", "--effect", "-0.3", "--json", check=0)
    verdict = json.loads(answer.stdout)["verdicts"][0]
    assert verdict["state"] == "does not hold"
    assert verdict["findings"][0]["estimate"] == pytest.approx(-0.3, abs=0.02)


def test_check_tells_by_the_exit_status_that_a_claim_does_not_hold(command):
    refuted = command("run", "toy_paper", "--backend", "inline", "--effect", "-0.3", "--check")
    assert refuted.returncode == 3
    command("run", "toy_paper", "--backend", "inline", "--check", check=0)


def test_a_failed_trial_gives_status_1_and_the_others_their_rows(command):
    answer = command("run", "toy_paper", "--backend", "inline", "--scale", "smoke", "--arms", "a", "raises", "b")
    assert answer.returncode == 1
    assert "RuntimeError: this arm always raises" in answer.stdout
    assert "INDICATIVE better" in answer.stdout


def test_report_is_written_again_from_what_is_stored(command, tmp_path):
    command("run", "toy_paper", "--backend", "inline", "--effect", "0.2", check=0)
    report = tmp_path / "runs" / "toy_paper" / "report.html"
    report.unlink()
    assert "HOLDS better" in command("report", "toy_paper", check=0).stdout
    assert report.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "toy"], "did you mean toy_paper"),
        (["run", "toy_paper", "--scale", "huge"], "scale: expected one of smoke, laptop"),
        (["run", "toy_paper", "--seeds", "0"], "seeds: expected at least 1"),
        (["run", "toy_paper", "--backend", "slurm"], "backend: expected one of"),
        (["run", "toy_paper", "--columns", "text"], "--columns: expected role=name"),
        (["run", "toy_paper", "--jobs", "0"], "jobs: expected at least 1"),
        (["apply", "toy_paper"], "is parts to import"),
        (["bench", "toy_paper"], "has no benchmark"),
        (["report", "toy_paper"], "holds no run of toy_paper"),
        (["data", "verify", "nothing"], "unknown data set"),
    ],
)
def test_wrong_usage_is_one_clear_line_and_status_2(command, arguments, message):
    answer = command(*arguments)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("arguments", [["frobnicate"], ["list", "--nonsense"], ["run", "toy_paper", "--nonsense", "1"]])
def test_unknown_arguments_are_refused(command, arguments):
    assert command(*arguments).returncode == 2


def test_help_of_a_study_lists_its_settings(command):
    shown = command("run", "toy_paper", "--help", check=0).stdout
    assert "--scale" in shown
    assert "How much better b is." in shown


def test_doctor_says_what_is_there(command):
    rows = {row["what"]: row for row in json.loads(command("doctor", "--json", check=0).stdout)}
    assert rows["core"]["state"] == "complete"
    assert "torch" in rows


def test_data_list_and_where(command):
    listed = command("data", "list", check=0).stdout
    assert "nlu_irt" in listed
    absent = command("data", "where", "sst2", env={"PAPERWORKS_DATA": ".", "XDG_CACHE_HOME": "."}, check=0).stdout
    assert absent.splitlines()[0].split("\t")[2:] == ["absent", "missing"]
