# Follow shapes in event videos, as in the covariant paper's experiment; events48.py and events300.py add the sizes.
default_scope = 'mmengine'
model = dict(
    type='sterf_plugins.ShapeTrackingModel',
    tracker=dict(
        in_ch=2,
        unit='li',
        init='rf',
        norm=True))  # events are sparse; without it LIF neurons stay silent and all learn more slowly
train_dataloader = dict(
    batch_size=8,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='sterf_plugins.ShapeEvents', train=True, pose_delay=1))
val_dataloader = dict(
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='sterf_plugins.ShapeEvents', train=False, pose_delay=1))
test_dataloader = val_dataloader
val_evaluator = dict(type='sterf_plugins.PositionError')
test_evaluator = val_evaluator
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=5e-3, weight_decay=1e-6))
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='CheckpointHook', max_keep_ckpts=1, save_best='position_error', rule='less'),
    tracks=dict(type='sterf_plugins.TrackPictureHook'))
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
randomness = dict(seed=0)
