# Temporal and spatial fields of LIF neurons with four surrogate gradients.
cnn = "sterf_plugins.backbones:SpikingCNN"
common = "depth=3, channels=8, mean=0.0, std=0.5, neuron='lif', tau=2.0"
study = dict(
    models=[
        f"ATan={cnn}({common}, surrogate='ATan', alpha=2.0)",
        f"Sigmoid={cnn}({common}, surrogate='Sigmoid', alpha=4.0)",
        f"Rectangle={cnn}({common}, surrogate='Rect', alpha=1.0)",
        f"Triangle={cnn}({common}, surrogate='PiecewiseQuadratic', alpha=1.0)",
    ],
    layers=["layers.*"],
    input_size=(17, 17),
    num=50,
    temporal=True,
    time_steps=16,
    title="Fields of LIF neurons with four surrogate gradients",
)
