import numpy as np
import pandas as pd
import pytest

from paperworks.data.errors import DataError
from paperworks.representation.ssl_hsic.apply import apply
from paperworks.representation.ssl_hsic.dependence import dependence_table, parse_pair


@pytest.fixture
def table(tmp_path):
    """`square` follows `x` without correlation, `noise` nothing, `kind` is the sign; `site` moves two columns."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=120)
    site = rng.integers(0, 3, size=120)
    frame = pd.DataFrame(
        {
            "x": x, "square": x**2, "noise": rng.normal(size=120), "kind": np.where(x > 0, "above", "below"),
            "site": site, "left": 4 * site + rng.normal(size=120), "right": 4 * site + rng.normal(size=120),
            "constant": 1,
        }
    )  # fmt: skip
    frame.loc[:4, "noise"] = np.nan
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    return path


def run(table, **options):
    out = table.parent / "out"
    said = apply((str(table),), out=out, permutations=199, **options)
    return said, pd.read_csv(out / "dependence.csv"), (out / "report.html").read_text()


def test_any_relation_is_found_and_none_invented(table):
    said, result, page = run(table, pairs=("x:square", "x:noise", "x:kind", "x:constant"))
    assert result["p_holm"].tolist()[0] == pytest.approx(4 / 200)
    assert (result["p_holm"] < 0.05).tolist() == [True, False, True, False]
    assert result["dropped"].tolist() == [0, 5, 0, 0]
    assert result["rows"].tolist() == [120, 115, 120, 120]
    assert (result["p"].iloc[3], result["cka"].iloc[3]) == (1, 0)
    assert "x and noise: no evidence of dependence" in said
    assert "x and square: depend on each other (p &lt;= 0.02 over 120 rows" in page


def test_dependence_given_a_column(table):
    _, alone, _ = run(table, x="left", y="right")
    _, given, _ = run(table, x="left", y="right", by="site")
    assert alone["p"][0] == 1 / 200
    assert given["p"][0] > 0.05


def test_linear_kernel_sees_linear_relations_only(table):
    frame = pd.read_csv(table)
    pairs = [parse_pair("x:square")]
    linear = dependence_table(frame, pairs, source="t", kernel="linear", permutations=199)
    correlation = np.corrcoef(frame["x"], frame["square"])[0, 1]
    assert linear["cka"][0] == pytest.approx(correlation**2, abs=1e-10)


def test_a_group_of_numbers_and_categories(table):
    """Its kernel is the product: rows of different kinds have nothing in common."""
    frame = pd.read_csv(table)
    both = dependence_table(frame, [parse_pair("noise,kind:x")], source="t", permutations=99)
    assert both["p"][0] == 1 / 100


def test_two_arrays(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 2))
    np.save(tmp_path / "a.npy", x)
    np.save(tmp_path / "b.npy", np.abs(x[:, 0]))
    apply((str(tmp_path / "a.npy"), str(tmp_path / "b.npy")), out=tmp_path / "out", permutations=99)
    result = pd.read_csv(tmp_path / "out" / "dependence.csv")
    assert (result["x"][0], result["y"][0], result["p"][0]) == ("x x_1", "y", 0.01)
    np.save(tmp_path / "b.npy", x[:70, 0])
    with pytest.raises(DataError, match=r"has 70 rows, .* has 80"):
        apply((str(tmp_path / "a.npy"), str(tmp_path / "b.npy")), out=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": "x"}, "x, y: expected both"),
        ({}, "x, y: expected both"),
        ({"pairs": ("x",)}, "pairs: expected columns:columns such as age,dose:outcome, got 'x'"),
        ({"x": "weight", "y": "x"}, r"x: column 'weight' is not in .*table.csv \(columns: x, square"),
        ({"x": "x", "y": "noise", "by": "ward"}, "by: column 'ward' is not in"),
    ],
)
def test_bad_questions(table, options, message):
    with pytest.raises(ValueError, match=message):
        run(table, **options)


def test_too_few_rows_and_overwriting(table, tmp_path):
    pd.read_csv(table).head(10).to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(DataError, match=r"have values together in 10 rows .* expected at least 20"):
        apply((str(tmp_path / "short.csv"),), x="x", y="square", out=tmp_path / "out")
    (tmp_path / "dependence.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match="is read and would be written"):
        apply((str(tmp_path / "dependence.csv"),), x="x", y="y", out=tmp_path)
