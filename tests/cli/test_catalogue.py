import json
import os
import subprocess
import sys
import time

import pytest

from paperworks import catalog

BLOCKED = ("torch", "pandas", "numpy", "matplotlib", "transformers", "tyro", "sklearn")


def test_list_shows_area_slug_title_and_state(command):
    rows = [line.split("\t") for line in command("list", check=0).stdout.splitlines()]
    assert ["learning", "toy_paper", "A Toy Paper", "no stored run"] in rows
    assert {"fnet", "irt"} <= {row[1] for row in rows}
    facts = json.loads(command("list", "--json", "--area", "learning", check=0).stdout)
    assert {"area": "learning", "slug": "toy_paper", "title": "A Toy Paper", "state": "no stored run"} in facts
    assert {fact["area"] for fact in facts} == {"learning"}


def test_list_speaks_chinese_and_filters_by_tag_and_symptom(command):
    assert "玩具论文" in command("list", "--lang", "zh", check=0).stdout
    assert [line.split("\t")[1] for line in command("list", "--tag", "toy", check=0).stdout.splitlines()] == [
        "toy_paper"
    ]
    assert "irt" in command("list", "--symptom", "saturated benchmark", check=0).stdout
    assert "fnet" not in command("list", "--symptom", "saturated benchmark", check=0).stdout


def test_which_finds_the_paper_for_a_problem(command):
    assert command("which", "saturated", "benchmark", check=0).stdout.splitlines()[0].endswith("\tirt")
    long = command("which", "long sequences", check=0).stdout.splitlines()
    assert {"aft", "fnet"} == {line.rsplit("\t", 1)[1] for line in long[:2]}
    assert command("which", "qwertyuiop").returncode == 1
    assert len(command("which", check=0).stdout.splitlines()) == sum(len(card.symptoms) for card in catalog.cards())


def test_show_and_cite(command):
    shown = command("show", "toy_paper", check=0).stdout
    assert "Arm b is better than arm a by at least 0.05." in shown
    assert "paperworks run toy_paper" in shown
    assert json.loads(command("show", "irt", "--json", check=0).stdout)["area"] == "evaluation"
    assert command("cite", "irt", "toy_paper", check=0).stdout.count("@") == 2


def test_an_unknown_slug_suggests_the_nearest(command):
    answer = command("show", "fnett")
    assert answer.returncode == 2
    assert "did you mean fnet" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["which", "long"], ["show", "fnet"]])
def test_the_catalogue_imports_nothing_heavy(arguments, tmp_path):
    code = (
        "import sys; from paperworks.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {BLOCKED!r} if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert answer.stdout.splitlines()[-1] == "[]"


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, paperworks; print([name for name in {BLOCKED!r} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["list"], ["--help"]])
def test_list_and_help_answer_at_once(arguments):
    def seconds():
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "paperworks", *arguments], capture_output=True, check=True)
        return time.perf_counter() - start

    # The interpreter's own start is the yardstick: this is about what we add, not about how busy the machine is.
    def interpreter():
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import argparse, json, tomllib"], capture_output=True, check=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(4)) < min(interpreter() for _ in range(4)) + 0.2


def test_a_closed_pipe_is_no_error(tmp_path):
    answer = subprocess.run(
        f"{sys.executable} -m paperworks which | head -n 1", shell=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert answer.stderr == ""


def test_a_card_with_an_unknown_or_missing_field_is_named(tmp_path):
    (tmp_path / "card.toml").write_text('area = "vision"\ntitel = "x"\n')
    with pytest.raises(ValueError, match=r"card.toml: .*titel"):
        catalog.read_card(tmp_path, module="x")


def test_every_card_is_complete_and_every_room_has_its_furniture():
    for card in catalog.cards():
        assert card.area in catalog.AREAS
        for text in (card.title, card.title_zh, card.summary, card.summary_zh, card.bibtex, *card.symptoms):
            assert text.strip(), card.slug
        assert card.statements()
        for part in ("study", "bench"):
            assert card.has(part), f"{card.slug} lacks {part}.py"


def test_public_names_of_every_area_resolve():
    code = (
        "import importlib\n"
        "from paperworks import catalog\n"
        "for area in sorted({card.area for card in catalog.cards()}):\n"
        "    package = importlib.import_module(f'paperworks.{area}')\n"
        "    for name in package.__all__:\n"
        "        getattr(package, name)\n"
        "    print(area, len(package.__all__))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stderr
    assert "sequence" in answer.stdout
