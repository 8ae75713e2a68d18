# One LIF network, four surrogate gradients: its measured changes are the same, its fields are not. Each pixel is a patch.
cnn = "sterf_plugins.backbones:SpikingCNN"
common = "depth=4, channels=8, mean=0.0, std=0.6, neuron='lif', T=4"
study = dict(
    models=[
        f"ATan={cnn}({common}, surrogate='ATan', alpha=2.0)",
        f"Sigmoid={cnn}({common}, surrogate='Sigmoid', alpha=4.0)",
        f"Rectangle={cnn}({common}, surrogate='Rect', alpha=1.0)",
        f"Triangle={cnn}({common}, surrogate='PiecewiseQuadratic', alpha=1.0)",
    ],
    layers=["layers.*"],
    input_size=(17, 17),
    num=48,
    batch_size=48,
    check=["occlusion", "0.1"],
    check_cells=17,
    check_budget=289,
    title="Fields of four surrogate gradients and measured changes",
)
