# RTMDet-tiny on four time steps of LIF neurons, behind adapters that give CSPNeXt's levels.
_base_ = [
    '../_base_/datasets/event_shapes.py',
    '../_base_/schedules/adamw_event_shapes.py',
    'mmdet::_base_/default_runtime.py',
]
norm_cfg = dict(type='BN')
act_cfg = dict(type='SiLU', inplace=True)
model = dict(
    type='RTMDet',
    data_preprocessor=dict(type='sterf_plugins.EventDataPreprocessor', time_steps=4, pad_size_divisor=32),
    backbone=dict(
        type='sterf_plugins.DropInBackbone',
        model_name='qkformer_10_384',
        in_channels=2,
        depth=4,
        dim=128,
        num_heads=4,
        levels=[dict(channels=96, stride=8), dict(channels=192, stride=16), dict(channels=384, stride=32)],
    ),
    neck=dict(
        type='CSPNeXtPAFPN',
        in_channels=[96, 192, 384],
        out_channels=96,
        num_csp_blocks=1,
        expand_ratio=0.5,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    ),
    bbox_head=dict(
        type='RTMDetSepBNHead',
        num_classes=3,
        in_channels=96,
        stacked_convs=2,
        feat_channels=96,
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        with_objectness=False,
        exp_on_reg=False,
        share_conv=True,
        pred_kernel_size=1,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    ),
    train_cfg=dict(assigner=dict(type='DynamicSoftLabelAssigner', topk=13), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(
        nms_pre=200, min_bbox_size=0, score_thr=0.001, nms=dict(type='nms', iou_threshold=0.65), max_per_img=20
    ),
)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=1, max_keep_ckpts=2),
    visualization=dict(type='sterf_plugins.EventVisualizationHook'),
)
