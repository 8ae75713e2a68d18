# The published tracker without time: 4 integer levels; 42 pairs for each of 4 GPUs.
_base_ = ['../_base_/tracking/sd_track.py']
model = dict(variant='1x4')
train_dataloader = dict(batch_size=42, dataset=dict(type='sterf_plugins.VisEventDataset', data_root='data/VisEvent', T=1, samples=3_000_000))
test_dataloader = dict(dataset=dict(type='sterf_plugins.VisEventDataset', data_root='data/VisEvent', T=1))
train_cfg = dict(max_iters=17_800)
param_scheduler = dict(milestones=[14_240])
default_hooks = dict(checkpoint=dict(interval=890))
