"""Discovery of mixers, stems, neurons and models through Python entry points.

The groups are ``sterf_plugins.mixers``, ``.stems``, ``.neurons`` (factories) and ``.models`` (modules whose import
registers models with timm). This package's own parts come through the same groups as those of other packages.

Policies:
* Listing reads metadata only; a plugin is imported when it is first asked for.
* Two distributions with one name: an error that names both, never last-wins. A name of this package's own stays its
  own; the other distribution is left out with a warning.
* A broken plugin: a warning when all are loaded, the full error when it is asked for.
* ``STERF_PLUGINS=a,b`` allows only these names, ``STERF_PLUGINS_DISABLE=a,b`` leaves these out; a name may be
  qualified by its kind, as in ``mixers:srb``.
"""

import inspect
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points

__all__ = ["KINDS", "Plugin", "PluginError", "discover", "get", "load_all", "rescan", "resolve"]

KINDS = ("mixers", "stems", "neurons", "models")
logger = logging.getLogger("sterf_plugins")


class PluginError(ValueError):
    """A plugin is unknown, ambiguous, disabled or cannot be loaded."""


@dataclass(frozen=True)
class Plugin:
    """One entry point: its kind and name, and the distribution that provides it."""

    kind: str
    name: str
    entry_point: EntryPoint
    distribution: str
    version: str

    @property
    def origin(self) -> str:
        """The distribution and its version, such as ``sterf-plugins==1.0``."""
        return f"{self.distribution}=={self.version}"

    @property
    def own(self) -> bool:
        """Whether this package itself provides the plugin."""
        return self.distribution.replace("_", "-") == "sterf-plugins"

    def load(self) -> object:
        """Import the plugin and return its factory (or, for models, its module).

        Raises:
            PluginError: the import failed; ``__cause__`` is the original error.
        """
        try:
            return self.entry_point.load()
        except Exception as error:
            raise PluginError(
                f"the {self.kind} plugin {self.name!r} of {self.origin} cannot be loaded from "
                f"{self.entry_point.value!r}: {type(error).__name__}: {error}"
            ) from error


def _names(variable: str) -> set[str]:
    """The comma-separated names in an environment variable."""
    return {name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()}


def _listed(kind: str, name: str, names: set[str]) -> bool:
    """Whether ``names`` has the plugin, with or without its kind."""
    return name in names or f"{kind}:{name}" in names


@cache
def _scan(kind: str) -> dict[str, tuple[Plugin, ...]]:
    """The providers of each name, switched-off names included."""
    providers: dict[str, dict[tuple[str, str], Plugin]] = {}
    for ep in sorted(entry_points(group=f"sterf_plugins.{kind}"), key=lambda e: (e.name, e.value)):
        dist = ep.dist
        plugin = Plugin(kind, ep.name, ep, dist.name if dist else "?", dist.version if dist else "?")
        # One distribution seen twice on sys.path (an editable install beside its build) is one plugin.
        providers.setdefault(ep.name, {}).setdefault((plugin.distribution, ep.value), plugin)
    return {name: tuple(candidates.values()) for name, candidates in providers.items()}


def rescan() -> None:
    """Forget the plugins found so far, so that packages installed since are seen (notebooks, tests)."""
    _scan.cache_clear()
    _warn_once.cache_clear()


