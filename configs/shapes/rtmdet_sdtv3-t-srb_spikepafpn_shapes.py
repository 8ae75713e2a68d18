# A fully spiking RTMDet on the rendered shapes; its neck has half of RTMDet-tiny's widths, at half of its strides.
_base_ = './mask-rcnn_sdtv3-t-srb_fpn_shapes.py'
model = dict(
    _delete_=True,
    type='RTMDet',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32),
    backbone=dict(
        type='sterf_plugins.DropInBackbone',
        model_name='sdtv3_tiny_srb',
        arch=dict(embed_dims=[16, 32, 48, 64], num_heads=8),
        levels=[dict(channels=48, stride=4), dict(channels=96, stride=8), dict(channels=192, stride=16)]),
    neck=dict(
        type='sterf_plugins.SpikeCSPNeXtPAFPN',
        in_channels=[48, 96, 192],
        out_channels=64,
        num_csp_blocks=1,
        norm_cfg=dict(type='BN')),
    bbox_head=dict(
        type='sterf_plugins.SpikeRTMDetSepBNHead',
        num_classes=5,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[4, 8, 16]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        with_objectness=False,
        norm_cfg=dict(type='BN')),
    train_cfg=dict(
        assigner=dict(type='DynamicSoftLabelAssigner', topk=13), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.001, nms=dict(type='nms', iou_threshold=0.65), max_per_img=100))
max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=6)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=max_epochs, eta_min=2e-5, convert_to_iter_based=True)
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
