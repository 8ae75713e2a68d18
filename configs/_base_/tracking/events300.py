# Follow three shapes in event videos of 300x300 pixels: the size of the covariant paper's experiment, for a GPU.
# Data (tools/covariant_tracking.py --size events300 makes it):
#     python tools/dataset_tools/make_events.py data/events300 --videos 500 --frames 128 --resolution 300 300 \
#         --size 10 20 40 80 --velocity 0.2
# Fields are in pixels and within what a grid represents (the paper's reach from 0.2 pixels to beyond their windows),
# so their number is 72 in the first layer, not 192.
default_scope = 'mmengine'
classes = ('circle', 'square', 'triangle')
steps = 40  # of the warm-up and of the scored part
orders = [(0, 0), (1, 0), (0, 1), (1, 1)]
model = dict(
    type='sterf_plugins.ShapeTrackingModel',
    resolution=(300, 300),
    tracker=dict(
        in_ch=2,
        classes=len(classes),
        unit='li',
        init='rf',
        layers=[
            dict(out_ch=72, bank=dict(sigmas=(1.0, 1.5), ratios=(1.0, 1.5, 2.25), orders=orders, kernel_size=9)),
            dict(out_ch=72, bank=dict(sigmas=(0.8, 1.1), ratios=(1.0, 1.5), orders=orders, kernel_size=7)),
            dict(out_ch=3, bank=dict(sigmas=(0.8, 1.0), ratios=(1.0, 1.5), orders=orders, kernel_size=5)),
        ],
        mus=(5.477, 10.954, 21.909, 43.818),  # sqrt(30) (1, 2, 4, 8) frames
        share=False,
        norm=True,
        head='deconv',
        dropout=0.05))
dataset = dict(type='sterf_plugins.ShapeEvents', data_root='data/events300', t=steps, pose_delay=1)
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(train=True, **dataset))
val_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(train=False, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(type='sterf_plugins.PositionError', classes=classes)
test_evaluator = val_evaluator

max_epochs = 50
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=5e-3, weight_decay=1e-6))
param_scheduler = dict(type='ExponentialLR', gamma=0.95, by_epoch=True)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='CheckpointHook', interval=5, max_keep_ckpts=1, save_best='position_error', rule='less'),
    tracks=dict(type='sterf_plugins.TrackPictureHook'))
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
randomness = dict(seed=0)
