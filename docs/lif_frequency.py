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
from matplotlib.figure import Figure

from sterf_plugins.erf import compute_erf, temporal_response
from sterf_plugins.erf.charts import draw_response
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
    figure = Figure(figsize=(7.8, 3.3), layout="constrained")
    gains, phases = figure.subplots(1, 2)
    for i, tau in enumerate(TAUS):
        generator = torch.Generator().manual_seed(i)
        model = Neurons(tau)
        inputs = torch.randn(STEPS, INPUTS, 1, SIDE, SIDE, generator=generator)
        result = compute_erf(model, inputs, "neurons.0", reduce="signed", kinds="temporal")
        response = temporal_response(result, "neurons.0")
        draw_response(gains, phases, response, f"τ = {tau:g}", "cycles/step", i)
        real, error = measured(model, generator)
        leak = 1 / (2 * np.pi) * np.arccos(max(-1.0, 1 - (1 / tau) ** 2 / (2 * (1 - 1 / tau))))
        print(f"tau {tau:g}: cutoff {response.cutoff.value:.4f} ± {response.cutoff.error:.1g}, leak alone {leak:.4f}")
        at = np.interp(FREQUENCIES, response.frequencies, response.gain) / SIDE**2
        print(
            f"   spikes: gain {np.round(np.abs(real), 3)} ± {error.max():.1g}, relative {np.round(np.abs(real / real[0]), 2)}"
        )
        print(f"   gradient: gain {np.round(at, 3)}, relative {np.round(at / at[0], 2)}")
        a = 1 - 1 / tau
        f = response.frequencies[1:]
        leak_alone = (1 - a) / (1 - a * np.exp(-2j * np.pi * f))
        gains.plot(f, np.abs(leak_alone), color=f"C{i}", ls=":", lw=1)
        phases.plot(f, np.angle(leak_alone), color=f"C{i}", ls=":", lw=1)
        marks = dict(color=f"C{i}", marker="x", ls="none", capsize=2, lw=0.8)
        gains.errorbar(FREQUENCIES, np.abs(real / real[0]), error / np.abs(real[0]), **marks)
        phases.errorbar(FREQUENCIES, np.unwrap(np.angle(real)), error / np.abs(real), **marks)
    for ax, name in ((gains, "gain / its maximum"), (phases, "phase [rad]")):
        ax.set_xlabel("frequency [cycles/step]", fontsize=8)
        ax.set_ylabel(name, fontsize=8)
        ax.tick_params(labelsize=7, which="both")
        ax.legend(fontsize=6)
    figure.savefig(Path(__file__).parent / "images" / "erf_frequency_lif.png", dpi=120)


if __name__ == "__main__":
    main()
