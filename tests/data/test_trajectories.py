"""Recorded trajectories: every layout reads to the same episodes, and what is unfit is named."""

import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperworks.data.errors import DataError
from paperworks.data.trajectories import Trajectories


def episodes(lengths=(3, 5, 2), dim=2):
    """Values that say which episode and step they are from."""
    return [np.array([[100 * e + t, -t] + [0.5] * (dim - 2) for t in range(n)], float) for e, n in enumerate(lengths)]


def same(read, expected):
    assert len(read) == len(expected)
    for ours, theirs in zip(read.observations, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@given(st.lists(st.integers(2, 6), min_size=1, max_size=6), st.integers(1, 3))
def test_transitions_never_cross_an_episode(lengths, frames):
    data = Trajectories.from_arrays(episodes(lengths))
    previous, following, number = data.transitions(frames)
    assert len(previous) == len(following) == data.steps == sum(lengths) - len(lengths)
    last = previous[:, -2:]
    np.testing.assert_array_equal(following[:, 0] - last[:, 0], 1)
    np.testing.assert_array_equal(last[:, 0] // 100, number)
    for shift in range(frames):
        older = previous[:, 2 * shift]
        step = last[:, 0] - 100 * number
        np.testing.assert_array_equal(older, 100 * number + np.maximum(0, step - (frames - 1 - shift)))


def test_imitation_s_npz_is_read_and_written(tmp_path):
    arrays = episodes()
    lengths = [len(e) - 1 for e in arrays]
    np.savez(
        tmp_path / "demos.npz",
        obs=np.concatenate(arrays),
        acts=np.full((sum(lengths), 1), np.nan),
        terminal=[True, False, True],
        indices=np.cumsum(lengths[:-1]),
    )
    read = Trajectories.from_path(tmp_path / "demos.npz")
    same(read, arrays)
    assert read.terminal.tolist() == [True, False, True]
    read.save(tmp_path / "again.npz")
    again = Trajectories.from_path(tmp_path / "again.npz")
    same(again, arrays)
    assert again.fingerprint == read.fingerprint
    assert (again.columns, again.labels) == (read.columns, read.labels)


def test_lists_of_arrays_and_rectangles_are_read(tmp_path):
    arrays = episodes()
    np.savez(tmp_path / "list.npz", *arrays)
    same(Trajectories.from_path(tmp_path / "list.npz"), arrays)
    block = np.stack(episodes((4, 4)))
    np.save(tmp_path / "block.npy", block)
    np.savez(tmp_path / "block.npz", observations=block)
    for name in ("block.npy", "block.npz"):
        same(Trajectories.from_path(tmp_path / name), list(block))


def test_d4rl_s_layout_is_cut_at_terminals_and_timeouts(tmp_path):
    flat = {
        "observations": np.arange(10.0)[:, None],
        "next_observations": np.arange(10.0)[:, None] + 0.5,
        "terminals": np.isin(np.arange(10), 3),
        "timeouts": np.isin(np.arange(10), 6),
    }
    np.savez(tmp_path / "flat.npz", **flat)
    read = Trajectories.from_path(tmp_path / "flat.npz")
    same(read, [np.array(v)[:, None] for v in ([0, 1, 2, 3, 3.5], [4, 5, 6, 6.5], [7, 8, 9, 9.5])])
    assert read.terminal.tolist() == [True, False, False]


def test_hdf5_and_minari_are_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "d4rl.hdf5", "w") as file:
        file["observations"] = np.arange(6.0)[:, None]
        file["terminals"] = np.isin(np.arange(6), 2)
        file["timeouts"] = np.isin(np.arange(6), 5)
    same(Trajectories.from_path(tmp_path / "d4rl.hdf5"), [np.arange(3.0)[:, None], np.arange(3.0, 6)[:, None]])
    (tmp_path / "minari" / "data").mkdir(parents=True)
    with h5py.File(tmp_path / "minari" / "data" / "main_data.hdf5", "w") as file:
        for number in (10, 2):
            group = file.create_group(f"episode_{number}")
            group["observations"] = np.full((3, 1), float(number))
            group["terminations"] = [False, number == 2]
    read = Trajectories.from_path(tmp_path / "minari")
    assert read.labels == ("episode_2", "episode_10")
    assert read.terminal.tolist() == [True, False]


def test_without_h5py_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "x.hdf5").write_bytes(b"")
    with pytest.raises(DataError, match="pip install h5py"):
        Trajectories.from_path(tmp_path / "x.hdf5")


