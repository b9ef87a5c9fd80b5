"""The documentation says what is stored, and nothing else."""

import importlib
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="the docs extra is not installed")

from paperworks.catalog import cards, read_card
from paperworks.lab.record import record
from paperworks.lab.words import number

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"commit": "abc123", "paperworks": "0.1.0", "python": "3.11", "cpu": "a processor"}
BENCH = {
    "command": "paperworks bench fake",
    "date": "2026-01-02",
    "threads": 2,
    "environment": ENVIRONMENT,
    "rows": [
        {"workload": "big", "peer": "p", "status": "measured", "ours_ms": 4.0, "peer_ms": 7.0, "ratio": 1.75,
         "ratio_low": 1.7, "ratio_high": 1.8, "target": 1.5, "note": ""},
        {"workload": "small", "peer": "p", "status": "measured", "ours_ms": 4.0, "peer_ms": 5.0, "ratio": 1.25,
         "ratio_low": 1.2, "ratio_high": 1.3, "target": 1.5, "note": ""},
        {"workload": "small", "peer": "q", "status": "outputs differ", "ratio": None, "target": 1.5, "note": "by 2"},
    ],
    "growth": [{"name": "fft", "sizes": [8, 16], "ms": [1.0, 2.1], "exponent": 1.07, "error": 0.02, "limit": 1.0}],
}  # fmt: skip


@pytest.fixture(scope="module")
def modules():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs" / "_ext"))
        patch.syspath_prepend(str(ROOT / "tests" / "lab" / "fake"))
        patch.setattr("paperworks.lab.trials.environment", lambda: ENVIRONMENT)
        patch.setattr("paperworks.lab.record.environment", lambda: ENVIRONMENT)
        yield {name: importlib.import_module(name) for name in ("papers", "paper_page", "docstrings", "fake_room")}


@pytest.fixture
def room(modules, tmp_path):
    """The fake paper with a stored run and a stored benchmark."""
    run = modules["fake_room"].make_run(tmp_path)
    path = record(run)
    (path.parent / "bench.json").write_text(json.dumps(BENCH))
    return run.card


class Tables(HTMLParser):
    """The tables of a page, as lists of rows of text."""

    def __init__(self, text):
        super().__init__()
        self.found, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.found.append([])
        elif tag == "tr":
            self.found[-1].append([])
        elif tag in ("td", "th"):
            self.found[-1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, text):
        if self.inside:
            self.found[-1][-1][-1] += text


def part(text, start, end):
    """What lies between two marks."""
    return text[text.index(start) :].split(end, 1)[0]


def says_what_is_stored(text, run):
    text = part(text, f"### At {run['scale']} scale", "\n##")
    tables = Tables(text).found
    for stored in filter(None, [run["budget"], *run["tables"].values()]):
        shown = [stored["columns"], *([number(value) for value in row] for row in stored["rows"])]
        assert shown in tables
    for verdict in run["verdicts"]:
        card = part(
            text, f'<span class="pw-state">{verdict["state"]}</span><span class="pw-id">{verdict["id"]}<', "</a"
        )
        for finding in (*verdict["findings"], *verdict["shown"]):
            assert f"<b>{number(finding['estimate'])}</b>" in card
            if finding["low"] is not None:
                assert f"[{number(finding['low'])} to {number(finding['high'])}]" in card
    facts = (run["command"], run["commit"], run["date"], run["data"]["fingerprint"], *run["environment"].values())
    for fact in (*facts, ", ".join(map(str, run["seeds"]))):
        assert fact in text


def test_a_page_shows_every_stored_number(modules, room):
    says_what_is_stored(modules["paper_page"].page(room), room.recorded()["laptop"])


def test_the_papers_pages_show_every_stored_number(modules):
    for card in modules["papers"].own_cards():
        text = modules["paper_page"].page(card)
        for run in card.recorded().values():
            if run["scale"] in modules["paper_page"].SCALES:
                says_what_is_stored(text, run)


def test_a_page_has_the_three_doors_in_their_order(modules, room):
    text = modules["paper_page"].page(room)
    doors = [text.index(f"\n## {title}\n") for title in ("Use it", "Does it hold?", "How fast is it?", "Cite")]
    assert doors == sorted(doors)
    assert "虚构的论文" in text
    assert text.index("does-not-hold") < text.index('pw-card holds"')


@pytest.mark.parametrize(
    "tamper",
    [
        lambda run: run["verdicts"][0]["findings"][0].update(estimate=0.7777),
        lambda run: run["verdicts"][0].update(state="does not hold"),
        lambda run: run["budget"]["rows"][0].__setitem__(1, 4711),
        lambda run: run["tables"]["arms"]["rows"][0].__setitem__(1, 0.7777),
        lambda run: run["data"].update(fingerprint="0000"),
        lambda run: run["environment"].update(cpu="another"),
        lambda run: run["seeds"].__setitem__(0, 99),
    ],
)
def test_whatever_is_changed_in_a_stored_result_changes_the_page(modules, room, tamper):
    path = room.folder / "recorded" / "run-laptop.json"
    honest, tampered = json.loads(path.read_text()), json.loads(path.read_text())
    tamper(tampered)
    path.write_text(json.dumps(tampered))
    text = modules["paper_page"].page(room)
    says_what_is_stored(text, tampered)
    # The honest result is no longer to be found (a missing mark is a ValueError).
    with pytest.raises((AssertionError, ValueError)):
        says_what_is_stored(text, honest)


