"""The study as an instrument: its measures on made-up tables, its arms, and one small run of everything."""

import csv

import numpy as np
import pandas as pd
import pytest
import torch

from paperworks.data.graph_benchmarks import block_graph
from paperworks.data.graphs import TEST
from paperworks.graphs.gatv2 import lookup_training, measures, node_training, study, views
from paperworks.graphs.gatv2.graph import CSRGraph
from paperworks.graphs.gatv2.lookup import dictionary_lookup
from paperworks.lab.claim import NotMeasurable, judge
from paperworks.lab.run import Options, run
from paperworks.lab.study import Request


def silent(folder):
    class Silent:
        def __call__(self, fraction, **fields):
            pass

    Silent.folder = folder
    return Silent()


# Claims on made-up trials --------------------------------------------------------------------------------------------


def lookup_frame(accuracy, *, seeds=range(10, 15), sizes=(6, 8, 10), agreement=1.0):
    """One row per arm, k and seed; `accuracy(arm, k, seed)`."""
    return pd.DataFrame(
        {
            "part": "lookup", "arm": arm, "k": k, "seed": seed, "accuracy": accuracy(arm, k, seed),
            "train_accuracy": 0.9, "agreement_min": agreement if arm.startswith("gat_") or arm == "gat" else 0.3,
            "agreement_max": 1.0 if arm.startswith("gat_") or arm == "gat" else 0.4, "parameters": 1.0, "steps": 10,
            "examples": 10, "cpu_seconds": 1.0, "ratio": np.nan,
        }
        for arm in study.LOOKUP_ARMS for k in sizes for seed in seeds
    )  # fmt: skip


def verdict(frame, name):
    return {v.id: v for v in judge(study.CLAIMS, frame, budget=study.budget(frame), equal=study.STUDY.equal)}[name]


GOOD = {"gatv2": 0.995, "gatv2_shared": 0.97, "gat": 0.3, "gat_8_heads": 0.7, "dot": 1.0}


def jitter(seed):
    return 0.004 * (seed % 3 - 1)


def test_dictionary_lookup_holds_when_gatv2_solves_and_neither_gat_does():
    frame = lookup_frame(lambda arm, k, seed: GOOD[arm] + jitter(seed))
    found = verdict(frame, "dictionary_lookup")
    assert found.state == "holds"
    gains = [finding.interval.estimate for finding in found.findings[:4]]
    assert gains == pytest.approx([0.995 - 0.3, 0.995 - 0.7] * 2)
    assert measures.choice(frame, measures.GATV2_CHOICES) == "gatv2"


def test_the_choice_is_made_at_six_and_nowhere_else():
    def accuracy(arm, k, seed):
        better = {"gatv2_shared": 0.999} if k == 6 else {"gatv2_shared": 0.5}
        return (GOOD | better)[arm] + jitter(seed)

    found = verdict(lookup_frame(accuracy), "dictionary_lookup")
    assert found.findings[3].interval.estimate == pytest.approx(0.5 - 0.7)
    assert found.state == "does not hold"


def test_a_slow_seed_is_inconclusive_not_a_refutation():
    frame = lookup_frame(lambda arm, k, seed: GOOD[arm] + jitter(seed) - 0.03 * (arm == "gatv2" and seed == 11))
    assert verdict(frame, "dictionary_lookup").state == "inconclusive"


@pytest.mark.parametrize("rival", measures.GAT_CHOICES)
def test_a_gat_that_nearly_keeps_up_refutes(rival):
    """Whichever of the two it is, and even if the other were the better one at k = 6."""

    def accuracy(arm, k, seed):
        keeps_up = {rival: 0.95} if k > 6 else {}
        return (GOOD | keeps_up)[arm] + jitter(seed + (arm == "gatv2"))

    frame = lookup_frame(accuracy)
    assert verdict(frame, "dictionary_lookup").state == "does not hold"


