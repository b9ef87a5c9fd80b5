"""`paperworks apply gatv2`: staticity of somebody's trained PyG model, from its state dict."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from paperworks.data.graph_benchmarks import block_graph
from paperworks.graphs.gatv2.apply import OUTPUTS, apply

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pyg = pytest.importorskip("torch_geometric.nn", reason="torch-geometric is not installed")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = pyg.GATConv(16, 8, heads=4)
        self.norm = torch.nn.LayerNorm(32)
        self.conv2 = pyg.GATv2Conv(32, 6, heads=2, concat=False)
        self.conv3 = pyg.GATConv(6, 3, heads=1, bias=False)


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    net = Net()
    torch.save(net.state_dict(), tmp_path / "gat.pt")
    return net


@pytest.fixture
def graph(tmp_path):
    data = block_graph(nodes=150, classes=3, seed=0)
    masks = {f"{part}_masks": data.splits == code for code, part in enumerate(("train", "val", "test"))}
    np.savez(tmp_path / "g.npz", edges=data.edges.T, node_features=data.features, node_labels=data.labels, **masks)
    return data


def test_every_layer_and_head_has_its_row(tmp_path, model, graph):
    said = apply(tmp_path / "gat.pt", data=tmp_path / "g.npz", out=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(OUTPUTS)
    table = pd.read_csv(tmp_path / "out" / "staticity.csv")
    assert table["layer"].tolist() == ["conv1"] * 4 + ["conv2"] * 2 + ["conv3"]
    assert table["kind"].tolist() == ["GAT"] * 4 + ["GATv2"] * 2 + ["GAT"]
    static = table["kind"] == "GAT"
    assert (table.loc[static, ["agreement", "kendall_w"]] == 1).all(axis=None)
    assert (table.loc[~static, "agreement"] < 1).all()
    assert "conv1 (GAT): static" in said
    assert "conv2 (GATv2): dynamic" in said
    assert "2 tensors belong to other parts" in said
    page = (tmp_path / "out" / "report.html").read_text()
    assert "conv2 (GATv2): dynamic" in page
    assert "<svg" in page


def test_layers_are_run_with_the_trained_weights(tmp_path, model, graph):
    """The first layer's attention is PyG's own; the second sees ELU of the first's output."""
    from paperworks.graphs.gatv2.trained import attention_layers, read_state

    layers, rest = attention_layers(read_state(tmp_path / "gat.pt"), source="gat.pt", self_loops=True)
    assert rest == ["norm.weight", "norm.bias"]
    assert [found.layer.concat for found in layers][:2] == [True, False]
    x, edges = torch.from_numpy(graph.features), torch.from_numpy(graph.edges)
    with torch.no_grad():
        for found, theirs in zip(layers, (model.conv1, model.conv2, model.conv3), strict=True):
            mine = found.layer(x, edges)
            torch.testing.assert_close(mine, theirs(x, edges), atol=1e-5, rtol=1e-5)
            x = torch.nn.functional.elu(mine)


def test_checkpoints_and_older_names_are_understood(tmp_path, model, graph):
    state = pyg.GATConv(16, 4, heads=2).state_dict()
    old = {name.replace("lin.", "lin_src."): value for name, value in state.items()}
    torch.save({"epoch": 3, "state_dict": old}, tmp_path / "old.pt")
    said = apply(tmp_path / "old.pt", data=tmp_path / "g.npz", out=tmp_path / "out")
    assert "layer (GAT): static" in said
    assert "tensors belong" not in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"lin.weight": torch.zeros(2, 2)}, "no layer of PyG's GATConv"),
        ({"c.att_src": torch.zeros(1, 2, 3)}, "no lin.weight"),
        ({"c.att_src": torch.zeros(1, 2, 3), "c.lin.weight": torch.zeros(6, 16)}, "does not fit PyG's GAT"),
        ([1, 2], "expected a state dict"),
        (pyg.GATConv(7, 4).state_dict(), "expects 7 features, the graph's features are 16"),
        (pyg.GATConv((16, 16), 4, add_self_loops=False).state_dict(), "bipartite"),
        (pyg.GATv2Conv(16, 4, edge_dim=2).state_dict(), "needs 2 features per edge, the graph has none"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path, graph, content, words):
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=words):
        apply(tmp_path / "m.pt", data=tmp_path / "g.npz", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_are_missing_or_no_models(tmp_path, graph):
    with pytest.raises(ValueError, match="no such file"):
        apply(tmp_path / "nowhere.pt", data=tmp_path / "g.npz")
    (tmp_path / "text.pt").write_text("no model")
    with pytest.raises(ValueError, match="cannot be read as plain tensors"):
        apply(tmp_path / "text.pt", data=tmp_path / "g.npz")
    torch.save(pyg.GATConv(16, 4), tmp_path / "module.pt")
    with pytest.raises(ValueError, match="state_dict"):
        apply(tmp_path / "module.pt", data=tmp_path / "g.npz")


def test_a_graph_without_anything_to_compare_gives_no_evidence(tmp_path, model):
    nodes, none = np.arange(30), np.zeros((0, 2), dtype=np.int64)
    np.savez(
        tmp_path / "g.npz", edges=none, node_features=np.random.default_rng(0).normal(size=(30, 16)),
        node_labels=nodes % 2,
    )  # fmt: skip
    said = apply(tmp_path / "gat.pt", data=tmp_path / "g.npz", out=tmp_path / "out")
    assert "no evidence" in said
    assert pd.read_csv(tmp_path / "out" / "staticity.csv")["agreement"].isna().all()