def test_without_a_stored_run_the_page_says_so_and_names_the_claims(modules, tmp_path):
    text = modules["paper_page"].page(modules["fake_room"].make_room(tmp_path))
    assert "No run is stored yet" in text
    assert "The claims in our best stored run: no stored run" in text
    assert "Arm b beats arm a by at least 0.2" in text


def test_the_third_door_shows_the_job_and_the_study(modules, tmp_path, monkeypatch):
    room = modules["fake_room"].make_room(tmp_path).folder
    (room / "__init__.py").write_text(
        '"""A room."""\n__all__ = ["thing"]\n\ndef thing(x: int = 1):\n    """Do *it*."""\n'
    )
    (room / "study.py").write_text('"""What is compared with what."""\n')
    (room / "apply.py").write_text(
        '"""A job."""\n\ndef apply(answers: str, *, out: str = "fit"):\n    """Fit answers."""\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    text = modules["paper_page"].page(read_card(room, module="fake"))
    doors = [text.index(f"\n## {title}\n") for title in ("Use it", "Does it hold?", "On my data", "Reference", "Cite")]
    assert doors == sorted(doors)
    assert "What is compared with what." in part(text, "## Does it hold?", "## On my data")
    job = part(text, "## On my data", "## Reference")
    assert "$ paperworks apply fake --help" in job
    assert "{py:function} fake.apply.apply(answers: str, *, out: str = 'fit')" in job
    assert "$ paperworks run fake --data FILE" in job
    assert "{py:function} fake.thing(x: int = 1)\n\nDo \\*it\\*." in part(text, "## Reference", "## Cite")


def test_the_speed_table_names_promises_that_are_not_kept(modules, room):
    tables = Tables(modules["paper_page"].page(room)).found
    speed = next(table for table in tables if table[0][0] == "workload")
    assert [row[2] for row in speed[1:]] == ["1.75 [1.70 to 1.80]", "1.25 [1.20 to 1.30]", "outputs differ"]
    assert [row[5] for row in speed[1:]] == ["1.5, kept", "1.5, NOT kept", "1.5"]
    growth = next(table for table in tables if table[0][0] == "what" and "exponent" in table[0])
    assert growth[1] == ["fft", "8 to 16", "1.07 ± 0.02", "at most 1, NOT kept"]


def test_a_benchmark_row_with_other_fields_loses_none(modules):
    table = modules["paper_page"].bench_table([{"workload": "w", "contender": "c", "ms": 2.0, "peak_bytes": 7}])
    assert table["rows"][0][1] == "c"
    assert table["rows"][0][4] == 2.0
    assert table["rows"][0][table["columns"].index("peak_bytes")] == 7


def test_the_catalogue_shows_every_paper_with_its_state(modules, room):
    text = modules["papers"].catalogue([room])
    assert "| [A \\<Fake\\> Paper & its Claims](fake.md)<br>虚构的论文 | learning | 1 holds, 1 does not hold" in text
    everything = modules["papers"].catalogue(cards())
    assert all(f"]({card.slug}.md)" in everything for card in cards())


def test_generated_files_are_written_once_and_old_ones_go(modules, room, tmp_path, monkeypatch):
    monkeypatch.setattr(modules["papers"], "shared", lambda: "")
    folder = tmp_path / "papers"
    modules["papers"].write_all(folder, [room])
    (folder / "gone.md").write_text("a paper that is no longer here")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    modules["papers"].write_all(folder, [room])
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert set(before) - set(after) == {folder / "gone.md"}
    assert all(before[path] == time for path, time in after.items())
    assert (folder / "figures" / "fake-run-laptop-accuracy.svg").read_text().startswith("<svg")


def test_the_readme_shows_the_stored_results():
    answer = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "readme_table.py"), "--check"], capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0, answer.stderr


# Docstrings ----------------------------------------------------------------------------------------------------------


def test_marks_in_prose_mean_themselves(modules):
    prose = modules["docstrings"].prose
    assert prose("a * b * c, x_1_y, |z|, Y[n] and <mix(x), y> in `a * b`") == (
        "a \\* b \\* c, x\\_1\\_y, \\|z\\|, Y\\[n\\] and \\<mix(x), y\\> in `a * b`"
    )
    assert prose("- an item of *a* list") == "- an item of \\*a\\* list"
    assert prose("-----") == "\\-----"


def test_sections_equations_and_examples_of_a_docstring(modules):
    text = """Do it.

    y = 2 * x

Args:
    x: a number that
        goes on.
    mode: what to do.
        "a": nothing.

Raises:
    ValueError, KeyError: never.

>>> 1 * 2
2
"""
    lines = [line for line in modules["docstrings"].markdown(text).splitlines() if line]
    assert lines == [
        "Do it.",
        *("```text", "y = 2 * x", "```"),
        *("**Arguments**", "- `x`: a number that", "  goes on.", "- `mode`: what to do.", '  - "a": nothing.'),
        *("**Raises**", "- `ValueError`, `KeyError`: never."),
        *("```pycon", ">>> 1 * 2", "2", "```"),
    ]


def test_signatures_read_as_they_were_written(modules):
    def function(x: "Tensor", *, mask: "Tensor | None" = None, mode: str = "a", key=object(), kind=int) -> "Tensor": ...  # noqa: B008, F821

    assert modules["docstrings"].signature(function) == (
        "(x: Tensor, *, mask: Tensor | None = None, mode: str = 'a', key=..., kind=int) -> Tensor"
    )


# The whole ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert answer.returncode == 0, answer.stderr
    for card in cards():
        assert (tmp_path / "papers" / f"{card.slug}.html").exists()
    outside = [page.name for page in tmp_path.rglob("*.html") if 'src="http' in page.read_text()]
    assert not outside
