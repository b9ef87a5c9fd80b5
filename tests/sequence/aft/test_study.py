"""The study as an instrument: it must refute what is false, and work on a text of one's own with one command."""

import numpy as np
import pandas as pd
import pytest
import torch

from paperworks.data.tokenization import Tokenizer
from paperworks.lab.claim import judge
from paperworks.lab.run import Options, run
from paperworks.lab.study import Request
from paperworks.nn import build_mixer
from paperworks.sequence.aft import AFTLanguageModel, arms, study, training

GOOD = {"attention": 2.9, "local": 2.85, "simple": 3.1, "conv": 2.9}


def jitter(seed):
    return 0.004 * (seed % 3 - 1)


def made_up(bits=GOOD, *, ratio=2.0, exponent=1.0, seeds=range(10, 15)):
    rows = [
        {"part": "text", "arm": arm, "seed": seed, "bits": level + jitter(seed + place), "parameters": 1.0, "steps": 5,
         "examples": 5, "cpu_seconds": 1.0}
        for place, (arm, level) in enumerate(bits.items()) for seed in seeds
    ]  # fmt: skip
    rows += [
        {"part": "cost", "length": study.LONG, "seed": seed, "ratio_local": ratio + jitter(seed)} for seed in seeds
    ]
    frame = pd.DataFrame(rows)
    for length in (1024, 2048, 4096, 8192):
        size = float(length) ** exponent
        place = frame.index[(frame.get("length") == length)]
        if len(place):
            frame.loc[place, ["local_ms", "local_bytes"]] = size
        else:
            line = {"part": "cost", "length": length, "seed": 10, "local_ms": size, "local_bytes": size}
            frame = pd.concat([frame, pd.DataFrame([line])], ignore_index=True)
    return frame


def verdict(frame):
    return judge(study.CLAIMS, frame, budget=study.budget(frame), equal=study.STUDY.equal)[0]


@pytest.fixture
def tuned(monkeypatch):
    monkeypatch.setattr(study, "searched", lambda: True)


@pytest.mark.usefixtures("tuned")
def test_holds_when_everything_does():
    assert verdict(made_up()).state == "holds"


def test_without_the_equal_search_nothing_is_judged(monkeypatch):
    monkeypatch.setattr(study, "searched", lambda: False)
    found = verdict(made_up())
    assert found.state == "inconclusive"
    assert "has not been run" in found.reason


@pytest.mark.usefixtures("tuned")
@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"bits": GOOD | {"simple": 2.7}}, "does not hold"),
        ({"bits": GOOD | {"local": 3.05}}, "does not hold"),
        ({"bits": GOOD | {"local": 2.999}}, "inconclusive"),
        ({"ratio": 0.8}, "inconclusive"),
        ({"exponent": 1.3}, "inconclusive"),
        ({"bits": {name: bits + 0.4 for name, bits in GOOD.items()}}, "inconclusive"),
    ],
)
def test_what_refutes_and_what_leaves_it_open(change, state):
    found = verdict(made_up(**change))
    assert found.state == state
    if change.get("bits", GOOD)["attention"] > 3.1:
        assert "undertrained" in found.reason


def smoke(folder, **overrides):
    return run("aft", options=Options("smoke", seeds=1, backend="inline", store=folder), **overrides)


def test_smoke_study(tmp_path):
    result = smoke(tmp_path)
    assert not result.failures
    bits = result.frame[result.frame["part"] == "text"].set_index("arm")["bits"]
    assert bits.max() < 5
    assert set(result.figures) == {"bits", "cost"}
    assert set(result.tables) == {"bits", "cost"}
    assert result.budget["examples"].nunique() == 1
    assert (tmp_path / "report.html").exists()


def echoes(path, characters=60_000, lag=3):
    """Letters that mostly repeat the letter three before them, which only weights by position can look up."""
    rng = np.random.default_rng(0)
    letters, again = rng.integers(16, size=characters), rng.random(characters) < 0.95
    for place in range(lag, characters):
        if again[place]:
            letters[place] = letters[place - lag]
    path.write_text("".join("abcdefghijklmnop"[letter] for letter in letters))
    return str(path)


def without_weights(*args, **named):
    """AFT-local whose band is zero and stays so."""
    make = MAKE_LOCAL(*args, **named)

    def layer(index):
        mixer = make(index)
        for factor in (mixer.row, mixer.column):
            factor.requires_grad_(False).zero_()
        return mixer

    return layer


MAKE_LOCAL = arms.make_aft_local_mixer


