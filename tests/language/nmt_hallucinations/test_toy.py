"""The toy translator learns, its labels are exact, and batches depend on nothing but their place."""

import numpy as np
import torch

from paperworks.language.nmt_hallucinations.sampling import translate
from paperworks.language.nmt_hallucinations.toy import SLICES, _LengthBatches, label, token_f1, toy_test, train_toy
from paperworks.worlds.text import PAD, ToyMT


def test_slices_and_sizes():
    world = ToyMT(seed=1)
    test = toy_test(world, seed=3)
    assert [int((test.slice == name).sum()) for name in SLICES] == [400, 200, 400, 400]
    assert len(test.held_out) == 400
    assert not set(test.held_out) & set(test.source)
    assert test.reference == tuple(map(world.translate, test.source))
    long = [len(s.split()) for s, name in zip(test.source, test.slice, strict=True) if name == "long"]
    assert min(long) >= 21
    assert toy_test(world, seed=3).source == test.source
    assert toy_test(world, seed=4).source != test.source


def test_labels_are_shares_of_words_at_the_stated_borders():
    world = ToyMT(seed=0)
    source = "s001 s004 s007 s010"
    right = world.translate(source).split()
    wrong = [" ".join(["t000x"] * n + right[n:]) for n in range(5)]
    labels = label(world, [source] * 5, wrong)
    assert labels.unsupported.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert labels.hallucinated.tolist() == [False, False, True, True, True]
    assert labels.detached.tolist() == [False, False, False, False, True]


def test_token_f1_is_that_of_multisets():
    assert token_f1(["a a b", "c"], ["a b b", "d"]) == (2 * 2 / 6 + 0) / 2


def test_batches_are_functions_of_their_place_and_sorted_by_length():
    world = ToyMT(30, seed=0)
    corpus = world.corpus(640, seed=0)
    batches = _LengthBatches(world, corpus, size=32, seed=0)
    one, later = batches(3), batches(45)
    again = _LengthBatches(world, corpus, size=32, seed=0)
    assert torch.equal(again(45)["source"], later["source"])
    assert torch.equal(again(3)["target"], one["target"])
    seen = np.concatenate([batches._plan[place] for place in range(20)])
    assert sorted(seen.tolist()) == list(range(640))
    assert (one["source"][~one["source_mask"]] == PAD).all()
    padding = np.mean([1 - batches(place)["target_mask"].float().mean().item() for place in range(20)])
    assert padding < 0.15


def test_a_few_steps_teach_something_and_are_repeatable():
    world = ToyMT(12, seed=0)
    untrained, face, again = (train_toy(world, "none", pairs=640, steps=steps, seed=0) for steps in (1, 60, 60))
    sources = world.sentences(30, seed=50, lengths=(5, 8))
    right = [world.translate(source) for source in sources]
    says = [[row[0] for row in translate(part, None, sources, num_beams=1)] for part in (untrained, face, again)]
    assert says[1] == says[2]
    assert token_f1(says[1], right) > token_f1(says[0], right) + 0.2
    assert not face.model.training
