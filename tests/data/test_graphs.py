"""Graphs from files: what is read means what the file says, and an error names file and line."""

import numpy as np
import pytest
import torch

from paperworks.data import graph_benchmarks
from paperworks.data.errors import DataCorrupt, DataError, DataMissing
from paperworks.data.graph_benchmarks import block_graph, heterophilous, planetoid
from paperworks.data.graphs import TEST, TRAIN, VAL, GraphData, read_graph, stratified_split

LABELS = ["b", "a"]


@pytest.fixture
def folder(tmp_path):
    """20 nodes with names, two classes, two features, a chain of edges with a weight."""
    nodes = ["id,label,x,y", *(f"n{i},{LABELS[i % 2]},{i},{i / 2}" for i in range(20))]
    edges = ["source,target,weight", *(f"n{i},n{i + 1},{i + 0.5}" for i in range(19))]
    (tmp_path / "nodes.csv").write_text("\n".join(nodes) + "\n")
    (tmp_path / "edges.csv").write_text("\n".join(edges) + "\n")
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_folder(folder):
    graph = read_graph(folder)
    assert graph.classes == ("a", "b")
    assert graph.labels.tolist() == [1, 0] * 10
    assert graph.edges.tolist() == [list(range(19)), list(range(1, 20))]
    np.testing.assert_array_equal(graph.features[:, 1], np.arange(20) / 2)
    np.testing.assert_array_equal(graph.edge_features[:, 0], np.arange(19) + 0.5)
    assert graph.ids[3] == "n3"
    assert [len(graph.nodes(0, part)) for part in (TRAIN, VAL, TEST)] == [12, 4, 4]
    assert "60 / 20 / 20" in graph.notes[0]


def test_ids_and_labels_keep_what_is_written(folder):
    text = (folder / "nodes.csv").read_text().replace("n", "00").replace(",a,", ",NA,").replace(",b,", ",01,")
    (folder / "nodes.csv").write_text(text)
    (folder / "edges.csv").write_text((folder / "edges.csv").read_text().replace("n", "00"))
    text = (folder / "edges.csv").read_text()
    (folder / "edges.csv").write_text("source,target\n00" + "3,004\n")
    graph = read_graph(folder)
    assert graph.classes == ("01", "NA")
    assert graph.edges.tolist() == [[3], [4]]
    assert graph.edge_features is None


def test_given_splits_and_unlabelled_nodes(folder):
    rows = (folder / "nodes.csv").read_text().splitlines()
    parts = ["train", "val", "test", "Dev", ""]
    rows = [rows[0] + ",split", *(f"{row},{parts[i % 5]}" for i, row in enumerate(rows[1:]))]
    rows[1] = rows[1].replace(",b,", ",,", 1)
    (folder / "nodes.csv").write_text("\n".join(rows) + "\n")
    graph = read_graph(folder)
    assert graph.labels[0] == -1
    assert graph.nodes(0, TRAIN).tolist() == [5, 10, 15]
    assert graph.nodes(0, VAL).tolist() == [1, 3, 6, 8, 11, 13, 16, 18]
    assert graph.nodes(0, TEST).tolist() == [2, 7, 12, 17]


def test_the_reverse_of_every_edge_is_added_once(folder):
    (folder / "edges.csv").write_text("source,target,w\nn0,n1,1\nn1,n0,2\nn2,n2,3\nn3,n4,4\n")
    graph = read_graph(folder).undirected()
    assert graph.edges.tolist() == [[0, 1, 2, 3, 4], [1, 0, 2, 4, 3]]
    assert graph.edge_features[:, 0].tolist() == [1, 2, 3, 4, 4]
    assert graph.undirected().edges.shape == graph.edges.shape


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("edges.csv", "n4,n5", "n4,n77", r"edges.csv: line 6: target 'n77' is no id"),
        ("edges.csv", "3.5", "far", r"edges.csv: line 5: column 'weight': 'far' is no finite number"),
        ("edges.csv", "source,target", "from,target", r"no column 'source'"),
        ("nodes.csv", "n4,", "n3,", r"nodes.csv: line 6: id 'n3' stands a second time"),
        ("nodes.csv", "n4,", ",", r"nodes.csv: line 6: has no id"),
        ("nodes.csv", "n4,b,4", "n4,b,", r"nodes.csv: line 6: column 'x'"),
        ("nodes.csv", "n4,b,4,", "n4,b,inf,", r"nodes.csv: line 6: column 'x': 'inf'"),
        ("nodes.csv", "id,label,x,y", "id,label,x,split", r"nodes.csv: line 2: split '0.0'"),
        ("nodes.csv", "n4,b", "n4,rare", r"label 2 has 1 nodes"),
    ],
)
def test_an_error_names_file_and_line(folder, file, old, new, words):
    edit(folder / file, old, new)
    with pytest.raises(DataError, match=words):
        read_graph(folder)


