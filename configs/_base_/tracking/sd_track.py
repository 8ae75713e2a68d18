# SDTrack as published (arXiv:2503.08703), for 4 GPUs; batches and iterations are in the files of the variants.
default_scope = 'mmengine'
# `joint_norm=True` would train one norm with the statistics it tests with; published trackers have it not (docs/tracking.md).
model = dict(type='sterf_plugins.SDTrack', mixer='conv', variant='4x1')
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    # Each number is another pair, drawn at random, so the sampler counts on; nothing is seen twice.
    sampler=dict(type='InfiniteSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='sterf_plugins.FE108Dataset', data_root='data/FE108', split='train', T=4, samples=6_000_000))
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(type='sterf_plugins.FE108Dataset', data_root='data/FE108', split='test', T=4))
test_evaluator = dict(type='sterf_plugins.TrackingMetric')
test_cfg = dict(type='TestLoop')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=187_500)  # 100 epochs of 60,000 pairs, 32 at a time
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-4, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys={'network.backbone': dict(lr_mult=0.1)}),
    clip_grad=dict(max_norm=0.1))
param_scheduler = dict(type='MultiStepLR', by_epoch=False, milestones=[150_000], gamma=0.1)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=9_375, max_keep_ckpts=2))  # every 5 epochs
log_processor = dict(by_epoch=False)
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
randomness = dict(seed=42)
