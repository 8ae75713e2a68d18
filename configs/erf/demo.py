# The four detectors that `make demo` trains alike (100 iterations of 4 images), each beside itself with random weights, on
# validation images. Run it in the folder that holds work_dirs/demo.
_NAMES = {
    "3×3 convolutions": ("conv", "conv"),
    "MLPixer": ("mlpixer", "mlpixer"),
    "SRB": ("srb", "srb"),
    "SRB raster": ("srb-raster", "srb"),
}

study = dict(
    models=[
        [
            f"{label}=work_dirs/demo/fields_{folder}/mask-rcnn_sdtv3-t-{mixer}_fpn_shapes.py",
            f"work_dirs/demo/fields_{folder}/epoch_1.pth",
        ]
        for label, (folder, mixer) in _NAMES.items()
    ],
    untrained=True,
    images="val",
    layers=["backbone.stages.*"],
    input_size=(128, 128),
    num=32,
    title="The demo's detectors, trained and with random weights",
)
