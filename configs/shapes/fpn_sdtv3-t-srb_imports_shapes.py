# Semantic FPN on the rendered shapes, as fpn_sdtv3-t-srb_shapes.py, in mmengine's Python-import style: types are classes,
# to which an editor can jump, and base files are imported. Bases may name their types, as long as they have no _base_.
from mmengine.config import read_base

with read_base():
    from .._base_.datasets.shapes_semantic import *
    from .._base_.default_runtime_seg import *

from mmengine.hooks import CheckpointHook, DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.models import FPN, CrossEntropyLoss, DiceLoss, EncoderDecoder, FPNHead, SegDataPreProcessor
from torch.nn import BatchNorm2d
from torch.optim import AdamW

from sterf_plugins.openmmlab.backbones import SDTV3
from sterf_plugins.openmmlab.hooks import ERFHook

norm_cfg = dict(type=BatchNorm2d, requires_grad=True)
model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(
        type=SegDataPreProcessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(128, 128)),
    backbone=dict(
        type=SDTV3, arch=dict(embed_dims=[16, 32, 48, 64], num_heads=8), mixer='srb', out_indices=(1, 2, 3, 4)),
    neck=dict(type=FPN, in_channels=[16, 32, 48, 64], out_channels=64, num_outs=4, norm_cfg=norm_cfg),
    decode_head=dict(
        type=FPNHead,
        in_channels=[64, 64, 64, 64],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 16],
        channels=64,
        num_classes=6,
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=[dict(type=CrossEntropyLoss, loss_weight=1.0), dict(type=DiceLoss, loss_weight=1.0, ignore_index=255)]),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))

max_iters = 700
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=3e-3, weight_decay=0.05))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=20),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=20, end=max_iters, eta_min=2e-5)
]
train_dataloader.update(batch_size=8)
train_cfg = dict(type=IterBasedTrainLoop, max_iters=max_iters, val_interval=100)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=20, log_metric_by_epoch=False),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=100, max_keep_ckpts=2),
    sampler_seed=dict(type=DistSamplerSeedHook),
    visualization=dict(type=SegVisualizationHook),
    erf=dict(type=ERFHook, input_size=128, num_samples=8, at_start=True))
randomness = dict(seed=0)
