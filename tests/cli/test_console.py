"""What Ctrl-C does to a tool, wherever it arrives."""

import pytest

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
    torch.save(dict(weight=torch.zeros(9)), Slow())
    print("saved", flush=True)
    time.sleep(5)

def in_a_loop():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)

console.run_tool({})
"""


@pytest.mark.parametrize("place", ["in_a_bare_except", "in_torch_save", "in_a_loop"])
@pytest.mark.slow
def test_an_interrupt_is_one_line_and_exit_code_130(forked, place):
    result = forked("-c", SCRIPT.replace("{}", place))
    assert result.returncode == 130, result.stderr
    assert "interrupted" in result.stderr and "Traceback" not in result.stderr
    assert ("saved" in result.stdout) == (place == "in_torch_save")
