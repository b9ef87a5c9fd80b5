"""The report: complete, self-contained, the same for the same trials, and honest about what failed."""

import importlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from paperworks.lab import facts
from paperworks.lab.drawing import interval_bar, svg
from paperworks.lab.report import jinja, refutations_first, table, tally, write_report
from paperworks.lab.words import number, p_words

VOID = {"meta", "link", "br", "path", "rect", "line", "circle", "use", "image", "polygon"}


@pytest.fixture(scope="module")
def fake():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent / "fake"))
        yield importlib.import_module("fake_room")


@pytest.fixture(scope="module")
def finished(fake, tmp_path_factory):
    """A run to look at; tests do not change it."""
    return fake.make_run(tmp_path_factory.mktemp("finished"))


class Page(HTMLParser):
    """Tags that do not match, ids, links to the outside, and the text of every card."""

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong, self.ids, self.sources = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.sources += [given[name] for name in ("src", "href", "xlink:href") if given.get(name) and tag != "a"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def cards(text):
    return re.findall(r'<article class="pw-card ([\w-]+)".*?</article>', text, flags=re.DOTALL)


def card(text, identity):
    return re.search(rf'<article [^>]*id="claim-{identity}".*?</article>', text, flags=re.DOTALL).group()


def test_verdicts_come_first_and_refutations_before_all(finished):
    text = finished.report.read_text()
    assert cards(text) == ["does-not-hold", "holds", "inconclusive", "not-tested"]
    assert "4 claims: 1 does not hold, 1 holds, 1 inconclusive, 1 not tested" in text
    assert text.index("<article") < text.index("Budget of each arm") < text.index("<h2>Figures")


def test_a_card_says_all_that_is_known_of_a_claim(finished):
    text = card(finished.report.read_text(), "both")
    verdict = next(verdict for verdict in finished.verdicts if verdict.id == "both")
    for finding in (*verdict.findings, *verdict.shown):
        interval = finding.interval
        assert f"<b>{interval.estimate:.4g}</b> [{interval.low:.4g} to {interval.high:.4g}]" in text
    for words in ("inconclusive", "post hoc", "6 seeds", "faster by a factor of 1.3", "abstract", "1.8 times"):
        assert words in text
    for words in ("holds from 1.3", "refuted below 1.1", "Beside it, deciding nothing", verdict.reason):
        assert words in text


def test_a_claim_without_words_shows_its_id_and_why_it_is_not_tested(finished):
    text = card(finished.report.read_text(), "without_words")
    assert '<span class="pw-id">without_words</span>' in text
    assert "no words for this claim" in text
    assert "no trial of arm=c measured" in text


def test_the_page_is_whole_escaped_and_needs_no_network(finished):
    text = finished.report.read_text()
    page = Page(text)
    assert not page.wrong
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    assert all(source.startswith(("#", "data:")) for source in page.sources)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "A &lt;Fake&gt; Paper &amp; its Claims" in text
    assert "url(http" not in text
    assert "@import" not in text
    # Every reference inside a figure meets an id of the page.
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)


def test_the_same_trials_give_the_same_page_except_for_measured_times(fake, tmp_path):
    def without_times(run):
        return re.sub(r'<(td|span) class="[^"]*\btime"[^>]*>.*?</\1>', "", run.report.read_text())

    first, again = fake.make_run(tmp_path / "one"), fake.make_run(tmp_path / "two")
    assert first.report.read_text() != again.report.read_text()
    assert without_times(first) == without_times(again)
    kept = first.report.read_bytes()
    write_report(first, first.report)
    assert first.report.read_bytes() == kept


def test_failed_trials_are_told_with_their_traceback(fake, tmp_path):
    run = fake.make_run(tmp_path, seeds=2, config=fake.Config(arms=("a", "b", "raises")))
    text = run.report.read_text()
    assert "2 trials have failed" in text
    assert "arm=raises, seed=11: RuntimeError: this arm &lt;always&gt; raises" in text
    assert "Traceback (most recent call last)" in text
    assert "4 of 6 trials" in text


def test_a_run_without_any_trial_has_a_report_that_says_so(fake, tmp_path):
    text = fake.make_run(tmp_path, seeds=1, config=fake.Config(arms=("raises",))).report.read_text()
    assert "No claim is judged yet" in text
    assert "1 trial has failed" in text


def test_pilot_seeds_smoke_scale_and_few_seeds_are_named(fake, tmp_path):
    text = fake.make_run(tmp_path, seeds=3, first_seed=0, scale="smoke").report.read_text()
    assert "Seeds below 10 are pilots" in text
    assert "no evidence about the claims" in text
    assert "leaning: does not hold" in card(text, "much_better")
    assert cards(text)[0] == "indicative"
    assert text.index('id="claim-much_better"') < text.index('id="claim-better"')


def test_the_trials_are_listed_with_point_seed_rounded_values_and_seconds(fake, tmp_path):
    run = fake.make_run(tmp_path, seeds=2)
    text = run.report.read_text()
    trials = text[text.index("All 4 finished trials") : text.index("<h2>Data")]
    assert re.findall(r"<th[^>]*>(\w+)</th>", trials) == ["arm", "seed", "accuracy", "speed", "seconds"]
    row = run.frame.iloc[0]
    expected = ["a", "10", f"{row.accuracy:.4g}", f"{row.speed:.4g}", f"{row.seconds:.4g}"]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", trials)[:5] == expected


