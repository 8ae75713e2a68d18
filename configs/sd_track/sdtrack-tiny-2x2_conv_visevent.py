# The published tracker with two time steps of 2 integer levels; 16 pairs for each of 4 GPUs.
_base_ = ['../_base_/tracking/sd_track.py']
model = dict(variant='2x2')
train_dataloader = dict(batch_size=16, dataset=dict(type='sterf_plugins.VisEventDataset', data_root='data/VisEvent', T=2, samples=3_000_000))
test_dataloader = dict(dataset=dict(type='sterf_plugins.VisEventDataset', data_root='data/VisEvent', T=2))
train_cfg = dict(max_iters=46_800)
param_scheduler = dict(milestones=[37_440])
default_hooks = dict(checkpoint=dict(interval=2_340))
