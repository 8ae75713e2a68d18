# RetinaNet on four time steps of LIF neurons; width and depth are for two CPU cores.
_base_ = [
    '../_base_/datasets/event_shapes.py',
    '../_base_/schedules/adamw_event_shapes.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='sterf_plugins.EventDataPreprocessor', time_steps=4, pad_size_divisor=32),
    backbone=dict(
        type='sterf_plugins.TIMMBackbone',
        model_name='qkformer_10_384',
        in_channels=2,
        depth=4,
        dim=128,
        num_heads=4,
        out_indices=(0, 1, 2),
    ),
    neck=dict(type='FPN', in_channels=[32, 64, 128], out_channels=64, num_outs=3, norm_cfg=dict(type='BN')),
    bbox_head=dict(
        type='RetinaHead',
        num_classes=3,
        in_channels=64,
        stacked_convs=2,
        feat_channels=64,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[1.0],
            strides=[4, 8, 16],
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
    ),
    test_cfg=dict(
        nms_pre=200, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20
    ),
)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=1, max_keep_ckpts=2),
    visualization=dict(type='sterf_plugins.EventVisualizationHook'),
)
