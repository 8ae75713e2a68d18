# Temporal fields of a small spiking CNN with SpikingJelly's neurons: mass of the last step's gradient by lag.
cnn = "sterf_plugins.backbones:SpikingCNN"
common = "depth=3, channels=8, mean=0.0, std=0.5"
study = dict(
    models=[
        f"IF={cnn}({common}, neuron='if', surrogate='ATan')",
        f"LIF tau 1.5={cnn}({common}, neuron='lif', tau=1.5, surrogate='ATan')",
        f"LIF tau 2={cnn}({common}, neuron='lif', tau=2.0, surrogate='ATan')",
        f"LIF tau 4={cnn}({common}, neuron='lif', tau=4.0, surrogate='ATan')",
        f"LIF tau 8={cnn}({common}, neuron='lif', tau=8.0, surrogate='ATan')",
        f"PLIF={cnn}({common}, neuron='plif', surrogate='ATan')",
        f"Izhikevich={cnn}({common}, neuron='izhikevich', surrogate='ATan')",
        f"I-LIF={cnn}({common}, neuron='ilif')",
    ],
    layers=["layers.*"],
    input_size=(17, 17),
    num=50,
    temporal=True,
    time_steps=16,
    title="Temporal fields of eight neurons",
)
