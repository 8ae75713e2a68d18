# Spatial fields of a small CNN with different activations.
cnn = "sterf_plugins.backbones:SpikingCNN"
common = "depth=5, channels=8, mean=0.0, std=0.4"
study = dict(
    models=[
        f"none={cnn}({common}, neuron='none')",
        f"ReLU={cnn}({common}, neuron='relu')",
        f"LIF={cnn}({common}, neuron='lif', T=4, surrogate='ATan')",
        f"I-LIF={cnn}({common}, neuron='integer')",
    ],
    layers=["layers.*"],
    input_size=(33, 33),
    num=50,
    title="A CNN of five 3x3 convolutions with four activations",
)