def test_missing_files_and_features(folder):
    with pytest.raises(DataMissing, match="no such file or folder"):
        read_graph(folder / "nowhere")
    (folder / "nodes.csv").write_text("id,label\nn0,a\n")
    with pytest.raises(DataError, match="no feature column"):
        read_graph(folder)
    (folder / "edges.csv").unlink()
    with pytest.raises(DataMissing, match=r"edges.csv.*source,target"):
        read_graph(folder)
    (folder / "graph.gml").write_text("")
    with pytest.raises(DataError, match="expected a folder"):
        read_graph(folder / "graph.gml")


def arrays(nodes=12):
    rng = np.random.default_rng(0)
    return {
        "edges": rng.integers(0, nodes, (30, 2)),
        "node_features": rng.normal(size=(nodes, 3)).astype(np.float32),
        "node_labels": np.arange(nodes) % 2 + 5,
    }


def test_npz_with_and_without_masks(tmp_path):
    content = arrays()
    np.savez(tmp_path / "g.npz", **content)
    graph = read_graph(tmp_path / "g.npz")
    assert graph.classes == ("5", "6")
    np.testing.assert_array_equal(graph.edges, content["edges"].T)
    masks = {f"{part}_masks": np.array([np.arange(12) % 3 == i, np.arange(12) // 4 == i]) for i, part in
             enumerate(("train", "val", "test"))}  # fmt: skip
    np.savez(tmp_path / "m.npz", **content, **masks)
    two = read_graph(tmp_path / "m.npz")
    assert two.splits.shape == (2, 12)
    assert two.nodes(1, VAL).tolist() == [4, 5, 6, 7]
    assert two.fingerprint != graph.fingerprint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"node_labels": None}, "no array 'node_labels'"),
        ({"node_labels": np.linspace(0, 1, 12)}, "labels: expected whole numbers"),
        ({"edges": np.full((30, 2), 99)}, "ids from 0 to 11"),
        ({"edges": np.zeros((30, 3), dtype=int)}, "edges: expected whole numbers"),
        ({"node_features": np.full((12, 3), np.nan)}, "node 0, feature 0 is nan"),
        ({"train_mask": np.ones(12, dtype=bool)}, "all three or none"),
        ({f"{part}_mask": np.ones(12, dtype=bool) for part in ("train", "val", "test")}, "node 0 is in two parts"),
        ({"edge_features": np.ones((29, 1))}, "30 edges, 29 rows"),
    ],
)
def test_bad_npz_is_named(tmp_path, change, words):
    content = {name: value for name, value in (arrays() | change).items() if value is not None}
    np.savez(tmp_path / "g.npz", **content)
    with pytest.raises(DataError, match=words):
        read_graph(tmp_path / "g.npz")


def test_a_file_that_is_no_npz(tmp_path):
    (tmp_path / "g.npz").write_bytes(b"text")
    with pytest.raises(DataError, match="not a readable"):
        read_graph(tmp_path / "g.npz")


def test_pyg_data_and_its_dictionary(tmp_path):
    pyg = pytest.importorskip("torch_geometric.data", reason="torch-geometric is not installed")
    content = arrays()
    data = pyg.Data(
        x=torch.from_numpy(content["node_features"]),
        edge_index=torch.from_numpy(content["edges"].T),
        y=torch.from_numpy(content["node_labels"]),
        edge_attr=torch.arange(30.0),
    )
    torch.save(data, tmp_path / "object.pt")
    torch.save(data.to_dict(), tmp_path / "dictionary.pt")
    one, two = read_graph(tmp_path / "object.pt"), read_graph(tmp_path / "dictionary.pt")
    assert one.fingerprint == two.fingerprint
    assert one.edge_features.shape == (30, 1)
    np.testing.assert_array_equal(one.edges, content["edges"].T)


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_torch_file_with_code_in_it_is_refused(tmp_path, capsys):
    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(DataError, match="cannot be read safely"):
        read_graph(tmp_path / "evil.pt")
    assert "code ran" not in capsys.readouterr().out
    torch.save({"x": torch.zeros(3, 1)}, tmp_path / "half.pt")
    with pytest.raises(DataError, match="has no 'edge_index'"):
        read_graph(tmp_path / "half.pt")


