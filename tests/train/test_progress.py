"""What is said about a fit, and when."""

import io
from functools import partial

import pytest
import torch
from torch import nn

from paperworks.train import Budget, Evaluation, ProgressLine, Recipe, Report, fit, make_fabric, sgd
from paperworks.train.progress import count_examples, format_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(report, *, accumulate=1, steps=10):
    """Ten steps of one second each, six rows a batch."""
    now = [0.0]

    def loss(model, batch):
        now[0] += 1.0 / accumulate
        return model(batch["x"]).mean()

    return fit(
        nn.Linear(2, 1),
        loss,
        [{"x": torch.ones(6, 2)}],
        recipe=Recipe(partial(sgd, lr=0.1), accumulate=accumulate),
        budget=Budget(steps=steps, clock=lambda: now[0]),
        seed=0,
        evaluation=Evaluation(lambda model: {"score": 0.5}, every=4),
        progress=report,
        fabric=make_fabric(accelerator="cpu"),
    )


def test_fraction_rate_and_time_left():
    said = []
    result = run(Report(lambda fraction, **fields: said.append((fraction, fields)), every=2.0))
    assert [fraction for fraction, _ in said] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    assert [fields["step"] for _, fields in said] == [2, 4, 6, 8, 10, 10]
    assert [fields["eta"] for _, fields in said] == pytest.approx([8, 6, 4, 2, 0, 0])
    assert all(fields["rate"] == pytest.approx(6.0) for _, fields in said[:-1])
    assert all(fields["unit"] == "examples" for _, fields in said[:-1])
    assert "score" not in said[0][1]
    assert said[1][1]["score"] == 0.5
    assert [fields["loss"] for _, fields in said[:2]] == [result.losses[1], result.losses[3]]
    assert said[0][1]["memory"] > 10**7


def test_units_are_counted_over_micro_batches():
    said = []
    count = lambda batch: 5 * len(batch["x"])  # noqa: E731
    run(Report(lambda fraction, **fields: said.append(fields), count=count, unit="tokens", every=1.0), accumulate=4)
    assert said[0]["rate"] == pytest.approx(5 * 6 * 4)
    assert said[0]["unit"] == "tokens"


def test_the_line_on_a_terminal_and_silence_elsewhere():
    terminal, file = Terminal(), io.StringIO()
    run(Report(ProgressLine("fourier", terminal), every=0.0))
    run(Report(ProgressLine("fourier", file), every=0.0))
    lines = terminal.getvalue().split("\r")[1:]
    assert lines[3].startswith("fourier   40 %  step 4  loss ")
    assert "6 examples/s" in lines[3]
    assert "0:06 left  score 0.5\x1b[K" in lines[3]
    assert terminal.getvalue().endswith("\n")
    assert file.getvalue() == ""


def test_the_line_in_full():
    fields = {
        "step": 1200,
        "loss": 0.51234,
        "rate": 49_321.0,
        "unit": "tokens",
        "memory": 3.2e8,
        "eta": 3723.4,
        "note": "x",
    }
    assert format_line(0.425, fields, label="a") == (
        "a   42 %  step 1,200  loss 0.5123  49.3k tokens/s  320MB  1:02:03 left  note x"
    )
    assert format_line(1.0, {}) == "100 %"


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (torch.ones(3, 2), 3),
        ((torch.ones(4), torch.ones(4)), 4),
        ({"name": "x", "ids": torch.ones(5)}, 5),
        (([torch.ones(2)],), 2),
        ("text", 1),
        (torch.tensor(1.0), 1),
    ],
)
def test_examples_of_a_batch(batch, expected):
    assert count_examples(batch) == expected


def test_bad_input_is_refused_at_the_door():
    with pytest.raises(ValueError, match="progress: expected a function"):
        Report(3)
    with pytest.raises(ValueError, match="every: expected"):
        Report(print, every=-1.0)
