"""``sterf COMMAND``, or ``python -m sterf_plugins COMMAND``: the tools, what is installed, and does it work."""

import argparse
import difflib
import importlib.util
import inspect
import os
import sys
from itertools import groupby
from pathlib import Path

from . import __version__, plugins
from .cli.begin import OptionParser, begin, end_at_once, end_unread, let_threads_sleep
from .cli.completion import add_options
from .cli.new_plugin import write_plugin
from .cli.own_tools import FOLDER, own_tools, run_own_tool, summary


def list_plugins(args: argparse.Namespace) -> int:
    """List every plugin: its kind, its name, the distribution that provides it, and whether it loads."""
    rows = [("kind", "name", "distribution", "status")]
    failed = 0
    for kind in plugins.KINDS:
        for name, candidates in plugins.discover(kind).items():
            try:
                plugins.get(kind, name).load()
                status = "ok"
            except plugins.PluginError as error:
                status, failed = f"{error.__cause__ or error}".splitlines()[0], failed + 1
            rows.append((kind, name, " / ".join(p.origin for p in candidates), status))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]))
    return 1 if failed else 0


def info(args: argparse.Namespace) -> int:
    """Describe one plugin, timm model or type of configs: where it comes from, its arguments, and its docstring."""
    found = False
    for kind in plugins.KINDS:
        if args.name not in plugins.discover(kind):
            continue
        found = True
        plugin = plugins.get(kind, args.name)
        target = plugin.load()
        print(f"{kind[:-1]} {plugin.name!r} of {plugin.origin}: {plugin.entry_point.value}")
        _print_documentation(plugin.name, target)
    if not found and importlib.util.find_spec("timm"):
        found = _model_info(args.name)
    types = {} if found or not importlib.util.find_spec("mmengine") else _types_of_configs()
    name = args.name.removeprefix(f"{__package__}.")  # which a type has in configs
    if name in types:
        print(f"type '{__package__}.{name}' of configs: {types[name].__module__}.{types[name].__qualname__}")
        _print_documentation(name, types[name])
    if found or name in types:
        return 0
    names = {*types, *(name for kind in plugins.KINDS for name in plugins.discover(kind))}
    if importlib.util.find_spec("timm"):
        import timm

        names.update(timm.list_models())
    near = difflib.get_close_matches(name, sorted(names), 3)
    print(
        f"sterf info: error: no plugin, timm model or type of configs {args.name!r}; near: {', '.join(near) or 'none'}. "
        f"`sterf list` has all plugins, and timm.list_models() all models.",
        file=sys.stderr,
    )
    return 2


def _types_of_configs() -> dict[str, type]:
    """What ``type="sterf_plugins.NAME"`` means in a config, by name."""
    begin()  # mmdet and mmseg have things to say when they are imported
    from . import registry

    registries = [getattr(registry, name) for name in registry.__all__]
    for one in registries:
        one.import_from_location()
    return {name: registered for one in registries for name, registered in one.module_dict.items()}


def _print_documentation(name: str, target: object) -> None:
    """Print how a plugin or type is called, its docstring, and those of base classes in this package that describe arguments."""
    if callable(target):
        print(f"  {name}{inspect.signature(target)}")
    bases = target.__mro__[1:] if isinstance(target, type) else ()
    shared = [
        base for base in bases if base.__module__.partition(".")[0] == __package__ and "Args:" in (base.__doc__ or "")
    ]
    for text in [
        inspect.getdoc(target) or "no description",
        *(f"\n{base.__name__}: {inspect.getdoc(base)}" for base in shared),
    ]:
        print("  " + text.replace("\n", "\n  "))


def _model_info(name: str) -> bool:
    """Print what is known of a timm model; return whether timm has it."""
    import timm
    import torch

    from . import timm as registered  # noqa: F401
    from .mixers import TokenMixer

    if not timm.is_model(name):
        return False
    with torch.device("meta"):
        model = timm.create_model(name)
    levels = getattr(model, "feature_info", [])
    levels = getattr(levels, "info", levels)
    print(f"timm model {name!r}: {type(model).__module__}.{type(model).__qualname__}")
    print(f"  parameters: {sum(p.numel() for p in model.parameters()):,} ({model.num_classes} classes)")
    for i, level in enumerate(levels):
        print(f"  feature level {i}: {level['num_chs']} channels at stride {level['reduction']} ({level['module']})")
    if hasattr(model, "levels"):
        print(f"  integer spike levels: D={model.levels}; no time axis (T=1)")
    mixers = [m for m in model.modules() if isinstance(m, TokenMixer)]
    if any(m.layout == "raster" for m in mixers):
        print(
            "  mixer layout: raster, as released. The mixers' Linear runs over raster-consecutive numbers of the\n"
            "  (B, C, H, W) buffer, not over channels; its grouping depends on H and W, so the model is not\n"
            "  resolution-consistent. The plain model names have the per-pixel channel MLP."
        )
    elif mixers:
        print("  mixer layout: channel, a per-pixel channel MLP (released checkpoints need the names with _released)")
    if any(isinstance(m.bn1, torch.nn.Identity) for m in mixers):
        print(
            "  mixers without the BN of the paper's formula, as released: trained from random weights, their hidden\n"
            "  spikes never fire. Use this model for released checkpoints, and the plain name for a training."
        )
    return True


