"""What Ctrl-C does to a tool, wherever it arrives, and numbers and sizes that make no sense."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from sterf_plugins.cli.completion import add_options
from sterf_plugins.cli.console import check_counts, is_mistake, run_tool

SCRIPT = """
import io, os, signal, time
import torch
from sterf_plugins.cli import console

class Slow(io.BytesIO):
    def write(self, data):
        if not self.tell():
            os.kill(os.getpid(), signal.SIGINT)  # arrives below the C++ writer
            time.sleep(0.2)
        return super().write(data)

def in_a_bare_except():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    except:
        raise SyntaxError("as mmengine's Config.pretty_text")

def in_torch_save():
    file = Slow()
    try:
        torch.save(dict(weight=torch.zeros(9)), file)
        time.sleep(5)
    finally:  # the signal comes again within 0.05 s of the end, which may be before the next line
        file.seek(0)
        print("saved", *torch.load(file), flush=True)

def in_a_finalizer():
    class Late:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
    Late()
    time.sleep(5)

def in_a_loop():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)

console.run_tool({})
"""


@pytest.mark.parametrize("place", ["in_a_bare_except", "in_torch_save", "in_a_finalizer", "in_a_loop"])
@pytest.mark.slow
def test_an_interrupt_is_one_line_and_exit_code_130(forked, place):
    result = forked("-c", SCRIPT.replace("{}", place))
    assert result.returncode == 130, result.stderr
    assert "interrupted; go on with the same command\n" in result.stderr and "Traceback" not in result.stderr
    assert result.stdout == ("saved weight\n" if place == "in_torch_save" else "")


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGINT)", "int(Path('nowhere').read_text())"])
def test_the_message_stands_behind_the_progress_bar(forked, end):
    script = f"""
import os, signal
from pathlib import Path
from tqdm import tqdm
from sterf_plugins.cli import console

def work(i):
    {end}

def main():
    bar = tqdm(range(9), mininterval=0)
    return [work(i) for i in bar]

console.run_tool(main)
"""
    lines = forked("-c", script).stderr.replace("\r", "\n").split("\n")
    places = [i for i, line in enumerate(lines) if line.startswith("-c: ")]
    assert len(places) == 1 and not any("it/s]" in line for line in lines[places[0] :]), lines


TOOL_THAT_PRINTS = "from sterf_plugins.cli import console; console.run_tool(lambda: print('line'))"


@pytest.mark.parametrize("words", [["-c", TOOL_THAT_PRINTS], ["-m", "sterf_plugins", "configs"]])
@pytest.mark.slow
def test_a_tool_whose_output_nobody_reads_ends_without_a_word(words):
    """As behind ``| head``."""
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 141)
    process.stderr.close()


@pytest.mark.slow
def test_what_an_interrupted_tool_says_of_going_on_is_an_option_that_it_has():
    for tool in Path(__file__).parents[2].glob("tools/**/*.py"):
        known = argparse.ArgumentParser(add_help=False)
        add_options(known, tool)
        for option in re.findall(r'run_tool\(main, again="[^"]*(--[\w-]+)', tool.read_text()):
            assert option in known.format_usage(), f"{tool.name} has no {option}"


def test_numbers_of_options_are_at_least_1():
    args = argparse.Namespace(batch=1, input_size=[0, 32], time_steps=None, threads=-1)
    check_counts(args, "batch", "time_steps")
    with pytest.raises(ValueError, match="--input-size is 0 32; it must be at least 1"):
        check_counts(args, "batch", "input_size")
    with pytest.raises(ValueError, match="--threads is -1; it must"):
        check_counts(args, "threads")


def test_without_a_network_a_tool_says_what_it_could_not_download(tmp_path, capsys):
    """Nobody listens on this port; a stock config's pretrained weights come by the same function of PyTorch."""
    with pytest.raises(SystemExit) as end:
        run_tool(lambda: torch.hub.load_state_dict_from_url("http://127.0.0.1:9/weights.pth", tmp_path))
    told = "".join(capsys.readouterr())
    assert end.value.code == 2 and "127.0.0.1:9/weights.pth" in told and "Traceback" not in told
    assert re.search(r"error: a file, .* cannot be downloaded \(.*refused\).*model.backbone.init_cfg=None", told)


def test_an_image_of_a_size_that_a_model_does_not_take_is_a_mistake():
    model = timm.create_model("vit_tiny_patch16_224", depth=1)
    with pytest.raises(AssertionError, match="Input height") as caught:
        model(torch.zeros(1, 3, 32, 32))
    assert is_mistake(caught.value, lambda: None)
    with pytest.raises(AssertionError, match="expected 4D") as caught:
        timm.layers.BatchNormAct2d(3)(torch.zeros(1, 3))
    assert not is_mistake(caught.value, lambda: None)