def test_a_baseline_at_chance_voids_the_verdict():
    chance = {"gat": 0.0, "gat_8_heads": 0.0}
    frame = lookup_frame(lambda arm, k, seed: chance.get(arm, GOOD[arm]) + 1 / k * (arm in chance) + jitter(seed))
    found = verdict(frame, "dictionary_lookup")
    assert found.state == "inconclusive"
    assert "chance" in found.reason


def test_one_violation_refutes_the_static_claim():
    frame = lookup_frame(lambda arm, k, seed: GOOD[arm] + jitter(seed))
    assert verdict(frame, "static").state == "holds"
    frame.loc[frame.index[frame["arm"] == "gat"][0], "agreement_min"] = 0.9995
    assert verdict(frame, "static").state == "does not hold"


def test_a_static_gatv2_layer_refutes_too():
    frame = lookup_frame(lambda arm, k, seed: GOOD[arm] + jitter(seed))
    frame.loc[frame.index[frame["arm"] == "gatv2_shared"][0], "agreement_max"] = 1.0
    assert verdict(frame, "static").state == "does not hold"


def noise_frame(gain, *, splits):
    """Two runs per seed; GATv2 better by gain(run) x ratio."""
    rows = []
    for graph, count in splits.items():
        for seed in range(10, 15):
            for ratio in (0.0, 0.25, 0.5):
                base = np.array([0.8, 0.78]) - 0.2 * ratio
                better = np.array([gain(2 * seed), gain(2 * seed + 1)]) * ratio
                for arm, scores in (("gat", base), ("gatv2", base + better)):
                    rows.append(
                        {
                            "part": "noise", "graph": graph, "arm": arm, "ratio": ratio, "seed": seed,
                            "scores": scores, "score": scores.mean(), "majority": 0.3, "splits": count,
                            "test_size": 25, "train_size": 50, "parameters": 1.0, "steps": 100, "examples": 1,
                            "tuning_trials": 4.0, "cpu_seconds": 1.0,
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


def test_the_area_is_the_trapezoid_paired_by_run_and_splits_widen_the_interval():
    frame = noise_frame(lambda run: 0.08 + 0.01 * (run % 2), splits={"cora": 1, "chameleon_filtered": 10})
    plain, corrected = (measures.area_between(graph)(frame) for graph in ("cora", "chameleon_filtered"))
    assert plain.count == corrected.count == 10
    assert plain.estimate == pytest.approx(0.085 * 0.125)
    assert corrected.method == "corrected resampled t"
    width = corrected.high - corrected.low
    assert width / (plain.high - plain.low) == pytest.approx(np.sqrt((1 / 10 + 25 / 50) * 10))


@pytest.mark.parametrize(
    ("gain", "state"),
    [(lambda run: 0.1 + 0.001 * (run % 3), "holds"), (lambda run: 0.1 * (-1) ** run, "inconclusive"),
     (lambda run: -0.1 + 0.001 * (run % 3), "does not hold")],
)  # fmt: skip
def test_noise_verdicts(gain, state):
    frame = noise_frame(gain, splits={"cora": 1, "chameleon_filtered": 10})
    assert verdict(frame, "noise").state == state


def test_noise_needs_both_graphs_and_a_stand_in_decides_nothing():
    found = verdict(noise_frame(lambda run: 0.1, splits={"cora": 1, "blocks": 1}), "noise")
    assert found.state == "not tested"
    with pytest.raises(NotMeasurable, match="squirrel"):
        measures.area_between("squirrel_filtered")(noise_frame(lambda run: 0.1, splits={"cora": 1}))


def test_arms_with_unequal_tuning_get_no_verdict():
    frame = noise_frame(lambda run: 0.1 + 0.001 * (run % 3), splits={"cora": 1, "chameleon_filtered": 10})
    frame.loc[frame["arm"] == "gatv2", "tuning_trials"] = 8.0
    assert "tuning_trials" in verdict(frame, "noise").reason


# Arms ----------------------------------------------------------------------------------------------------------------


def test_parameters_of_the_lookup_arms_are_the_papers_and_match_where_asked():
    sizes = {arm: lookup_training.parameters_of(10, 128, arm) for arm in lookup_training.ARMS}
    assert sizes["gatv2_shared"] == 20_608
    assert sizes["gat"] == sizes["gat_8_heads"] == 20_736
    assert (sizes["gatv2"], sizes["dot"]) == (36_992, 53_248)
    for arm in lookup_training.ARMS:
        width = lookup_training.matched_width(10, 128, arm)
        assert lookup_training.parameters_of(10, width, arm) == pytest.approx(20_608, rel=0.03)


def test_lookup_net_answers_for_each_query_and_has_no_dropout():
    torch.manual_seed(0)
    net = lookup_training.LookupNet(4, 16, "gatv2").train()
    graphs = dictionary_lookup(4, seed=0).train
    assert net(graphs).shape == (len(graphs), 4, 4)
    assert torch.equal(net(graphs), net(graphs))
    # A graph is a set of key nodes: the answer depends on the pairs, not on where they stand.
    keys = net.keys(torch.arange(4)) + net.values(graphs[:1])
    queries = net.keys(torch.arange(4)) + net.values.weight[4]
    order = torch.tensor([2, 0, 3, 1])
    mixed = net.conv((queries.relu()[None], keys.relu()[:, order]))
    torch.testing.assert_close(net.out(mixed), net(graphs[:1]))


def test_every_node_arm_trains_on_the_same_graph_and_only_the_mlp_ignores_it():
    data = block_graph(nodes=120, classes=3, seed=0)
    training = node_training.Training(8, 2, False, False, 1e-2, 5e-4, 6)
    settings = [node_training.Setting(2, 0.1), node_training.Setting(1, 0.1)]
    found = {
        arm: node_training.train_nodes(arm, settings, training, data, ratio=0.5, run=3, progress=None)
        for arm in node_training.ARMS
    }
    assert {result["tuning_trials"] for result in found.values()} == {2}
    test = data.nodes(0, TEST)
    for arm, result in found.items():
        assert result["score"] == pytest.approx(np.mean(result["predictions"][test] == data.labels[test]))
        assert ("agreement_min" in result) == (arm in node_training.ATTENTIONS)
    assert found["gat"]["agreement_min"] == 1.0
    clean = node_training.train_nodes("mlp", settings, training, data, ratio=0.0, run=3, progress=None)
    assert np.array_equal(clean["predictions"], found["mlp"]["predictions"])
    other = node_training.train_nodes("gcn", settings, training, data, ratio=0.0, run=3, progress=None)
    assert other["val_score"] != found["gcn"]["val_score"] or other["score"] != found["gcn"]["score"]


def test_gcn_spreads_by_the_normalised_adjacency():
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    graph = CSRGraph.from_edge_index(edges, num_nodes=3, add_self_loops=True)
    dense = torch.tensor([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]])
    degree = dense.sum(1).rsqrt()
    torch.testing.assert_close(
        node_training.normalised_adjacency(graph).to_dense(), degree[:, None] * dense * degree[None]
    )


def test_tuned_settings_come_from_the_grid_and_cover_the_laptop_study():
    config = study.SCALES["laptop"]
    searched = {(graph, arm, noisy) for graph, arm, noisy, _, _ in config.tuned}
    assert searched >= {(g, a, n) for g in config.graphs for a in ("gat", "gatv2") for n in (False, True)}
    assert {(heads, dropout) for *_, heads, dropout in config.tuned} <= set(study.GRID)
    assert study.tuned_setting(config, "cora", "gat", 0.25) == study.tuned_setting(config, "cora", "gat", 0.5)


# The whole -----------------------------------------------------------------------------------------------------------


def test_smoke_study(tmp_path):
    result = run("gatv2", options=Options("smoke", seeds=1, backend="inline", store=tmp_path), epochs=5)
    assert not result.failures
    states = {found.id: (found.state, found.leaning) for found in result.verdicts}
    assert states["static"] == ("indicative", "holds")
    assert states["dictionary_lookup"][0] == states["noise"][0] == "not tested"
    assert set(result.figures) == {"attention", "lookup", "noise", "depth"}
    assert set(result.tables) == {"lookup", "noise", "static"}
    assert result.budget.loc[["noise: gat", "noise: gatv2"], "steps"].nunique() == 1
    assert (tmp_path / "report.html").exists()


def test_a_trial_is_a_pure_function(tmp_path):
    config = study.SCALES["smoke"]
    loaded = study.load(config, Request())
    point = {"part": "noise", "graph": "blocks", "arm": "gatv2", "ratio": 0.5, "heads": 2, "dropout": 0.5}
    one, two = (study.trial(point, 11, config, loaded.data, silent(tmp_path)) for _ in range(2))
    assert np.array_equal(one["predictions"], two["predictions"])
    assert one["val_score"] == two["val_score"]
    lookup = {"part": "lookup", "k": 4, "arm": "gat"}
    config = study.STUDY.config("smoke", {"lookup_steps": 5})
    one, two = (study.trial(lookup, 11, config, loaded.data, silent(tmp_path)) for _ in range(2))
    assert np.array_equal(one["attention"], two["attention"])


def own_folder(folder):
    data = block_graph(nodes=100, classes=2, features=3, seed=0)
    folder.mkdir()
    with (folder / "nodes.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "label", "f0", "f1", "f2"])
        for i, (label, row) in enumerate(zip(data.labels, data.features, strict=True)):
            writer.writerow([f"ünit {i}", ["left", "right"][label], *row])
    with (folder / "edges.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["source", "target"])
        writer.writerows((f"ünit {a}", f"ünit {b}") for a, b in data.edges.T if a < b)
    return folder


def test_own_folder_runs_end_to_end_with_one_command(tmp_path, command):
    own_folder(tmp_path / "graph")
    answer = command(
        "run", "gatv2", "--data", "graph", "--scale", "smoke", "--seeds", "1", "--backend", "inline", "--undirected",
        "--epochs", "2", check=0,
    )  # fmt: skip
    assert "The graph" in answer.stdout
    table = pd.read_csv(tmp_path / "runs" / "gatv2" / "predictions.csv")
    assert list(table.columns) == ["id", "label", "split", *study.OWN_ARMS]
    assert set(table["gat"]) <= {"left", "right"}
    assert table["split"].value_counts().to_dict() == {"train": 60, "val": 20, "test": 20}
    report = (tmp_path / "runs" / "gatv2" / "report.html").read_text()
    assert "MLP, no edges" in report
    assert "INDICATIVE static" in answer.stdout


def test_what_does_not_fit_is_refused_at_the_door(tmp_path, command):
    own_folder(tmp_path / "graph")
    columns = command("run", "gatv2", "--data", "graph", "--columns", "label=y", "--scale", "smoke")
    assert columns.returncode == 2
    assert "fixed names" in columns.stderr
    with pytest.raises(ValueError, match="graphs: expected some of"):
        study.load(study.STUDY.config("smoke", {"graphs": ("karate",)}), Request())


def test_absent_benchmark_data_leave_a_stand_in_and_say_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PAPERWORKS_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    import pooch

    def unreachable(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", unreachable)
    loaded = study.load(study.SCALES["laptop"], Request())
    assert set(loaded.data) == {"blocks"}
    assert sum("left out" in line for line in loaded.description) == 2
    assert any("decides nothing" in line for line in loaded.description)


def test_search_table_names_the_best_setting():
    rows = [
        {"part": "noise", "graph": "cora", "arm": "gat", "ratio": 0.0, "heads": h, "dropout": d, "val_score": h + d}
        for h, d in study.GRID
    ]  # fmt: skip
    assert views.search_table(pd.DataFrame(rows)).loc[0, "best"] == "8 heads, dropout 0.6"