def test_tables_keep_names_and_leave_actions_alone(tmp_path):
    frame = pd.DataFrame(
        {
            "episode": ["b", "b", "a", "a", "a"],
            "angle": [1.0, 2.0, 3.0, 4.0, 5.0],
            "speed": [0, 1, 0, 1, 2],
            "action_0": [np.nan] * 5,
            "reward": 1.0,
            "terminal": [0, 1, 0, 0, 0],
        }
    )
    frame.to_csv(tmp_path / "log.csv", index=False)
    frame.to_parquet(tmp_path / "log.parquet")
    for name in ("log.csv", "log.parquet"):
        read = Trajectories.from_path(tmp_path / name)
        assert (read.columns, read.labels) == (("angle", "speed"), ("b", "a"))
        same(read, [np.array([[1, 0], [2, 1]]), np.array([[3, 0], [4, 1], [5, 2]])])
        assert read.terminal.tolist() == [True, False]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([], "holds no episode"),
        ([np.zeros((3, 2)), np.zeros((1, 2))], "episode 1 has 1 observations, expected at least 2"),
        ([np.zeros((3, 2)), np.zeros((3, 4))], "episode 1 has observation dimension 4, episode 0 has 2"),
        ([np.zeros(3)], r"episode 0 has shape \(3,\)"),
        ([np.array([[1.0, 2.0], [3.0, np.nan]])], "episode 0, step 1, dimension x1 is nan"),
        ([np.array([[1.0], [1e300]])], "episode 0, step 1, dimension x0 is 1e"),
        ([np.array([["a"], ["b"]])], "holds <U1, expected real numbers"),
    ],
)
def test_unfit_episodes_are_named(arrays, message):
    with pytest.raises(DataError, match=message):
        Trajectories.from_arrays(arrays)


def test_the_environment_s_dimension_is_checked_in_its_words():
    data = Trajectories.from_arrays(episodes(dim=11))
    message = "demonstrations: episode 0 has observation dimension 11, environment expects 17"
    with pytest.raises(ValueError, match=message):
        data.expect_dim(17)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"1", "expected .npz"),
        ("x.npz", b"no zip", "cannot be read"),
        ("x.csv", b"a,b\n1,2\n", "episode"),
        ("x.csv", b"episode,reward\n1,2\n1,3\n", "no column beside"),
        ("x.csv", b"episode,a\n1,two\n1,3\n", "column 'a' holds words"),
    ],
)
def test_unfit_files_are_refused(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Trajectories.from_path(tmp_path / name)


def test_pickles_and_wrong_indices_are_refused(tmp_path):
    np.savez(tmp_path / "pickled.npz", obs=np.array([np.zeros(2), None], dtype=object), indices=[1])
    with pytest.raises(DataError, match="pickled arrays are not accepted"):
        Trajectories.from_path(tmp_path / "pickled.npz")
    np.savez(tmp_path / "far.npz", obs=np.zeros((5, 1)), indices=[9])
    with pytest.raises(DataError, match="do not fit 5 observations"):
        Trajectories.from_path(tmp_path / "far.npz")
    np.savez(tmp_path / "none.npz", obs=np.zeros((5, 1)))
    with pytest.raises(DataError, match="no indices"):
        Trajectories.from_path(tmp_path / "none.npz")
    with pytest.raises(DataError, match="no such file"):
        Trajectories.from_path(tmp_path / "absent.npz")
