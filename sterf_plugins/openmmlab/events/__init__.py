"""Detection on event recordings with stock mmdet: data set, loading, images with a time axis, and Prophesee's box filter."""

from ..data_preprocessor import EventDataPreprocessor
from .dataset import EventDetDataset
from .loading import LoadEvents
from .metric import EventCocoMetric
from .pictures import EventVisualizationHook

__all__ = ["EventCocoMetric", "EventDataPreprocessor", "EventDetDataset", "EventVisualizationHook", "LoadEvents"]
