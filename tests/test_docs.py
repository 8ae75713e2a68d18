"""What the pages show works: Python runs as it stands, one block of a page after another; commands and links exist.

In front of a block an HTML comment, which no reader sees, may stand: ``<!-- before: CODE -->`` makes what the block speaks of
("model", "images") in a small form, ``<!-- not run: REASON -->`` says why the block is not run, and where it is tested.
Tutorials run their commands as they stand. Everywhere else commands are large or need data, so that each block of them has
``<!-- not run: REASON -->``, or ``<!-- instead: COMMANDS -->`` with a line for each: a smaller command, which is run, or
``# REASON``. A reason that names a test (``tests/FILE.py::NAME``) names one that exists. A block that begins with ``# NAME.py`` is
that file.
"""

import argparse
import ast
import functools
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from sterf_plugins import plugins
from sterf_plugins.cli.completion import add_options
from sterf_plugins.cli.own_tools import own_tools


def load_module(path: Path):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("configs/**/README.md")),
]
TUTORIALS = load_module(ROOT / "docs" / "make_tutorials.py")
BLOCK = TUTORIALS.BLOCK


def blocks(page: Path, *languages: str) -> list[tuple[str, str, str]]:
    """Of each block in these languages: the comment's kind, its text, and the block."""
    return [(kind, text, code) for kind, text, lang, code in BLOCK.findall(page.read_text()) if lang in languages]


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p in PAGES if p not in TUTORIALS.pages() and blocks(p, "python", "bash", "")], ids=named
)
def test_the_python_of_a_page_runs(page, forked, tmp_path, monkeypatch):
    """And the commands that stand in the place of larger ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(timm, "create_model", timm.create_model)  # a page replaces it, for weights that are not here
    names: dict = {"__name__": "page"}
    for kind, text, language, code in BLOCK.findall(page.read_text()):
        if kind == "instead":
            for words in command_lines(text):
                result = forked("-m", "sterf_plugins", *words[1:], cwd=tmp_path)
                assert result.returncode == 0, f"{shlex.join(words)}\n{result.stdout}{result.stderr}"
        elif language == "python" and kind != "not run":
            if kind == "before":
                exec(compile(text.strip(), f"{named(page)} (before)", "exec"), names)
            if file := re.match(r"# (\w+\.py)\n", code):
                (tmp_path / file[1]).write_text(code)
            else:
                exec(compile(code, named(page), "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS.pages(), ids=named)
def test_a_tutorial_runs_and_makes_its_pictures(page, forked, tmp_path, monkeypatch):
    """Reduced by the comments in front of its blocks; ``python docs/make_tutorials.py`` runs it at full size."""

    def command(words: list[str]) -> None:
        result = forked("-m", "sterf_plugins", *words, cwd=tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    TUTORIALS.run(page, command, small=True)
    plugins.rescan()
    pictures = TUTORIALS.PICTURE.findall(page.read_text())
    assert pictures and all((tmp_path / name).is_file() for name in pictures)
    assert all((page.parent / "images" / name).stat().st_size < 120_000 for name in pictures)
    assert "## Exercise" in page.read_text()


def test_a_notebook_has_all_cells_of_its_tutorial():
    for page in TUTORIALS.pages():
        cells = json.loads(TUTORIALS.notebook(page))["cells"]
        code = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "code")
        assert all(block.strip() in code for _, _, block in blocks(page, "python"))
        assert all(f'Image("{name}")' in code for name in TUTORIALS.PICTURE.findall(page.read_text()))
        run = [words for kind, _, c in blocks(page, "bash", "") if kind != "not run" for words in command_lines(c)]
        assert "!sterf" in code or not any(words[0] == "sterf" for words in run)
        assert not any("<!--" in cell["source"] or "](../" in cell["source"] for cell in cells)


def command_lines(code: str) -> list[list[str]]:
    """The words of each command, without comments."""
    lines = (
        shlex.split(line, comments=True) for line in code.replace("\\\n", " ").splitlines() if line.count("'") % 2 == 0
    )
    return [words for words in lines if words]


def commands(page: Path) -> list[list[str]]:
    """The words of each command of ours on a page, in blocks and in sentences."""
    sentences = re.findall(r"`(sterf [^`]+)`", BLOCK.sub("", page.read_text()))
    code = [code for _, _, code in blocks(page, "bash", "")] + [" ".join(found.split()) for found in sentences]
    found = [words for lines in code for words in command_lines(lines)]
    return [words for words in found if words[0] in ("sterf", "python")]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_is_run_or_a_reason_is_given(page):
    for kind, text, language, code in BLOCK.findall(page.read_text()):
        assert kind != "not run" or len(text.split()) > 3 or "tests/" in text, f"say why this is not run: {code}"
        lines = command_lines(code) if language in ("bash", "") else []
        if lines and (language or lines[0][0] in ("sterf", "python")) and page not in TUTORIALS.pages():
            assert kind in ("instead", "not run"), f"say what is run instead of this, or why nothing is: {code}"
            stands_for = text.replace("\\\n", " ").strip().splitlines()
            assert kind == "not run" or len(stands_for) >= len(lines), f"a line for each command: {code}"
        for file, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", text):
            assert (ROOT / file).is_file() and (not name or f"def {name}(" in (ROOT / file).read_text()), (
                f"{file}::{name}"
            )


def tool_of(words: list[str]) -> tuple[Path, list[str]] | None:
    """The command's file of ``tools/``, and its words; ``None`` for commands that are none of these."""
    if words[:3] == ["python", "-m", "sterf_plugins"]:
        words = ["sterf", *words[3:]]
    if words[0] == "sterf" and len(words) > 1 and words[1] in own_tools():
        return own_tools()[words[1]].resolve(), words[2:]
    if words[0] == "python" and len(words) > 1 and words[1].startswith("tools/"):
        return ROOT / words[1], words[2:]
    return None


