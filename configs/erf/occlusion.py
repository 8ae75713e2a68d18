# Do receptive fields show what a network does? Fields beside the changes that occluded patches make; random weights,
# calibrated statistics.
study = dict(
    models=[
        "ResNet-18=resnet18(zero_init_last=False)",
        "SDT-V3 conv=sdtv3_tiny",
        "MLPixer, raster=sdtv3_tiny_mlpixer_raster",
        "MLPixer, channel=sdtv3_tiny_mlpixer",
        "SRB, raster=sdtv3_tiny_srb_raster",
        "SRB, channel=sdtv3_tiny_srb",
        "SRB, released=sdtv3_tiny_srb_released",
        "Spikformer-2-256=sterf_plugins.backbones:Spikformer(depth=2, dim=256, num_heads=8)",
    ],
    layers=["layer?", "stages.*"],
    input_size=(96, 96),
    num=16,
    batch_size=8,
    check=["occlusion"],
    check_cells=8,
    title="Fields and measured changes",
)