def test_no_part_of_a_report_is_seen_when_writing_it_fails(fake, tmp_path, monkeypatch):
    run = fake.make_run(tmp_path, seeds=2)
    before = run.report.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(run, run.report)
    assert run.report.read_bytes() == before
    assert not list(run.report.parent.glob(".report*"))


def test_the_command_repeats_the_run(fake, tmp_path):
    changed = fake.Config(arms=("b", "a"), careful=False, effect=0.2)
    run = fake.make_run(tmp_path, seeds=2, first_seed=20, config=changed)
    assert facts.command(run) == (
        "paperworks run fake --scale laptop --seeds 2 --first-seed 20 --arms b a --effect 0.2 --no-careful"
    )
    tyro = pytest.importorskip("tyro")
    flags = facts.command(run).split()[9:]
    assert tyro.cli(fake.Config, default=fake.Config(), args=flags) == changed


# Drawings ------------------------------------------------------------------------------------------------------------


def finding(**changes):
    base = {"name": "x", "estimate": 1.0, "low": 0.8, "high": 1.2, "at_least": 0.5, "refuting": 0.5}
    return base | {"count": 5, "unit": "seeds", "method": "t"} | changes


def centres(drawn):
    number = r"([-\d.]+)%"
    low, high = re.search(rf'class="interval" x1="{number}" x2="{number}" y1="24"', drawn).groups()
    margin = re.search(rf'class="margin" x1="{number}"', drawn).group(1)
    return float(low), float(re.search(rf'cx="{number}"', drawn).group(1)), float(high), float(margin)


def test_the_bar_is_drawn_to_scale():
    low, estimate, high, margin = centres(interval_bar(finding()))
    assert margin < low < estimate < high
    assert (estimate - low) / (low - margin) == pytest.approx(0.2 / 0.3, rel=1e-2)
    assert high - estimate == pytest.approx(estimate - low, abs=0.02)


def test_a_margin_above_the_interval_lies_to_its_right():
    low, _, high, margin = centres(interval_bar(finding(at_least=2.0, refuting=2.0)))
    assert low < high < margin


@pytest.mark.parametrize("bound", ["low", "high"])
def test_an_infinite_bound_ends_in_an_arrow_at_the_edge(bound):
    drawn = interval_bar(finding(**{bound: None}))
    assert drawn.count("<polygon") == 1
    assert "∞" in drawn
    low, _, high, _ = centres(drawn)
    assert (low if bound == "low" else 100 - high) < 2


def test_an_interval_of_no_width_is_drawn():
    assert all(np.isfinite(centres(interval_bar(finding(low=1.0, high=1.0, at_least=1.0, refuting=1.0)))))


def test_a_margin_that_nothing_can_cross_is_not_drawn():
    drawn = interval_bar(finding(refuting=None))
    assert "zone-holds" in drawn
    assert "refuted" not in drawn
    assert (
        "margin" not in interval_bar(finding(at_least=None, refuting=None)).split("aria-label", 1)[1].split(">", 1)[1]
    )


def test_a_control_that_decides_nothing_has_no_zones():
    assert "zone-holds" in interval_bar(finding())
    assert "zone" not in interval_bar(finding(), decides=False)


def test_a_figure_of_many_marks_becomes_small_and_stays_as_it_was(fake):
    plot = fake.many_points(None)
    small = svg(plot)
    assert len(small) < 300_000
    assert "<text" in small
    assert len(svg(plot, limit=10**9)) > 300_000


def test_a_figure_holds_no_date_and_no_version(fake):
    drawn = svg(fake.many_points(None, marks=10))
    assert not re.search(r"20\d\d-\d\d|Matplotlib", drawn)


# Words and tables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (0.12345678, "0.1235"),
        (True, "yes"),
        (123456, "123,456"),
        (2021, "2021"),
        ((), "none"),
        (1234567.8, "1,234,568"),
    ],
)
def test_numbers_for_people(value, words):
    assert number(value) == words


def test_small_p_values_are_not_printed_as_zero():
    assert [p_words(p) for p in (0.0, 0.0123, 1.0)] == ["p < 0.001", "p = 0.012", "p = 1"]


def test_tables_keep_a_meaningful_index_and_know_missing_values():
    frame = pd.DataFrame({"x": [1.0, np.nan], "n": [1, 2]}, index=pd.Index(["a", "b"], name="arm"))
    assert facts.table_facts(frame) == {
        "caption": "",
        "columns": ["arm", "x", "n"],
        "rows": [["a", 1.0, 1], ["b", None, 2]],
    }
    assert facts.table_facts(frame.reset_index(drop=True))["columns"] == ["x", "n"]
    assert '<td class="number">–</td>' in table(facts.table_facts(frame))


def test_columns_that_a_clock_filled_are_marked():
    drawn = table({"columns": ["arm", "seconds", "step ms", "items"], "rows": [["a", 1.0, "2.0", 3]]})
    assert re.findall(r'<td class="([^"]*)"', drawn) == ["short", "number time", "short time", "number"]


def test_order_and_tally():
    states = ["holds", "indicative", "does not hold", "holds"]
    verdicts = [{"state": state, "leaning": "does not hold" if state == "indicative" else ""} for state in states]
    assert [verdict["state"] for verdict in refutations_first(verdicts)] == [
        "does not hold",
        "indicative",
        "holds",
        "holds",
    ]
    assert tally(verdicts) == "4 claims: 1 does not hold, 2 hold, 1 indicative"


def test_a_template_that_names_what_is_not_there_fails():
    with pytest.raises(Exception, match="undefined"):
        jinja().from_string("{{ absent }}").render()
