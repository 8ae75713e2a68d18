# Follow a shape in event videos of 48x48 pixels: the covariant paper's experiment at a size for two CPU cores.
# Data, circles and squares of two sizes, one in each video (tools/covariant_tracking.py makes it):
#     python tools/dataset_tools/make_events.py data/events48 --single --shapes circle square --videos 126 --frames 33 \
#         --size 8 16 --velocity 0.2
default_scope = 'mmengine'
steps = 16  # of the warm-up and of the scored part
model = dict(
    type='sterf_plugins.ShapeTrackingModel',
    resolution=(48, 48),
    tracker=dict(
        in_ch=2,
        classes=1,
        unit='li',
        init='rf',
        norm=True,  # events are sparse; without it LIF neurons stay silent and all learn more slowly
        # 30 fields: 2 sizes x (round + 4 angles) x 3 orders, for a window of 9x9 on the halved image
        layers=[dict(out_ch=8, bank=dict(sigmas=(1.0, 1.5), ratios=(1.0, 2.0), n_angles=4, orders=1, kernel_size=9))],
        mus=(3.0, 9.0)))
dataset = dict(type='sterf_plugins.ShapeEvents', data_root='data/events48', t=steps, pose_delay=1, in_memory=True)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(train=True, **dataset))
val_dataloader = dict(
    batch_size=34,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(train=False, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(type='sterf_plugins.PositionError')
test_evaluator = val_evaluator

max_epochs = 20
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=5e-3, weight_decay=1e-6))
param_scheduler = dict(type='ExponentialLR', gamma=0.9, by_epoch=True)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='CheckpointHook', interval=10, max_keep_ckpts=1, save_best='position_error', rule='less'),
    tracks=dict(type='sterf_plugins.TrackPictureHook'))
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
randomness = dict(seed=0)