@pytest.mark.parametrize(("band", "better"), [(MAKE_LOCAL, True), (without_weights, False)])
def test_what_makes_local_better_than_simple_is_its_band(tmp_path, monkeypatch, band, better):
    monkeypatch.setattr(arms, "make_aft_local_mixer", band)
    result = smoke(tmp_path, data=echoes(tmp_path / "text.txt"), arms=("local", "simple"), steps=120, cost_lengths=())
    bits = result.frame.set_index("arm")["bits"]
    if better:
        assert bits["local"] < bits["simple"] - 0.5
    else:
        assert abs(bits["local"] - bits["simple"]) < 0.05
        assert result.verdicts[0].state != "holds"


def test_all_of_the_validation_text_is_scored_once():
    from paperworks.data.running_text import divide

    text = divide("toy", "ab" * 30_000 + "x")
    windows = training._validation_windows(text, 64)
    targets = windows[:, 1:].flatten()
    assert torch.equal(targets[targets >= 0], torch.from_numpy(text.validation[1:].copy()).long())

    class Even(torch.nn.Module):
        def forward(self, ids):
            return torch.zeros(*ids.shape, 256)

    bits = training.bits_per_character(Even(), text, 64)
    assert bits == pytest.approx(8 * (len(text.validation) - 1) / text.characters)


def test_windows_are_a_function_of_the_step_and_shift_by_one():
    from paperworks.data.running_text import copying_text

    text = copying_text(60_000)
    one, two = (training.Windows(text, length=16, batch=4, seed=3) for _ in range(2))
    two(5)
    assert torch.equal(one(7), two(7))
    assert not torch.equal(one(7), one(8))
    assert one(0).shape == (4, 17)


def test_own_text_runs_with_one_command_and_leaves_a_model(tmp_path, command):
    rng = np.random.default_rng(0)
    words = ["größe", "maß", "und", "zahl", "\n"]
    (tmp_path / "book.txt").write_text(" ".join(rng.choice(words, size=15_000)), encoding="utf-8")
    answer = command(
        "run", "aft", "--data", "book.txt", "--scale", "smoke", "--seeds", "1", "--backend", "inline", "--arms",
        "local", "--cost-lengths", check=0,
    )  # fmt: skip
    assert "NOT TESTED" in answer.stdout
    model = AFTLanguageModel.load(tmp_path / "runs" / "aft" / "model")
    said = model.generate(torch.tensor([list(b"gr")]), max_new_tokens=8)
    assert said.ids.shape == (1, 10)
    command(
        "run", "aft", "--data", "book.txt", "--scale", "smoke", "--seeds", "1", "--backend", "inline", "--arms",
        "local", "--steps", "8", "--tokens", "bpe", "--vocabulary", "300", "--cost-lengths", "--store", "pairs",
        check=0,
    )  # fmt: skip
    model = AFTLanguageModel.load(tmp_path / "pairs" / "model")
    tokenizer = Tokenizer.load(tmp_path / "pairs" / "model" / "tokenizer.json")
    assert model.config.vocabulary == tokenizer.vocab_size <= 300
    assert tokenizer.decode(tokenizer.encode_stream("Größe")) == "Größe"
    refused = command("run", "aft", "--data", "book.txt", "--scale", "smoke", "--tokens", "words")
    assert "tokens: expected bytes or bpe, got 'words'" in refused.stderr
    (tmp_path / "short.txt").write_text("short")
    refused = command("run", "aft", "--data", "short.txt", "--scale", "smoke")
    assert refused.returncode == 2
    assert "too few to learn from" in refused.stderr


def test_absent_benchmark_text_is_replaced_and_said(monkeypatch, tmp_path):
    monkeypatch.setattr("paperworks.data.running_text.tiny_shakespeare", lambda: _missing())
    loaded = study.load(study.SCALES["laptop"], Request())
    assert "a generated text stands in" in " ".join(loaded.description)
    with pytest.raises(ValueError, match="text: expected shakespeare or copies, got 'bible'"):
        study.load(study.STUDY.config("laptop", {"text": "bible"}), Request())


def _missing():
    from paperworks.data.errors import DataMissing

    raise DataMissing("tiny_shakespeare: input.txt is not on this machine")


def test_mixers_are_found_by_name():
    for name in ("aft_full", "aft_local", "aft_simple", "aft_conv"):
        mixer = build_mixer(name, dim=16, heads=2, length=40)(0)
        assert mixer(torch.zeros(1, 33, 16)).shape == (1, 33, 16)
