"""mmengine's MLflow backend with pictures.

mmengine hands the name of a picture, such as "erf" or "val_img", to MLflow as a file name, and MLflow refuses a file without a
suffix. Its default store, a folder, is refused by MLflow 3.
"""

from pathlib import Path

import numpy as np
from mmengine.visualization import MLflowVisBackend as Stock

from ...registry import VISBACKENDS


@VISBACKENDS.register_module()
class MLflowVisBackend(Stock):
    """``MLflowVisBackend`` that names pictures ``NAME_STEP.png``, as mmengine's local backend does.

    Args:
        save_dir: folder of the training's results.
        tracking_uri: where MLflow keeps its runs; by default the file ``mlflow.db`` in ``save_dir``, with the pictures beside it.
        artifact_location: folder or address for the pictures and files.
        **kwargs: the other arguments of mmengine's backend.
    """

    def __init__(self, save_dir: str, tracking_uri: str | None = None, artifact_location: str | None = None, **kwargs):
        folder = Path(save_dir or ".").resolve()
        if tracking_uri is None:
            tracking_uri, artifact_location = f"sqlite:///{folder}/mlflow.db", artifact_location or f"{folder}/mlflow"
        super().__init__(save_dir, tracking_uri=tracking_uri, artifact_location=artifact_location, **kwargs)

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs) -> None:
        """Log a picture (H, W, 3)."""
        super().add_image(f"{name}_{step}.png", image, step, **kwargs)
