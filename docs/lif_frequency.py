"""Frequency responses of LIF neurons: gradients beside real spikes, ``docs/images/erf_frequency_lif.png``.

    python docs/lif_frequency.py

Neurons get independent white noise. The response of the surrogate gradient (lines) is the Fourier transform of the signed
T-ERF, that of the leak without spikes (dotted) a closed form. The real one (crosses) is measured without gradients: a small
sine is added to the inputs of all neurons, and the mean spikes with the sine minus those with its opposite are compared with
it, at several frequencies.
"""

from pathlib import Path

import numpy as np
import torch
from matplotlib.lines import Line2D

from sterf_plugins.erf import compute_erf, temporal_response
from sterf_plugins.erf.figures.sheet import SMALL, TITLE, Sheet, styles, write
from sterf_plugins.erf.figures.wording import errors_told
from sterf_plugins.erf.report.charts import draw_response
from sterf_plugins.layers import lif_node

STEPS, SIDE, INPUTS = 128, 16, 10
DEPTH = 0.1  # amplitude of the sine; the noise has a standard deviation of 1
TAUS = (2.0, 4.0, 8.0, 16.0)
MEAN = 1.0  # of the input, in thresholds: what keeps the neurons firing
FREQUENCIES = np.array([1, 2, 4, 8, 16, 32]) / 128


class Neurons(torch.nn.Module):
    """One LIF neuron at each pixel, whose noise is as large as it takes for the same noise of the potential."""

    def __init__(self, tau: float):
        super().__init__()
        self.scale = (2 * tau - 1) ** 0.5  # a leaky integrator of white noise has 1 / (2 tau - 1) of its variance
        self.neurons = torch.nn.Sequential(lif_node(tau=tau))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.neurons(MEAN + 0.5 * self.scale * x)


@torch.no_grad()
def mean_spikes(model: Neurons, x: torch.Tensor) -> torch.Tensor:
    """Mean over neurons of the spikes at each step of each input, (T, N)."""
    return model(x).double().mean((2, 3, 4))


def measured(model: Neurons, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The complex response of real spikes at each frequency, and the standard error of its absolute value over inputs."""
    late = slice(STEPS // 2, STEPS)  # behind the beginning
    responses, errors = [], []
    for f in FREQUENCIES:
        wave = torch.exp(2j * torch.pi * f * torch.arange(STEPS))[:, None]
        noise = torch.randn(STEPS, INPUTS * 4, 1, SIDE, SIDE, generator=generator)
        total = torch.zeros(STEPS, INPUTS * 4, dtype=torch.complex128)
        for factor, part in ((1, wave.real), (1j, wave.imag)):
            change = DEPTH * part[:, :, None, None, None]
            answers = [mean_spikes(model, noise + sign * change) for sign in (1, -1)]
            total += factor * (answers[0] - answers[1])
        each = (total[late] * wave[late].conj()).mean(0).numpy() / (2 * DEPTH)  # of each input
        mean = each.mean()
        responses.append(mean)
        errors.append((each * np.conj(mean) / abs(mean)).real.std(ddof=1) / len(each) ** 0.5)
    return np.array(responses), np.array(errors)


def main() -> None:
    runs = []  # of each time constant: the model, where its noise comes from, and its result
    for i, tau in enumerate(TAUS):
        model, generator = Neurons(tau), torch.Generator().manual_seed(i)
        inputs = torch.randn(STEPS, INPUTS, 1, SIDE, SIDE, generator=generator)
        runs.append((model, generator, compute_erf(model, inputs, "neurons.0", reduce="signed", kinds="temporal")))
    notes = [
        "Across: frequency in cycles per step. Gain: over its maximum, grey line: 1/√2, where the cutoff is. Bands and bars: ± "
        f"standard error. No weights: LIF neurons, {SIDE**2} for each input, with white noise. Lines: response of the mean of "
        f"∂y/∂x over {INPUTS} inputs of {STEPS} steps, last step, "
        f"{errors_told(result for *_, result in runs)}; crosses: spikes of {4 * INPUTS} inputs with a small sine."
    ]
    sheet = Sheet({"": 2}, notes, 0.75, 1, 2, bar=False, ticks=0.25, panel=4.0)
    gains, phases = sheet.panels[""]
    looks = list(styles(len(TAUS)))
    for tau, look, (model, generator, result) in zip(TAUS, looks, runs, strict=True):
        response = temporal_response(result, "neurons.0")
        draw_response(gains, phases, response, look)
        color = look["color"]
        real, error = measured(model, generator)
        leak = 1 / (2 * np.pi) * np.arccos(max(-1.0, 1 - (1 / tau) ** 2 / (2 * (1 - 1 / tau))))
        print(f"tau {tau:g}: cutoff {response.cutoff}, leak alone {leak:.4f}")
        at = np.interp(FREQUENCIES, response.frequencies, response.gain) / SIDE**2
        print(
            f"   spikes: gain {np.round(np.abs(real), 3)} ± {error.max():.1g}, relative {np.round(np.abs(real / real[0]), 2)}"
        )
        print(f"   gradient: gain {np.round(at, 3)}, relative {np.round(at / at[0], 2)}")
        a = 1 - 1 / tau
        f = response.frequencies[1:]
        leak_alone = (1 - a) / (1 - a * np.exp(-2j * np.pi * f))
        gains.plot(f, np.abs(leak_alone), color=color, ls=(0, (1, 1.2)), lw=1.3)
        phases.plot(f, np.angle(leak_alone), color=color, ls=(0, (1, 1.2)), lw=1.3)
        marks = dict(color=color, marker="x", ls="none", capsize=2, lw=0.8)
        gains.errorbar(FREQUENCIES, np.abs(real / real[0]), error / np.abs(real[0]), **marks)
        phases.errorbar(FREQUENCIES, np.unwrap(np.angle(real)), error / np.abs(real), **marks)
    gains.legend(fontsize=SMALL, title="cutoff [cycles/step]", title_fontsize=SMALL, loc="lower left")
    gains.set_ylim(0.1, 1.3)
    for ax, name in ((gains, "gain"), (phases, "phase [rad], negative where the output comes later")):
        ax.set_title(name, fontsize=TITLE)
        ax.grid(alpha=0.25, linewidth=0.5)
        ax.tick_params(labelsize=SMALL, length=2, pad=1.5, which="both")
    handles = [Line2D([], [], **look, label=f"τ = {tau:g}, gradient") for tau, look in zip(TAUS, looks, strict=True)]
    handles.append(Line2D([], [], color="black", ls=(0, (1, 1.2)), label="the leak alone, closed form"))
    handles.append(Line2D([], [], color="black", marker="x", ls="none", label="real spikes"))
    sheet.legend(handles)
    write(sheet.figure, Path(__file__).parent / "images" / "erf_frequency_lif.png")


if __name__ == "__main__":
    main()