@functools.cache
def options_of(tool: Path) -> set[str]:
    """The options that a tool knows."""
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser, tool)
    return {option for action in parser._actions for option in action.option_strings}


@functools.cache
def needed_options_of(tool: Path) -> set[str]:
    """The options without which a tool ends in an error."""
    calls = [node for node in ast.walk(ast.parse(tool.read_text())) if isinstance(node, ast.Call)]
    needed = [c for c in calls if any(w.arg == "required" and getattr(w.value, "value", False) for w in c.keywords)]
    return {ast.literal_eval(call.args[0]) for call in needed}


@pytest.mark.parametrize("page", [p for p in PAGES if any(map(tool_of, commands(p)))], ids=named)
def test_the_commands_of_a_page_have_the_options_that_they_are_given(page):
    for words in commands(page):
        if (found := tool_of(words)) is None:
            continue
        tool, arguments = found
        assert tool.is_file(), f"{shlex.join(words)}: no such tool"
        given = {a.partition("=")[0] for a in arguments if a.startswith("--")}
        assert given <= options_of(tool), shlex.join(words)
        if arguments and not arguments[0].startswith("-"):  # a whole command, not the mention of an option
            assert needed_options_of(tool) <= given, f"{shlex.join(words)}: needs {needed_options_of(tool)}"
        configs = [a for a in arguments if a.startswith("configs/")]
        assert all((ROOT / config).exists() for config in configs), f"{shlex.join(words)}: no such config"


def test_configs_that_tools_and_pages_name_exist():
    """In their ``--help``, too; NAME.py and the like stand for a name of the reader's."""
    for path in [*PAGES, *ROOT.glob("tools/**/*.py"), *ROOT.glob("sterf_plugins/**/*.py")]:
        for name in re.findall(r"(?<![\w/])(?:configs/|sterf_plugins::)(\w[\w./-]*\.py)\b", path.read_text()):
            assert name == "NAME.py" or (ROOT / "configs" / name).is_file(), f"{named(path)}: {name}"


def test_feature_levels_have_one_name():
    """As in the glossary: in docstrings, messages and comments, too."""
    files = [path for folder in ("sterf_plugins", "tools", "configs") for path in (ROOT / folder).glob("**/*.py")]
    assert not [named(path) for path in [*PAGES, *files] if re.search(r"feature points?\b", path.read_text(), re.I)]


@pytest.mark.parametrize("tool", sorted(ROOT.glob("tools/**/*.py")), ids=named)
def test_the_examples_of_a_help_have_options_and_models_that_exist(tool):
    timm = pytest.importorskip("timm")
    importlib.import_module("sterf_plugins.timm")
    known = options_of(tool)
    lines = [line.strip() for line in re.split(r"(?<!\\)\n", ast.get_docstring(ast.parse(tool.read_text())))]
    for words in command_lines("\n".join(line for line in lines if line.startswith("sterf "))):
        assert own_tools()[words[1]].resolve() == tool, words
        assert {w for w in words if w.startswith("--")} <= known, words
        models = [w.partition("(")[0] for w in words if re.match("sdtv3_|resnet|swin_", w)]
        assert all(map(timm.is_model, models)), words


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_of_a_page_lead_somewhere(page):
    text = re.sub(r"(`+).*?\1", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        target, _, anchor = (link[0] or link[1]).partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{named(page)}: {target}"
        if anchor and path.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
            assert anchor in anchors, f"{named(page)}: #{anchor} is none of {sorted(anchors)}"


@pytest.mark.slow
def test_the_site_is_built_of_the_pages_without_a_warning(forked, tmp_path):
    result = forked(ROOT / "docs" / "build_site.py", tmp_path, fresh=True)
    assert result.returncode == 0, result.stdout + result.stderr
    reference = (tmp_path / "site" / "reference" / "sterf_plugins.erf.html").read_text()
    assert "compute_erf" in reference and "standard errors" in reference
    assert (tmp_path / "site" / "docs" / "images" / "erf_mixers.png").is_file()
    assert (tmp_path / "site" / "docs" / "tutorials" / "memory.ipynb").is_file()
    from_the_network = re.compile(r'<(?:script|img)[^>]* src="?https?:|<link[^>]* rel="?stylesheet[^>]*https?:')
    pages = (tmp_path / "site").rglob("*.html")
    assert not [page for page in pages if from_the_network.search(page.read_text())]
    start = (tmp_path / "site" / "index.html").read_text()
    assert start.index("iframe-worker.js") < start.index("javascripts/bundle")  # which starts the search


@pytest.mark.slow
def test_the_table_of_models_has_every_name_and_its_parameters():
    """``python docs/make_models.py`` writes it."""
    models = load_module(ROOT / "docs" / "make_models.py")
    rows = [line.split("|") for line in models.PAGE.read_text().splitlines() if line.startswith("| `")]
    found = {cells[1].strip(" `"): cells[2].strip() for cells in rows}
    assert list(found) == models.names()
    assert found == {name: models.parameters(name) for name in found}


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
