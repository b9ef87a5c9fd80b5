"""The paper's own table: size, order, families, and that both ways of reading it agree."""

import numpy as np
import pytest

from paperworks.data.nlu_irt import RESPONDERS, TASKS, authors_files, family, load_nlu_irt, load_nlu_irt_sets


@pytest.mark.parametrize(
    ("responder", "kind"),
    [
        ("roberta-base-10M-3_best", "roberta-base-10M"),
        ("roberta-med-small-1M-1_25", "roberta-med-small-1M"),
        ("roberta-base-1B-2_1", "roberta-base-1B"),
        ("roberta-base_50", "roberta-base"),
        ("albert-xxlarge-v2_10", "albert-xxlarge-v2"),
    ],
)
def test_family_drops_checkpoint_and_run_only(responder, kind):
    assert family(responder) == kind


def test_ninety_responders_of_ten_families():
    assert len(set(RESPONDERS)) == 90
    assert len({family(name) for name in RESPONDERS}) == 10
    with pytest.raises(ValueError, match="expected <model>_<checkpoint>"):
        family("bert")


@pytest.fixture(scope="module")
def folder(benchmark_data):
    return benchmark_data("nlu_irt")


@pytest.fixture(scope="module")
def paper(folder):
    return load_nlu_irt()


def test_size_and_groups(paper):
    assert paper.responses.shape == (90, 82_756)
    assert paper.responses.group_names == tuple(TASKS)
    assert (paper.responses.groups == "cb").sum() == 28
    assert (paper.item_formats() == "span selection").sum() == sum(
        (paper.responses.groups == name).sum() for name in ("qamr", "newsqa", "squad_v2", "mrqa-nq", "quoref")
    )


def test_orders_are_those_of_the_authors_files(paper):
    import pandas as pd

    items, abilities = authors_files()
    assert pd.read_csv(abilities)["userid"].tolist() == list(paper.responses.responders)
    assert pd.read_parquet(items, columns=["item"])["item"].tolist() == list(paper.responses.items)


def test_the_tasks_are_those_of_the_release(folder):
    import pandas as pd

    tasks = pd.read_csv(folder / "tasks.csv")
    listed = {row["jiant_name"]: (row["format"], row["year"]) for row in tasks.to_dict("records")}
    assert listed == TASKS


def test_the_release_s_tables_give_the_same_answers(paper):
    names = ("cb", "copa", "rte", "wsc")
    tables = load_nlu_irt_sets(names)
    part = paper.responses.select(items=np.isin(paper.responses.groups, names))
    assert tables.fingerprint == part.fingerprint


def test_unknown_sets_are_refused():
    with pytest.raises(ValueError, match="names: expected some of"):
        load_nlu_irt_sets(("squad",))
    with pytest.raises(ValueError, match="at least one"):
        load_nlu_irt_sets(())
