"""Real text with labels that is on every machine: the docstrings of the standard library.

The prose is read from the source files of the running interpreter, which are parsed and never imported; the label of
a passage is its module's family (mail, web, data, ...). Near-duplicates are removed and the parts are divided by
top-level definition, because docstrings repeat themselves: divided at random, a test would reward memory.

Another version of Python has other docstrings. The fingerprint tells them apart, and the notes name the version.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import platform
import re
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from paperworks.data.errors import DataMissing
from paperworks.data.near_duplicates import near_duplicate_groups
from paperworks.data.text import DEV_SHARE, TEST_SHARE, Part, TextClassification

RECIPE = 1
LEAST_PASSAGES = 3_000
LONGEST_PASSAGE, SHORTEST_PASSAGE = 32, 8
SHORTEST_SENTENCE, LONGEST_SENTENCE, LEAST_LETTERS = 3, 60, 0.65
LARGEST_UNIT = 0.1

FAMILIES = {
    "mail": "email mailbox smtplib imaplib poplib mimetypes quopri base64",
    "web": "http urllib wsgiref xmlrpc html ftplib socketserver webbrowser socket ssl ipaddress uuid netrc",
    "data": "xml json csv configparser plistlib tomllib pickle pickletools copyreg shelve dbm",
    "concurrency": "asyncio threading multiprocessing concurrent subprocess queue selectors sched signal contextvars "
    "threading_local",
    "numbers": "decimal fractions statistics random datetime calendar numbers strptime heapq bisect colorsys pylong",
    "files": "io pathlib shutil tempfile tarfile zipfile gzip bz2 lzma fileinput glob fnmatch os posixpath ntpath "
    "genericpath filecmp stat compression linecache wave",
    "testing": "unittest doctest pdb bdb logging traceback trace profile cProfile pstats timeit warnings tracemalloc",
    "language": "typing importlib inspect ast dis opcode tokenize pkgutil runpy symtable code codeop pyclbr "
    "modulefinder zipimport py_compile compileall site sysconfig enum dataclasses functools abc contextlib "
    "collections collections_abc weakref weakrefset copy operator types keyword rlcompleter venv",
    "text": "difflib textwrap re string codecs encodings gettext locale argparse optparse getopt cmd shlex pprint "
    "reprlib unicodedata stringprep pydoc",
}
FAMILY = {module: family for family, modules in FAMILIES.items() for module in modules.split()}
SKIPPED = {"test", "tests", "idlelib", "_pyrepl"}

SENTENCE_END = re.compile(r"""[.!?]["')\]]*(?=\s+["'`(]?[A-Z])""")
ABBREVIATION = re.compile(r"""\b(e\.g|i\.e|etc|cf|vs)\.["')\]]*$""", re.IGNORECASE)
NO_PROSE = re.compile(
    r""">>> | ^\s*[-*+•]\s | ^\s*:\w | [-=~_*]{4,}""",
    re.MULTILINE | re.VERBOSE,
)


@dataclass(frozen=True, order=True)
class Passage:
    """Some sentences of one docstring; `unit` is the top-level definition it belongs to, or the file."""

    file: str
    definition: str
    text: str
    unit: str
    family: str


def stdlib_text(*, split: Literal["definition", "file"] = "definition") -> TextClassification:
    """Passages of the standard library's docstrings, labelled by module family.

    Args:
        split: "definition": no two parts share a top-level class or function; "file": no two parts share a file,
            which is harder and leaves the labels unbalanced.

    Raises:
        ValueError: `split` is neither.
        DataMissing: the interpreter comes without its source files, or with too few.
    """
    if split not in ("definition", "file"):
        raise ValueError(f"split: expected definition or file, got {split!r}")
    passages = deduplicate(list(read_passages(_source_folder())))
    if len(passages) < LEAST_PASSAGES:
        raise DataMissing(
            f"stdlib text: only {len(passages):,} passages in {_source_folder()}, expected {LEAST_PASSAGES:,} or more; "
            "install a Python that comes with its complete standard library"
        )
    parts = split_by_unit([(item.family, item.file if split == "file" else item.unit) for item in passages])
    built = TextClassification.build(
        "stdlib-text", [item.text for item in passages], [item.family for item in passages], parts
    )
    version = f"stdlib-text {RECIPE}, Python {platform.python_version()}, {len(passages):,} passages"
    counts = Counter(parts)
    notes = (
        f"{version}, sha256 {built.fingerprint[:6]}",
        f"{counts['train']:,} train, {counts['dev']:,} dev, {counts['test']:,} test, divided by {split}",
    )
    return dataclasses.replace(built, notes=notes)


def read_passages(folder: Path) -> Iterator[Passage]:
    """The passages of all docstrings of the listed modules below a folder of Python sources."""
    for module, path in _sources(folder):
        file = path.relative_to(folder).as_posix()
        for definition, docstring in _docstrings(path):
            top = definition.partition(".")[0]
            unit = f"{module}:{top}" if top else file
            for text in cut(docstring):
                yield Passage(file, definition, text, unit, FAMILY[module])


def listed_module(name: str) -> str | None:
    """The listed module of a top-level name: itself, or what is left without a leading `_` or `_py`."""
    return next((each for each in (name, name.removeprefix("_"), name.removeprefix("_py")) if each in FAMILY), None)


def cut(docstring: str) -> list[str]:
    """Passages of whole sentences, at most 32 words (or one longer sentence) and at least 8.

    Paragraphs that are no prose are left out, and end a passage.
    """
    passages: list[str] = []
    words = 0
    fresh = True
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        if _is_no_prose(paragraph):
            fresh = True
            continue
        for sentence in sentences(" ".join(paragraph.split())):
            length = len(sentence.split())
            if fresh or words + length > LONGEST_PASSAGE:
                passages.append(sentence)
                words, fresh = length, False
            else:
                passages[-1] += f" {sentence}"
                words += length
    return [passage for passage in passages if len(passage.split()) >= SHORTEST_PASSAGE]


def sentences(text: str) -> list[str]:
    """The sentences of 3 to 60 words that are mostly letters."""
    begin, found = 0, []
    for end in SENTENCE_END.finditer(text):
        if not ABBREVIATION.search(text, begin, end.end()):
            found.append(text[begin : end.end()].strip())
            begin = end.end()
    found.append(text[begin:].strip())
    return [sentence for sentence in found if _is_sentence(sentence)]


def deduplicate(passages: Sequence[Passage]) -> list[Passage]:
    """One passage, the smallest, of each group of near-duplicates; none where a group has two families. Sorted."""
    equal: dict[str, list[Passage]] = defaultdict(list)
    for passage in passages:
        equal[re.sub(r"[^a-z]", "", passage.text.lower())].append(passage)
    distinct = _one_of_each(equal.values())
    groups = near_duplicate_groups([passage.text for passage in distinct])
    return _one_of_each([[distinct[index] for index in group] for group in groups])


def split_by_unit(rows: Sequence[tuple[str, str]]) -> list[Part]:
    """The part of each row (label, unit), all rows of a unit in one part.

    Within each label, units in order of the SHA-256 of their name go to test until it has a fifth, then to dev until
    it has a tenth, then to train; a unit with over a tenth of the label's rows goes to train.
    """
    sizes = Counter(rows)
    totals = Counter(label for label, _ in rows)
    filled: Counter[tuple[str, Part]] = Counter()
    parts: dict[tuple[str, str], Part] = {}
    for label, unit in sorted(sizes, key=lambda row: hashlib.sha256(row[1].encode()).digest()):
        size, total = sizes[label, unit], totals[label]
        part: Part = "train"
        if size <= LARGEST_UNIT * total:
            if filled[label, "test"] < TEST_SHARE * total:
                part = "test"
            elif filled[label, "dev"] < DEV_SHARE * total:
                part = "dev"
        filled[label, part] += size
        parts[label, unit] = part
    return [parts[row] for row in rows]


def _source_folder() -> Path:
    folder = Path(sysconfig.get_paths()["stdlib"])
    if not folder.is_dir():
        raise DataMissing(f"stdlib text: no folder {folder}; install a Python that comes with its standard library")
    return folder


def _sources(folder: Path) -> Iterator[tuple[str, Path]]:
    """(listed module, file) without looking into other folders: site-packages may be large."""
    for top in sorted(folder.iterdir()):
        module = listed_module(top.name.removesuffix(".py"))
        if module is None:
            continue
        for file in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
            if file.suffix == ".py" and not SKIPPED & set(file.relative_to(folder).parts):
                yield module, file


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """(dotted name, docstring) of the module, named "", and of every class and function in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in the sources are none of our business
        tree = ast.parse(path.read_bytes())
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        name, node = waiting.pop()
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and (docstring := ast.get_docstring(node, clean=False)):
            yield name, docstring
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                waiting.append((f"{name}.{child.name}" if name else child.name, child))
            elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                waiting.append((name, child))


def _is_no_prose(paragraph: str) -> bool:
    """Examples, lists, fields, rules, and layouts of more than two depths of indentation."""
    depths = {len(line) - len(line.lstrip()) for line in paragraph.split("\n")}
    return len(depths) > 2 or NO_PROSE.search(paragraph) is not None


def _is_sentence(text: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in text)
    return SHORTEST_SENTENCE <= len(text.split()) <= LONGEST_SENTENCE and letters >= LEAST_LETTERS * len(text)


def _one_of_each(groups: Iterable[Sequence[Passage]]) -> list[Passage]:
    return sorted(min(group) for group in groups if len({passage.family for passage in group}) == 1)