def test_a_pickle_with_code_in_it_is_refused(tmp_path):
    import pickle

    (tmp_path / "evil").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(DataCorrupt, match="print"):
        graph_benchmarks._unpickle(tmp_path / "evil")


def test_splits_are_stratified_and_seeded():
    labels = np.repeat([0, 1, -1], [50, 10, 5])
    split = stratified_split(labels, seed=3)
    for label, counts in ((0, [30, 10, 10]), (1, [6, 2, 2])):
        assert [int(((labels == label) & (split == part)).sum()) for part in (TRAIN, VAL, TEST)] == counts
    assert (split[labels == -1] == -1).all()
    assert np.array_equal(split, stratified_split(labels, seed=3))
    assert not np.array_equal(split, stratified_split(labels, seed=4))


def test_sizes_that_do_not_fit_are_refused():
    good = block_graph(nodes=40, classes=2, seed=0)
    with pytest.raises(ValueError, match="no labelled node for test"):
        GraphData("g", good.edges, good.features, good.labels, good.classes, np.minimum(good.splits, VAL))
    with pytest.raises(ValueError, match="labels are"):
        GraphData("g", good.edges, good.features, good.labels[:-1], good.classes, good.splits)


def test_block_graphs_are_homophilous_as_asked():
    graph = block_graph(nodes=400, degree=10, homophily=0.7, seed=0)
    same = graph.labels[graph.edges[0]] == graph.labels[graph.edges[1]]
    assert abs(same.mean() - 0.7) < 0.03
    assert abs(graph.edges.shape[1] / 400 - 10) < 0.7
    assert len(np.unique(graph.edges, axis=1).T) == graph.edges.shape[1]


@pytest.mark.parametrize(
    ("name", "nodes", "edges", "features", "train", "unknown"),
    [("cora", 2708, 10_556, 1433, 140, 0), ("citeseer", 3327, 9104, 3703, 120, 15)],
)
def test_planetoid(benchmark_data, name, nodes, edges, features, train, unknown):
    benchmark_data("planetoid")
    graph = planetoid(name)
    assert (graph.num_nodes, graph.edges.shape[1], graph.features.shape[1]) == (nodes, edges, features)
    assert [len(graph.nodes(0, part)) for part in (TRAIN, VAL, TEST)] == [train, 500, 1000]
    assert (graph.labels < 0).sum() == unknown
    assert np.array_equal(np.bincount(graph.labels[graph.nodes(0, TRAIN)]), [20] * len(graph.classes))
    assert (graph.edges[0] != graph.edges[1]).all()
    assert graph.undirected().edges.shape == graph.edges.shape
    sums = np.asarray(graph.features.sum(1)).ravel()
    assert np.allclose(sums[sums > 0], 1, atol=1e-5)
    # Neighbours cite within their field: features, labels and edges are joined rightly.
    known = (graph.labels[graph.edges] >= 0).all(0)
    assert (graph.labels[graph.edges[0]] == graph.labels[graph.edges[1]])[known].mean() > 0.7


@pytest.mark.parametrize(
    ("name", "nodes", "edges", "split"),
    [
        ("chameleon_filtered", 890, 17_708, [0.48, 0.32, 0.20]),
        ("minesweeper", 10_000, 78_804, [0.50, 0.25, 0.25]),
        ("tolokers", 11_758, 1_038_000, [0.50, 0.25, 0.25]),
    ],
)
def test_heterophilous(benchmark_data, name, nodes, edges, split):
    benchmark_data("heterophilous_graphs")
    graph = heterophilous(name)
    assert (graph.num_nodes, graph.edges.shape[1], len(graph.splits)) == (nodes, edges, 10)
    shares = [(graph.splits == part).mean() for part in (TRAIN, VAL, TEST)]
    assert np.allclose(shares, split, atol=0.01)


def test_unknown_names():
    with pytest.raises(ValueError, match="cora or citeseer"):
        planetoid("pubmed")
    with pytest.raises(ValueError, match="tolokers"):
        heterophilous("texas")
