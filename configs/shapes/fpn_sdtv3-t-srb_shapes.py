# Semantic FPN on the rendered shapes, sized for two CPU cores.
_base_ = [
    '../_base_/models/fpn_sdtv3-t.py', '../_base_/datasets/shapes_semantic.py', '../_base_/default_runtime_seg.py'
]
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        _delete_=True,
        type='sterf_plugins.SDTV3',
        arch=dict(embed_dims=[16, 32, 48, 64], num_heads=8),
        mixer='srb',
        out_indices=(1, 2, 3, 4)),
    neck=dict(in_channels=[16, 32, 48, 64], out_channels=64, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=[64, 64, 64, 64],
        channels=64,
        num_classes=6,
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        # Nine tenths of the pixels are background; the Dice loss weighs classes alike.
        loss_decode=[
            dict(type='CrossEntropyLoss', loss_weight=1.0),
            dict(type='DiceLoss', loss_weight=1.0, ignore_index=255)
        ]))

max_iters = 700
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=20, end=max_iters, eta_min=2e-5)
]
train_dataloader = dict(batch_size=8)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=100)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=100, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
    erf=dict(type='sterf_plugins.ERFHook', input_size=128, num_samples=8, at_start=True))
randomness = dict(seed=0)
