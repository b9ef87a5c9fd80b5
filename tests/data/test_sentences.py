"""Sentence rules on examples, and what every text must keep."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperworks.data.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        (
            "Dr. Lee met J. Smith, i.e. the author. They spoke.",
            ["Dr. Lee met J. Smith, i.e. the author.", "They spoke."],
        ),
        ("See Fig. 3 and cf. Eq. 4. It holds.", ["See Fig. 3 and cf. Eq. 4.", "It holds."]),
        ("It rose by 3.5 percent. Then it fell.", ["It rose by 3.5 percent.", "Then it fell."]),
        ("At 5 p.m. we left. At 6 p.m. They came.", ["At 5 p.m. we left.", "At 6 p.m.", "They came."]),
        ('"Why?" he asked. "Because." She left.', ['"Why?" he asked.', '"Because."', "She left."]),
        ("Well... maybe. Well... Maybe.", ["Well... maybe.", "Well...", "Maybe."]),
        ("A title\n\nThe text runs\non. End", ["A title", "The text runs\non.", "End"]),
        ("1. First point. 2. Second point.", ["1. First point.", "2. Second point."]),
        ("So did I. Then we left.", ["So did I.", "Then we left."]),
        ("No. See No. 5 and pp. 3 to 7. It is art. So!", ["No.", "See No. 5 and pp. 3 to 7.", "It is art.", "So!"]),
        ("He won (again!). They cheered.", ["He won (again!).", "They cheered."]),
        ("the film . it was long ! was it ?", ["the film .", "it was long !", "was it ?"]),
        ("", []),
        (" \n \n\n", []),
        ("...", ["..."]),
    ],
)
def test_english(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


def test_chinese() -> None:
    assert split_sentences("今天下雨。“真的吗？”他问。是", language="zh") == [
        "今天下雨。",
        "“真的吗？”",
        "他问。",
        "是",
    ]


@given(st.text(alphabet="ab AI.!?…\"')(1\n\t。é", max_size=60), st.sampled_from(["en", "zh"]))
def test_nothing_but_white_space_is_lost(text: str, language) -> None:
    sentences = split_sentences(text, language=language)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence and sentence == sentence.strip() for sentence in sentences)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="text: expected a string, got list"):
        split_sentences(["a"])  # pyright: ignore
    with pytest.raises(ValueError, match="language: expected one of en, zh, got 'fr'"):
        split_sentences("a", language="fr")  # pyright: ignore
