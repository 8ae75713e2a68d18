"""Mends of mmdet's own faults that stop a stock config, for every program that has set up this package."""

from mmdet.models import SSDHead

# Every head that predicts asks its `loss_cls` whether the loss changes the scores, and SSDHead, which calculates its loss
# by itself, has no such attribute. `None` says that nothing changes them.
if not hasattr(SSDHead, "loss_cls"):
    SSDHead.loss_cls = None
