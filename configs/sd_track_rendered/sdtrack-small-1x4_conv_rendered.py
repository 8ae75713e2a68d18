# A small tracker on the sequences of tools/dataset_tools/make_tracking.py, sized for two CPU cores and trained from random weights.
_base_ = ['../_base_/tracking/sd_track.py']
data_root = 'data/tracking/fe108'
sizes = dict(template_size=64, search_size=128)
iterations = 500
model = dict(
    variant='1x4',
    arch=dict(embed_dims=[16, 32, 64, 96], num_heads=4, depths=[1, 1, 1, 2, 1]),
    head_width=64,
    # As published, a norm trains with other statistics than it tests with, and boxes are too large (docs/tracking.md).
    joint_norm=True)
train_dataloader = dict(
    batch_size=12, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, T=1, **sizes))
test_dataloader = dict(dataset=dict(data_root=data_root, T=1, **sizes))
train_cfg = dict(max_iters=iterations)
# Nothing starts from ImageNet weights here, so that all parameters have the same, larger learning rate.
optim_wrapper = dict(optimizer=dict(lr=2e-3), paramwise_cfg=dict(_delete_=True), clip_grad=dict(max_norm=1))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=25),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=25, end=iterations, eta_min=2e-5)
]
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(interval=100))