def discover(kind: str) -> dict[str, tuple[Plugin, ...]]:
    """The plugins of a kind by name, in alphabetical order; none is imported.

    More than one provider under a name is a conflict; ``get`` refuses it.

    Raises:
        ValueError: ``kind`` is not one of ``KINDS``.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` is {kind!r}; allowed: {', '.join(KINDS)}.")
    allowed, disabled = _names("STERF_PLUGINS"), _names("STERF_PLUGINS_DISABLE")
    return {
        name: candidates
        for name, candidates in _scan(kind).items()
        if (not allowed or _listed(kind, name, allowed)) and not _listed(kind, name, disabled)
    }


def get(kind: str, name: str) -> Plugin:
    """The one plugin of that kind and name.

    Raises:
        PluginError: the name is unknown (the message lists the known ones), switched off, or provided more than once.
        ValueError: ``kind`` is not one of ``KINDS``.
    """
    candidates = discover(kind).get(name, ())
    own = [p for p in candidates if p.own]
    if len(own) == 1 and len(candidates) > 1:
        _warn_once(
            f"the {kind} plugin {name!r} of {' and '.join(p.origin for p in candidates if not p.own)} is left out: "
            f"{own[0].origin} has that name. Rename its entry point."
        )
        return own[0]
    if len(candidates) > 1:
        raise PluginError(
            f"{kind} name {name!r} is provided by {' and '.join(p.origin for p in candidates)}; "
            f"uninstall one of them, or rename its entry point."
        )
    if candidates:
        return candidates[0]
    if name in _scan(kind):
        raise PluginError(f"{kind} plugin {name!r} is switched off by STERF_PLUGINS or STERF_PLUGINS_DISABLE.")
    known = ", ".join(discover(kind)) or "none: this environment has no metadata of sterf-plugins; `pip install` it"
    raise PluginError(f"unknown {kind[:-1]} {name!r}; known: {known}.")


@cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def load_all(*kinds: str) -> list[PluginError]:
    """Import every plugin of the kinds (all kinds if none is named); warn about those that fail.

    This package's own come last: in a registry where the last entry of a name counts, they keep their names.

    Returns:
        The errors, so that a caller can report them.
    """
    errors = []
    for kind in kinds or KINDS:
        for name in sorted(discover(kind), key=lambda name: any(p.own for p in discover(kind)[name])):
            try:
                get(kind, name).load()
            except PluginError as error:
                logger.warning("%s", error)
                errors.append(error)
    return errors


# What a user may give for a mixer, a stem or a neuron; see ``resolve``.
Spec = str | Mapping | Callable


def resolve(kind: str, spec: Spec, **offered) -> partial:
    """Turn a user's ``mixer=``, ``stem=`` or ``neuron=`` value into a factory.

    Args:
        kind: group of the plugin, such as "mixers".
        spec: a plugin name; a dict with ``type`` (a name or a callable) and options; or a callable.
        **offered: options that the caller has to offer; the factory receives those that its signature names. Options
            of the same name in the dict take precedence.

    Returns:
        A callable that takes the positional arguments of the kind's protocol.

    Raises:
        PluginError: no plugin of that name can be loaded, or a dict has no ``type``.
        TypeError: ``spec`` is neither a name, nor a dict, nor a callable; a dict has an option that the factory does not take.
    """
    options: dict = {}
    if isinstance(spec, Mapping):
        options = dict(spec)
        if "type" not in options:
            raise PluginError(f"`{kind[:-1]}` is {dict(spec)!r}; a dict needs a `type`, such as dict(type='srb').")
        spec = options.pop("type")
    factory = get(kind, spec).load() if isinstance(spec, str) else spec
    built = hasattr(factory, "named_modules") and not isinstance(factory, type)
    if built or not callable(factory):
        raise TypeError(
            f"`{kind[:-1]}` is {spec!r} ({type(spec).__name__}); give a name, a dict with `type`, or a class or function "
            f"that builds it."
        )
    accepted = _accepted(factory)
    check_options(f"`{kind[:-1]}` {getattr(spec, '__name__', spec)!r}", options, accepted)
    taken = {k: v for k, v in offered.items() if accepted is None or k in accepted}
    return partial(factory, **{**taken, **options})


def check_options(what: str, options: Iterable[str], accepted: Collection[str] | None) -> None:
    """Raise ``TypeError`` for an option that a factory does not take, or for no options; ``accepted=None``: it takes any."""
    if isinstance(options, str) or not isinstance(options, Iterable):
        raise TypeError(f"{what} is {options!r} ({type(options).__name__}); it must be a dict of options.")
    unknown = [] if accepted is None else [name for name in options if name not in accepted]
    if accepted is not None and unknown:
        raise TypeError(f"{what} has no option {unknown[0]!r}; it has {', '.join(sorted(accepted)) or 'none'}.")


def _accepted(factory: Callable) -> set[str] | None:
    """Names of the keyword arguments that a factory accepts; ``None`` if it accepts any."""
    parameters = inspect.signature(factory).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
