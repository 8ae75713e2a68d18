"""The public names of the package: written down in ``docs/api.md``, importable and documented."""

import importlib
import importlib.util
import inspect
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def api():
    spec = importlib.util.spec_from_file_location("make_api", DOCS / "make_api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_names_what_is_public(api):
    assert api.page() == (DOCS / "api.md").read_text(), "if the change is meant, run `python docs/make_api.py`"


def test_every_public_name_is_documented(api):
    missing = []
    for path in api.packages():
        module = importlib.import_module(path)
        for name in module.__all__:
            value = getattr(module, name)  # also: every name of __all__ is there
            own = inspect.isclass(value) or inspect.isfunction(value)
            if own and not (vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__):
                missing.append(f"{path}.{name}")
    assert not missing, missing
