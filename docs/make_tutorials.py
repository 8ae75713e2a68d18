"""Run the tutorials at full size, and keep the pictures that they make: ``python docs/make_tutorials.py [NAME …]``.

A tutorial is a page of docs/tutorials. Its blocks of Python run one after another in one process, and its ``sterf`` commands
between them, all in the folder build/tutorials/NAME, which begins empty. Pictures that the page shows come from there. In front
of a block an HTML comment, which no reader sees, may say what the tests do to be quick: ``<!-- before: CODE -->`` runs before
the block, and ``<!-- instead: COMMANDS -->`` in its place. ``docs/build_site.py`` writes each page as a notebook, too.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent / "tutorials"
BLOCK = re.compile(r"(?:<!-- (before|instead|not run):\s*(.*?)-->\s*)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"^!\[[^\]]*\]\(images/(\S+)\)$", re.MULTILINE)


def pages() -> list[Path]:
    """The tutorials, without their table of contents."""
    return sorted(p for p in FOLDER.glob("*.md") if p.name != "README.md")


def run(page: Path, command: Callable[[list[str]], None], small: bool) -> None:
    """Run a tutorial in the current folder.

    Args:
        page: the tutorial.
        command: runs the words of a ``sterf`` command, without the first.
        small: whether the comments in front of blocks count.
    """
    names: dict = {"__name__": page.stem}
    for kind, text, language, code in BLOCK.findall(page.read_text()):
        if language == "python":
            if small and kind == "before":
                exec(compile(text, f"{page.name} (before)", "exec"), names)
            exec(compile(code, page.name, "exec"), names)
        elif language == "bash":
            for line in (text if small and kind == "instead" else code).replace("\\\n", " ").splitlines():
                if (words := shlex.split(line, comments=True))[:1] == ["sterf"]:
                    command(words[1:])


def notebook(page: Path) -> str:
    """A tutorial as a Jupyter notebook; it shows the pictures that it has made itself."""
    cells = []

    def add(kind: str, source: str) -> None:
        if source.strip():
            outputs = dict(outputs=[], execution_count=None) if kind == "code" else {}
            cells.append(dict(cell_type=kind, metadata={}, source=source.strip(), **outputs))

    def add_text(text: str) -> None:
        text = re.sub(
            r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
        )
        for i, part in enumerate(PICTURE.split(text)):
            add(
                "code" if i % 2 else "markdown",
                f'from IPython.display import Image\n\nImage("{part}")' if i % 2 else part,
            )

    text, end = page.read_text(), 0
    for match in BLOCK.finditer(text):
        add_text(text[end : match.start()])
        language, code = match[3], match[4]
        shell = re.sub(r"^(?=\w)", "!", code, flags=re.MULTILINE)
        add("markdown" if language == "text" else "code", {"python": code, "bash": shell}.get(language, match[0]))
        end = match.end()
    add_text(text[end:])
    kernel = dict(name="python3", display_name="Python 3", language="python")
    return json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=4), indent=1)


def _sterf(words: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "sterf_plugins", *words], check=True)


def main(names: list[str]) -> None:
    for page in pages():
        if names and page.stem not in names:
            continue
        work = FOLDER.parents[1] / "build" / "tutorials" / page.stem
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        os.chdir(work)
        start = time.time()
        run(page, _sterf, small=False)
        seconds = time.time() - start
        for name in PICTURE.findall(page.read_text()):
            picture = Image.open(work / name).convert("RGB")
            picture.thumbnail((1000, 1000))
            # Of all methods the one that keeps rare colours, such as the bright end of a scale.
            small = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
            small.save(FOLDER / "images" / name, optimize=True)
        print(f"{page.stem}: {seconds:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
