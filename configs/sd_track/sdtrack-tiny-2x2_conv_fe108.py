# The published tracker with two time steps of 2 integer levels; 16 pairs for each of 4 GPUs.
_base_ = ['../_base_/tracking/sd_track.py']
model = dict(variant='2x2')
train_dataloader = dict(batch_size=16, dataset=dict(T=2))
test_dataloader = dict(dataset=dict(T=2))
train_cfg = dict(max_iters=93_700)
param_scheduler = dict(milestones=[74_960])
default_hooks = dict(checkpoint=dict(interval=4_685))