def doctor(args: argparse.Namespace) -> int:
    """Check the installation: versions, mmcv's ops, OpenCV, config bases, plugins, and what each missing piece costs."""
    from .cli.doctor import doctor

    return doctor()


def configs(args: argparse.Namespace) -> int:
    """List the shipped configs, under the names that tools and ``_base_`` take."""
    root = Path(__file__).parent / ".mim" / "configs"
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.py") if not {"_base_", "erf"} & set(p.parts))
    for name in names:
        print(f"sterf_plugins::{name}")
    if not names:
        print(f"sterf: error: {root} is missing; install the package: pip install -e CHECKOUT", file=sys.stderr)
    return 0 if names else 2


def run(args: argparse.Namespace) -> int:
    """Run a tool that mmdet or mmseg is installed with, such as get_flops, with our configs; without a name, list them.

    What follows the tool's name is the tool's; its configs may be mmdet::…, mmseg::…, sterf_plugins::….
    """
    from .cli.console import run_tool
    from .cli.stock_tools import LIBRARIES, run_stock_tool, stock_tools

    if args.tool:
        sys.argv[0] = f"sterf run {args.tool}"  # the name in messages
        run_tool(lambda: run_stock_tool(args.tool, args.library, args.arguments))
        return 0
    for library in LIBRARIES:
        for folder, tools in groupby(stock_tools(library).items(), lambda tool: tool[1].parent.name):
            print(f"{library} {folder}: {', '.join(name for name, _ in tools)}")
    print("sterf run TOOL [--library mmdet|mmseg] ARGUMENTS…")
    return 0


def new_plugin(args: argparse.Namespace) -> int:
    """Write a package with a mixer and a stem of your own, its tests and its continuous integration.

    The package is a working one: install it, and the names are known to timm models, configs and tools.
    """
    folder = args.folder or Path(args.name)
    try:
        for path in write_plugin(args.name, folder):
            print(path)
    except (ValueError, OSError) as error:
        print(f"sterf new-plugin: error: {error}", file=sys.stderr)
        return 2
    print(f"next: pip install -e '{folder}[test]' && pytest {folder}")
    return 0


COMMANDS = {
    "list": list_plugins,
    "info": info,
    "doctor": doctor,
    "configs": configs,
    "run": run,
    "new-plugin": new_plugin,
}


def parser(tools: dict[str, Path], with_options: str = "") -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        tools: command -> file of the tools that it knows beside ``COMMANDS``; each parses its own options.
        with_options: the tool whose options it knows, too, for completion.
    """
    parser = OptionParser(
        prog="sterf",
        description="Spiking vision models in timm, mmdet and mmseg: train, test, look at fields, and see what is installed.",
        epilog="`sterf COMMAND --help` tells the options of each.",
    )
    parser.add_argument("--version", action="version", version=f"sterf-plugins {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, path in tools.items():
        command = commands.add_parser(name, help=summary(path), add_help=False)
        if name == with_options:
            add_options(command, path)
    for name, function in COMMANDS.items():
        text = function.__doc__ or ""
        command = commands.add_parser(
            name, help=text.splitlines()[0], description=text, add_help=name != "run", allow_abbrev=False
        )
        command.set_defaults(run=function)
        if name == "info":
            command.add_argument(
                "name",
                help="a name of a plugin, of a timm model, or of a type in configs, such as sterf_plugins.ERFHook",
            )
        if name == "new-plugin":
            command.add_argument("name", metavar="NAME", help="name of the package, such as my-mixers")
            command.add_argument("--folder", type=Path, help="where to write it (default: ./NAME)")
        if name == "run":  # --help is the tool's own
            command.add_argument("tool", nargs="?", metavar="TOOL", help="name of the tool")
            command.add_argument("--library", choices=["mmdet", "mmseg"], help="whose tool, where both have it")
    return parser


def main() -> int:
    """Run the command that the command line names, and return its exit code."""
    sys.argv[0] = "sterf"  # the name in messages
    end_at_once()
    let_threads_sleep()
    tools = own_tools()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what could follow, and this process ends with the answer
        import argcomplete

        argcomplete.autocomplete(parser(tools, "".join(os.environ["COMP_LINE"].split()[1:2])))
    named = sys.argv[1] if len(sys.argv) > 1 else ""
    if not tools and named not in COMMANDS:
        print(f"sterf: error: {FOLDER} is missing; install the package: pip install -e CHECKOUT", file=sys.stderr)
        return 2
    if named in tools:  # its options are its own
        run_own_tool(named, sys.argv[2:])
        return 0
    own = parser({} if named in COMMANDS else tools)
    if named and not named.startswith("-") and named not in COMMANDS:
        near = difflib.get_close_matches(named, [*tools, *COMMANDS], 2)
        own.error(f"there is no command {named!r}; near: {', '.join(near) or 'none'}")
    args, rest = own.parse_known_args()
    if args.command == "run":
        args.arguments = rest
    elif rest:
        own.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        code = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        end_unread()
    return code


if __name__ == "__main__":
    sys.exit(main())
