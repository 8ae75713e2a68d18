"""Build the documentation site: ``python docs/build_site.py`` writes ``build/site``, which works without a server.

The pages stay where they are read in the repository. They are copied to ``build/pages`` in the same places, with the files
that they link to, so that every link of theirs is one of the site, and a page is added for each public package, made of its
docstrings. MkDocs builds the site from there; a warning, such as that of a link that leads nowhere, is an error.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from make_api import packages
from make_tutorials import notebook
from make_tutorials import pages as tutorials

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)|<img src=\"([^\"]+)\"")


def linked(page: Path) -> list[Path]:
    """The files of the repository that a page links to."""
    names = [a or b for a, b in LINK.findall(page.read_text()) if "://" not in (a or b)]
    return [path for path in (Path(page.parent, name).resolve() for name in names) if path.is_file()]


def copy_pages(waiting: list[Path], folder: Path) -> None:
    """Copy pages, and what they link to, to the same places below a folder."""
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        if path.suffix == ".md":
            waiting += linked(path)


def write_notebooks(folder: Path) -> None:
    """Write each tutorial as a notebook, too, and a link to it below the title of its page."""
    for page in tutorials():
        copy = folder / page.relative_to(ROOT)
        copy.with_suffix(".ipynb").write_text(notebook(page))
        title, _, text = copy.read_text().partition("\n")
        copy.write_text(f"{title}\n\n[Download as a notebook]({page.stem}.ipynb)\n{text}")


def write_reference(folder: Path) -> list[dict[str, str]]:
    """Write a page of docstrings for each public package; returns title -> page, without the first word, which all share."""
    (folder / "reference").mkdir(parents=True)
    names = packages()
    for name in names:
        (folder / "reference" / f"{name}.md").write_text(f"# {name}\n\n::: {name}\n")
    return [{name.removeprefix("sterf_plugins."): f"reference/{name}.md"} for name in names]


def main(out: Path) -> None:
    """Write the pages to ``out/pages``, and the site to ``out/site``."""
    pages, written = out / "pages", out / "mkdocs.yml"
    shutil.rmtree(pages, ignore_errors=True)
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    copy_pages([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("configs/**/README.md")], pages)
    copy_pages([ROOT / name for name in [*config["extra_css"], *config["extra"]["polyfills"]]], pages)
    write_notebooks(pages)
    sections = {title: entry for part in config["nav"] for title, entry in part.items()}
    sections["Reference"].append({"Python": write_reference(pages)})
    others = sorted(p.relative_to(pages).as_posix() for p in pages.rglob("*.md"))
    sections["Background"].append({"Project": [page for page in others if page not in _pages(config["nav"])]})
    config |= dict(docs_dir=str(pages), site_dir=str(out / "site"))
    (strings,) = (plugin["mkdocstrings"] for plugin in config["plugins"] if "mkdocstrings" in plugin)
    strings["handlers"]["python"]["paths"] = [str(ROOT)]
    written.write_text(yaml.safe_dump(config, sort_keys=False))
    quiet = dict(os.environ, NO_MKDOCS_2_WARNING="1")  # Material's own note about its successor
    subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(written)], check=True, env=quiet)
    print(f"open {out / 'site' / 'index.html'}")


def _pages(entry: object) -> list[str]:
    """All pages of a part of the navigation."""
    if isinstance(entry, dict):
        return [page for part in entry.values() for page in _pages(part)]
    return [page for part in entry for page in _pages(part)] if isinstance(entry, list) else [str(entry)]


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]).resolve() if sys.argv[1:] else ROOT / "build")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
