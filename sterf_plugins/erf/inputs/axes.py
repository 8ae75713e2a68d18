"""The axes of inputs by letters, and the one order in which they are differentiated.

Letters: N batch, C channels, H and W rows and columns, L samples of a signal, D slices of a volume. T in front of N is the
time steps of a spiking network, whose fields have lags; T behind N is the frames of a video, which are places as slices
of a volume are.
"""

from dataclasses import dataclass

from torch import Tensor

_ORDER = "TNCDHW"
_PLACES = ({"L"}, {"H", "W"}, {"D", "H", "W"})


@dataclass(frozen=True)
class Axes:
    """The axes of one kind of input.

    Attributes:
        letters: one letter for each axis, frames of a video being D.
    """

    letters: str

    @classmethod
    def parse(cls, text: str) -> "Axes":
        """The axes that ``axes`` of ``compute_erf`` names.

        Raises:
            ValueError: it names none that inputs may have.
        """
        text = str(text)
        letters = text.replace("T", "D") if 0 <= text.find("N") < text.find("T") else text
        known = {"N", "C"} <= set(letters) and set(letters) - set("TNC") in _PLACES
        if not known or len(set(letters)) != len(letters):
            raise ValueError(
                f"`axes` is {text!r}; give a letter for each axis of an input: N (batch), C (channels), and L, or H and W, "
                f"or D (slices) or T (frames) with H and W; T in front of N for time steps. Examples: 'NCHW', 'TNCHW', "
                f"'NCL', 'NCTHW', 'NCDHW', 'NHWC'."
            )
        return cls(letters)

    def __len__(self) -> int:
        return len(self.letters)

    @property
    def timed(self) -> bool:
        """Whether there are time steps."""
        return "T" in self.letters

    @property
    def batch(self) -> int:
        """Index of the batch axis."""
        return self.letters.index("N")

    def with_time(self) -> "Axes":
        """These axes behind one of time steps."""
        return Axes(f"T{self.letters}")

    def ordered(self, x: Tensor) -> Tensor:
        """An input as (N, C, H, W) or (N, C, D, H, W), behind its time steps if it has them; a signal has one row."""
        letters = self.letters.replace("L", "W")
        x = x.permute([letters.index(axis) for axis in _ORDER if axis in letters])
        return x.unsqueeze(-2) if "L" in self.letters else x

    def restored(self, x: Tensor) -> Tensor:
        """The inverse of ``ordered``."""
        letters = self.letters.replace("L", "W")
        x = x.squeeze(-2) if "L" in self.letters else x
        order = [axis for axis in _ORDER if axis in letters]
        return x.permute([order.index(axis) for axis in letters])
