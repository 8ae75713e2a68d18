# Per-stage spatial fields of SDT-V3 with the three mixers, MLPixer and SRB in both layouts (arXiv:2510.21403, fig. of S-ERF).
# Random weights here; give checkpoints as (name, path) pairs to compare trained models.
study = dict(
    models=[
        "3x3 convolutions=sdtv3_tiny",
        "MLPixer, raster=sdtv3_tiny_mlpixer_raster",
        "MLPixer, channel=sdtv3_tiny_mlpixer",
        "SRB, raster=sdtv3_tiny_srb_raster",
        "SRB, channel=sdtv3_tiny_srb",
    ],
    layers=["stages.*"],
    input_size=(224, 224),
    num=16,
    title="SDT-V3 tiny, five channel mixers, random weights",
)
