"""What all tests share: one thread per process (two run side by side), no hub, the toy paper and the command line."""

import os
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

settings.register_profile("paperworks", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("paperworks")

TOY = Path(__file__).parent / "toy"


@pytest.fixture(scope="session")
def benchmark_data():
    """benchmark_data(name) -> the folder of benchmark data, which a test asks for before it reads them.

    The only tests that are skipped for want of data are those of a machine where no folder is named. A folder that is
    named must hold what is asked for: otherwise these tests would be left out unseen.
    """
    named = os.environ.get("PAPERWORKS_DATA")

    def folder(name):
        if not named:
            pytest.skip("benchmark data: PAPERWORKS_DATA names no folder")
        assert (Path(named) / name).is_dir(), f"PAPERWORKS_DATA: {named} does not hold {name}"
        return Path(named) / name

    return folder


@pytest.fixture
def toy(monkeypatch):
    """The toy paper, a room outside the package, reachable in this process and in worker processes."""
    from paperworks import catalog

    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.setenv("PYTHONPATH", str(TOY))
    catalog._index.cache_clear()
    yield catalog.find("toy_paper")
    catalog._index.cache_clear()


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit status."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(toy, tmp_path, monkeypatch, capsys):
    """Call the command line in an empty folder, with the toy paper installed."""
    from paperworks.cli import main

    def call(*arguments, check=None, env=None):
        monkeypatch.chdir(tmp_path)
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        printed = capsys.readouterr()
        answer = Answer(status, printed.out, printed.err)
        if check is not None:
            assert status == check, printed.out + printed.err
        return answer

    return call
