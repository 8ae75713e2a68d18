# The published tracker with four time steps of LIF neurons, which is the conv row of arXiv:2510.21403.
_base_ = ['../_base_/tracking/sd_track.py']
train_dataloader = dict(dataset=dict(type='sterf_plugins.VisEventDataset', data_root='data/VisEvent', samples=3_000_000))
test_dataloader = dict(dataset=dict(type='sterf_plugins.VisEventDataset', data_root='data/VisEvent'))
train_cfg = dict(max_iters=93_700)
param_scheduler = dict(milestones=[74_960])
default_hooks = dict(checkpoint=dict(interval=4_685))
